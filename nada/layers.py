"""Which layers of a generator to train: scores by one gradient of a loss, and the k highest.

Layers go by their names in the state dict ("conv1", "convs.4", "to_rgbs.2"). Candidates are the
styled convolutions, and the RGB outputs if asked for. A selector only names layers and leaves the
generator as it found it; `freeze_all_but` acts on the names.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nada.compute import SynthesisOptions
from nada.generator import Generator
from nada.settings import Range, check, setting

Objective = Callable[[Tensor], Tensor]  # images [N, 3, H, W] → scalar, a mean over the batch

# What of a layer is trained: all its tensors; only the offsets that StyleDomain (ICCV 2023) adds
# to its style s = A(w), which are the bias of the affine A; or all, the offsets at their own rate.
PARAMETERS = ("weights", "styles", "both")
OFFSET = "conv.modulation.bias"  # [I], one number for each input channel

SHIFT_LR = 0.01  # of the one step on w+ that the paper takes; scales all scores alike
# a step's usual batch, so that selection needs no more memory
SELECTION_OPTIONS = SynthesisOptions(micro_batch=2)


def candidates(generator: Generator, to_rgb: bool = False, resolution: int = 0) -> tuple[str, ...]:
    """Names of the layers that may be trained: styled convolutions, then RGB outputs.

    Args:
        to_rgb: list the RGB outputs as well.
        resolution: side of the images up to which to list layers, 0 for all.
    """
    levels = generator.levels(resolution or None)
    convs, rgbs = generator.conv_names[: 2 * levels + 1], generator.to_rgb_names[: levels + 1]
    return (*convs, *(rgbs if to_rgb else ()))


def freeze_all_but(
    generator: Generator, names: Sequence[str], noise: bool = True, parameters: str = "weights"
) -> None:
    """Let exactly the parameters of the layers `names` have gradients.

    Args:
        noise: let the strength of their noise have them too.
        parameters: one of PARAMETERS; with "styles" the offsets alone.
    """
    generator.requires_grad_(False)
    for name in names:
        for key, parameter in generator.layer(name).named_parameters():
            wanted = key == OFFSET if parameters == "styles" else noise or key != "noise.weight"
            parameter.requires_grad_(wanted)


def row_of(generator: Generator) -> dict[str, int]:
    """The row of w+ that drives each layer: {"conv1": 0, "convs.0": 1, "to_rgb1": 1, ...}.

    A row drives one convolution, every second row an RGB output too, the last one only that
    (`Generator.synthesis`).
    """
    convs = {name: row for row, name in enumerate(generator.conv_names)}
    return convs | {name: 2 * i + 1 for i, name in enumerate(generator.to_rgb_names)}


# Scores


def gradient_norms(
    generator: Generator,
    z: Tensor,
    objective: Objective,
    names: Sequence[str] | None = None,
    weight_only: bool = False,
    options: SynthesisOptions = SELECTION_OPTIONS,
    parameters: str = "weights",
) -> dict[str, float]:
    """L2 norm of the objective's gradient for each layer, {name: norm}.

    Args:
        z: [N, z_dim]; stored noise, no truncation.
        objective: a mean over the batch, so that micro-batches add up to the whole.
        names: layers to score; the styled convolutions by default.
        weight_only: the modulated convolution's weight alone instead of all the layer's tensors
            (style, noise strength and bias as well).
        options: how to compute the images.
        parameters: one of PARAMETERS, as the layers are going to train; with "styles" the norm is
            that of the offsets' gradient, and none as large as the weights is held.
    """
    names = _candidates(generator, names, options)
    with _trainable(generator, names, parameters):
        groups = {name: _tensors(generator, name, weight_only) for name in names}
        tensors = [tensor for group in groups.values() for tensor in group]
        with torch.no_grad():
            ws = generator.mapping(z)
        sums = _gradients(generator, ws, objective, tensors, options)
    sizes = {id(t): grad.double().norm().item() for t, grad in zip(tensors, sums)}
    return {name: math.hypot(*(sizes[id(t)] for t in group)) for name, group in groups.items()}


def w_shifts(
    generator: Generator,
    z: Tensor,
    objective: Objective,
    options: SynthesisOptions = SELECTION_OPTIONS,
) -> list[float]:
    """How far each row of w+ moves in one SGD step of 0.01 for the objective, [num_ws] numbers.

    The mean absolute gradient times the rate (StyleGAN-NADA, section 3.3). Taken from the gradient
    itself: the difference of w+ before and after, about 1e-6, has few digits left in float32.
    Nothing else gets a gradient, which makes this cheaper than `gradient_norms`.

    Args:
        z, objective, options: as `gradient_norms` takes them.
    """
    with _trainable(generator, ()):
        with torch.no_grad():
            ws = generator.mapping(z)
        ws = ws.contiguous().requires_grad_(True)  # [N, num_ws, w_dim]; rows of their own
        (gradient,) = _gradients(generator, ws, objective, [ws], options)
    return (SHIFT_LR * gradient.abs().mean(dim=(0, 2))).tolist()


def _candidates(
    generator: Generator, names: Sequence[str] | None, options: SynthesisOptions
) -> Sequence[str]:
    """`names`, or the styled convolutions that the images of `options` pass."""
    if names is not None:
        return names
    return candidates(generator, resolution=options.resolution_for(generator))


def _gradients(
    generator: Generator,
    ws: Tensor,
    objective: Objective,
    inputs: Sequence[Tensor],
    options: SynthesisOptions,
) -> list[Tensor]:
    """Gradients of the mean objective, summed over micro-batches: the memory of one of them."""
    sums = [torch.zeros_like(tensor) for tensor in inputs]
    for (rows,) in options.micro_batches(ws):
        with torch.enable_grad():
            loss = objective(options.synthesize(generator, rows)) * (len(rows) / len(ws))
        _add(sums, torch.autograd.grad(loss, inputs, allow_unused=True))
    return sums


def _add(sums: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add in place; a function of its own, so that no gradient is held while the next micro-batch
    makes new ones: they are as large as the weights."""
    for total, gradient in zip(sums, gradients):
        if gradient is not None:
            total += gradient


