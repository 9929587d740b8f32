"""The memory that a run will take, computed from shapes before it starts, and a plan that fits.

Most of it is what the backward pass keeps of the convolutions. `saved_bytes` lists that layer by
layer; a test holds it against what PyTorch keeps. `fit` then gives up first what costs only time
(images at once, checkpointing) and last what changes the result (the training resolution).
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor

import op
from nada.adapt import AdaptConfig, trained_tensors
from nada.clip import Encoder
from nada.compute import uses_bf16
from nada.generator import Generator, GeneratorConfig
from nada.machine import free_bytes
from nada.presets import Preset

LEAST_RESOLUTION = 256  # below it CLIP, which sees 224 pixels, would miss something
BACKWARD_BUFFERS = 6  # of the size of the largest layer: gradients and reordered copies
FRAGMENTATION = 1.6  # factor of the sum: freed blocks do not fit what is asked for next


@dataclass(frozen=True)
class Convolution:
    """Shapes of one styled convolution: channels in and out, sides in pixels before and after."""

    inputs: int
    outputs: int
    before: int
    after: int

    def saved(self, fused: bool, weights: bool = True) -> int:
        """Numbers kept for the backward pass of one image: the input, its product with the style
        and the result; without fused operations also the filter's input and the product with the
        demodulation. The product only where the weight is trained."""
        own = (1 + weights) * self.inputs * self.before**2 + self.outputs * self.after**2
        if fused:
            return own
        filtered = self.outputs * (self.after + 1) ** 2 if self.after > self.before else 0
        return own + self.outputs * self.after**2 + filtered


def convolutions(config: GeneratorConfig, resolution: int) -> list[list[Convolution]]:
    """The styled convolutions of each resolution from 4 to `resolution`."""
    first, *rest = config.channels
    levels, narrow, side = [[Convolution(first, first, 4, 4)]], first, 4
    for wide in rest:
        if side == resolution:
            break
        up = Convolution(narrow, wide, side, 2 * side)
        levels.append([up, Convolution(wide, wide, 2 * side, 2 * side)])
        narrow, side = wide, 2 * side
    return levels


def saved_bytes(
    config: GeneratorConfig,
    resolution: int,
    checkpointing: bool,
    fused: bool,
    width: int,
    weights: bool = True,
) -> int:
    """What the generator keeps for the backward pass of one image, all layers trained.

    Args:
        config: the generator's architecture.
        resolution, checkpointing: as `Generator.synthesis` takes them.
        fused: whether a compiled backend of `op` runs.
        width: bytes of a number in the convolutions, 4 or 2.
        weights: whether weights train, or only the offsets of styles.
    """
    levels = convolutions(config, resolution)

    def whole(level: list[Convolution]) -> int:
        kept = sum(conv.saved(fused, weights) for conv in level)
        if config.clamp is not None:  # a clamp keeps what it cuts off
            kept += sum(conv.outputs * conv.after**2 for conv in level)
        return kept

    last = levels[-1][-1]
    result = last.outputs * last.after**2  # what only the last to_rgb looks at
    if not checkpointing:
        return width * (sum(map(whole, levels)) + result)
    between = sum(level[0].inputs * level[0].before ** 2 for level in levels)
    return width * (between + max(map(whole, levels)) + result)


def clip_bytes(clip: Encoder) -> int:
    """What CLIP keeps for the backward pass of one image, measured on the meta device; 0 for an
    encoder that is no module, of which nobody knows."""
    if not isinstance(clip, torch.nn.Module):
        return 0
    model = _without_numbers(clip)
    side = clip.resolution
    weights = {_storage(tensor) for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def note(tensor):
        kept[_storage(tensor)] = tensor
        return tensor

    images = torch.empty(1, 3, side, side, device="meta", requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.enable_grad():
        model.encode_image(images)
    return _bytes(tensor for storage, tensor in kept.items() if storage not in weights)


def _storage(tensor: Tensor) -> int:
    """An identity of the memory behind a tensor, on the meta device too, where there is none."""
    return tensor.untyped_storage()._cdata


def _without_numbers(clip: torch.nn.Module) -> torch.nn.Module:
    """The same architecture on the meta device, where tensors have shapes only."""
    memo = {id(p): torch.nn.Parameter(p.to("meta"), False) for p in clip.parameters()}
    return copy.deepcopy(clip, memo).to("meta")


class TooLittleMemory(ValueError):
    """No plan fits; the message says what is needed and what to do."""


def estimate(
    generator: Generator, clips: Sequence[Encoder], config: AdaptConfig, views: int = 0
) -> int:
    """Bytes that `adapt` takes beside the loaded models, at its peak.

    Args:
        generator: the base; it says on which device the run is.
        clips: the models of the loss.
        config: the settings of the run.
        views: augmented copies of each image (`nada.guidance.build_loss`), 0 for the image itself.
    """
    return _estimate(generator, clips, config, _seen(clips, views))


def _seen(clips: Sequence[Encoder], views: int) -> int:
    """What the CLIP models keep of one image."""
    return sum(map(clip_bytes, clips)) * max(1, views)


def _estimate(
    generator: Generator, clips: Sequence[Encoder], config: AdaptConfig, seen: int
) -> int:
    options, device = config.synthesis_options(generator), generator.mean_latent.device
    fused = op.describe(device)["runs"] != "reference"
    width = 2 if uses_bf16(config.precision, device) else 4
    at_once = min(config.micro_batch or config.batch, config.batch)
    last = convolutions(generator.config, options.resolution)[-1][-1]
    largest = width * last.outputs * last.after**2
    weights = config.parameters != "styles"
    kept = saved_bytes(
        generator.config, options.resolution, options.checkpointing, fused, width, weights
    )
    images = 4 * 4 * 3 * options.resolution**2  # of both twins, their noise, a gradient
    pool = config.latent_pool * 4 * 3 * max(clip.resolution for clip in clips) ** 2
    activations = at_once * (kept + BACKWARD_BUFFERS * largest) + config.batch * (
        images + seen + pool
    )
    return ceil(FRAGMENTATION * (weights_bytes(generator, config) + activations))


def weights_bytes(generator: Generator, config: AdaptConfig) -> int:
    """Bytes of what the trainable twin has of its own (`trainable_copy`): each tensor that trains,
    its gradient, Adam's two moments and the last good state."""
    return 5 * _bytes(trained_tensors(generator, config))


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