def _tensors(generator: Generator, name: str, weight_only: bool) -> list[Tensor]:
    layer = generator.layer(name)
    if weight_only:
        return [layer.get_parameter("conv.weight")]
    return [parameter for parameter in layer.parameters() if parameter.requires_grad]


@contextmanager
def _trainable(
    generator: Generator, names: Sequence[str], parameters: str = "weights"
) -> Iterator[None]:
    """Only the layers `names` have gradients inside; afterwards all is as it was."""
    before = [(parameter, parameter.requires_grad) for parameter in generator.parameters()]
    freeze_all_but(generator, names, parameters=parameters)
    try:
        yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)


# Selectors


def select_by_gradient(
    generator: Generator,
    z: Tensor,
    objective: Objective,
    k: int,
    names: Sequence[str] | None = None,
    weight_only: bool = False,
    options: SynthesisOptions = SELECTION_OPTIONS,
    parameters: str = "weights",
) -> list[str]:
    """The k layers of largest gradient norm, largest first; k = 0 means all candidates.

    Let all candidates have gradients for a moment, compute the objective (the global CLIP loss)
    and its gradient once, compare norms.

    Args:
        z: [N, z_dim] latents to compute it for, 8 say.
        objective: images [N, 3, H, W] → scalar, a mean over the batch.
        k: number of layers.
        names: candidates; the styled convolutions by default.
        weight_only, parameters: see `gradient_norms`.
        options: how to compute the images; in micro-batches of two by default.

    Raises:
        ValueError: k is negative or more than there are candidates.
    """
    names = _candidates(generator, names, options)
    if _check_count(k, names) == 0:
        return list(names)
    norms = gradient_norms(generator, z, objective, names, weight_only, options, parameters)
    return _largest(norms, k)


def select_by_w_shift(
    generator: Generator,
    z: Tensor,
    objective: Objective,
    k: int,
    names: Sequence[str] | None = None,
    options: SynthesisOptions = SELECTION_OPTIONS,
) -> list[str]:
    """The k layers whose row of w+ moves most, most first; k = 0 means all candidates.

    The paper's rule (StyleGAN-NADA, section 3.3). A layer has the score of the row that drives it
    (`row_of`), so k counts layers here as well; of a convolution and an RGB output on the same
    row the convolution goes first.

    Args:
        z, objective, k, names, options: as `select_by_gradient` takes them.

    Raises:
        ValueError: k is negative or more than there are candidates.
    """
    names = _candidates(generator, names, options)
    if _check_count(k, names) == 0:
        return list(names)
    shifts, rows = w_shifts(generator, z, objective, options), row_of(generator)
    return _largest({name: shifts[rows[name]] for name in names}, k)


SELECTORS: dict[str, Callable[..., list[str]]] = {
    "gradient": select_by_gradient,
    "w_shift": select_by_w_shift,
}


@dataclass(frozen=True)
class SelectionConfig:
    """Which layers a run trains; ValueError names a bad setting."""

    method: str = setting(
        "gradient", "Selection method", "What ranks layers.", choices=SELECTORS, place=10
    )
    k: int = setting(
        0, "Layers k", "How many layers train; 0 trains them all.", range=Range(0, 26, 1), place=1
    )

    def __post_init__(self) -> None:
        check(self)


def select_layers_to_unfreeze(
    generator: Generator, z: Tensor, objective: Objective, k: int, **arguments: Any
) -> list[str]:
    """`select_by_gradient`, and then freeze everything but the chosen layers, in place.

    Args:
        arguments: as `select_by_gradient` takes them.
    """
    names = select_by_gradient(generator, z, objective, k, **arguments)
    freeze_all_but(generator, names)
    return names


def _check_count(k: int, names: Sequence[str]) -> int:
    if not 0 <= k <= len(names):
        raise ValueError(
            f"k is {k}, but there are {len(names)} layers to choose from: "
            f"use 1 to {len(names)}, or 0 for all of them."
        )
    return k


def _largest(scores: Mapping[str, float], k: int) -> list[str]:
    if not all(map(math.isfinite, scores.values())):
        raise FloatingPointError("The layers' scores are not numbers: lower the learning rate.")
    return sorted(scores, key=scores.__getitem__, reverse=True)[:k]