# Plans


def plans(generator: Generator, config: AdaptConfig) -> Iterator[AdaptConfig]:
    """Settings of less and less memory: first slower ones, then ones that leave the finest layers
    as they are.

    Args:
        generator: the base.
        config: the settings that were asked for, which come first.
    """
    side = config.synthesis_options(generator).resolution
    while True:
        at_once = min(config.micro_batch or config.batch, config.batch)
        yield replace(config, resolution=side)
        while at_once > 1:
            at_once = ceil(at_once / 2)
            yield replace(config, resolution=side, micro_batch=at_once)
        yield replace(config, resolution=side, micro_batch=1, checkpointing=True)
        if side <= LEAST_RESOLUTION:
            return
        side //= 2


def fit(
    generator: Generator,
    clips: Sequence[Encoder],
    config: AdaptConfig,
    views: int = 0,
    free: int | None = None,
) -> AdaptConfig:
    """The settings, changed as little as makes the run fit into the memory that is free.

    Args:
        generator, clips, config, views: as `estimate` takes them.
        free: bytes; by default what the generator's device has now (`free_bytes`).

    Raises:
        TooLittleMemory: no plan fits.
    """
    free = free_bytes(generator.mean_latent.device) if free is None else free
    if free is None:
        return config
    needs, seen = [], _seen(clips, views)
    for plan in plans(generator, config):
        needs.append(_estimate(generator, clips, plan, seen))
        if needs[-1] <= free:
            return config if len(needs) == 1 else plan
    raise TooLittleMemory(
        f"Training needs {_gb(min(needs))} of memory at the least and {_gb(free)} are free: "
        "close other programs, or choose a smaller generator or CLIP."
    )


def fit_preset(
    generator: Generator, clips: Sequence[Encoder], preset: Preset, free: int | None = None
) -> tuple[Preset, str]:
    """A preset that fits into memory, and what was changed in a sentence, "" for nothing.

    Args:
        generator, clips, free: as `fit` takes them.
        preset: the settings that were asked for.

    Raises:
        TooLittleMemory: no plan fits.
    """
    plan = fit(generator, clips, preset.config, preset.guidance.views, free)
    return replace(preset, config=plan), changes(preset.config, plan, generator)


def changes(asked: AdaptConfig, plan: AdaptConfig, generator: Generator) -> str:
    """What a plan does other than was asked, in a sentence; "" for nothing."""
    if plan == asked:
        return ""
    parts = []
    if plan.micro_batch != asked.micro_batch:
        parts.append(f"{plan.micro_batch} of {plan.batch} pictures at once")
    if plan.checkpointing and not asked.checkpointing:
        parts.append("parts of each step computed twice")
    if plan.resolution < asked.synthesis_options(generator).resolution:
        parts.append(f"trained at {plan.resolution} pixels, the finest layers left as they are")
    return f"To fit into memory: {'; '.join(parts)}."


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
