"""The training loop: two twins, one loss, a few layers, yielding after every step.

`adapt` is a Python generator of `Progress`, so that a front end prints, draws or stops as it likes.
Method: StyleGAN-NADA, arXiv 2108.00946, section 3.2 and 3.3.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from nada.augment import TermsLoss
from nada.clip import resize
from nada.compute import PRECISIONS, SynthesisOptions, clip_in
from nada.generator import Generator, with_tensors
from nada.layers import OFFSET, PARAMETERS, candidates, freeze_all_but
from nada.metrics import CollapseAlarm
from nada.sample import ImageError, sample
from nada.settings import Range, check, setting

Loss = Callable[[Tensor, Tensor], Tensor]  # (source images, adapted images) → scalar
Select = Callable[..., Sequence[str]]  # (generator, z, names=candidates) → names of layers


class DivergedError(RuntimeError):
    """The numbers left the range of floats, or of images; the last good weights are kept.

    Args:
        step: of the run, from 0.
        reason: what is not a number any more, a sentence.
        lr: the learning rate of the step.
    """

    def __init__(self, step: int, reason: str, lr: float):
        super().__init__(step, reason, lr)
        self.step, self.reason, self.lr = step, reason, lr

    def __str__(self) -> str:
        return (
            f"The run stopped in step {self.step + 1}: {self.reason} The generator keeps the "
            f"weights of the last sound step. Lower the learning rate, now {self.lr:g}."
        )


@dataclass(frozen=True)
class AdaptConfig:
    """Settings of a run; the defaults are the original's for FFHQ. ValueError names a bad one.

    What the previews show is the front end's: `preview_every`, `preview_seeds` and `preview_psi`.
    """

    steps: int = setting(
        150, "Steps", "More steps move further from the source.",
        range=Range(1, 100_000), place=0, served=Range(1, 2000, 1),
    )  # fmt: skip
    batch: int = setting(
        2, "Batch", "Pictures in a step.", range=Range(1, 256), place=4, served=Range(1, 16, 1)
    )
    lr: float = setting(
        0.0016, "Learning rate", "Of Adam, at the start.",
        range=Range(0, 10), place=5, served=Range(1e-5, 0.2, 1e-5),
    )  # fmt: skip
    final_lr: float | None = setting(
        None, "Final learning rate", "Of Adam at the last step, reached along half a cosine.",
        range=Range(0, 10),
    )  # fmt: skip
    parameters: str = setting(
        "weights", "What trains", "Of the chosen layers: weights, all of them; styles, one offset "
        "for each channel, a file of kilobytes; or both.",
        choices=PARAMETERS, place=12,
    )  # fmt: skip
    style_lr: float = setting(
        0.05, "Rate of styles", "Of Adam for the offsets of styles; changes of shape want more.",
        range=Range(0, 10), place=13, served=Range(1e-3, 1.0, 1e-3),
    )  # fmt: skip
    # beta1 = 0 lets no layer coast on steps of an earlier selection
    beta1: float = setting(
        0.0, "Beta 1", "Adam's momentum; 0 stops a layer at once that is frozen again.",
        range=Range(0, 0.9999),
    )  # fmt: skip
    beta2: float = setting(
        0.99 ** (4 / 5), "Beta 2", "Adam's memory of squared gradients.", range=Range(0, 0.999999)
    )
    truncation_psi: float = setting(
        1.0, "Truncation", "Variety of the pictures trained on.",
        range=Range(-2, 2), api_name="truncation", place=9, served=Range(0.0, 1.5, 0.05),
    )  # fmt: skip
    mixing: float = setting(
        0.0, "Style mixing", "Chance that a step's latents change to others part of the way up.",
        range=Range(0, 1),
    )  # fmt: skip
    # on a CPU to the bit; a GPU adds the gradient's parts up in no fixed order
    seed: int = setting(
        0, "Seed", "Same seed and settings, same result.",
        range=Range(0, 2**63 - 1), place=3, served=Range(0, 2**32 - 1, 1),
    )  # fmt: skip
    select_every: int = setting(
        0, "Select every n steps", "0 selects once, at the start.",
        range=Range(0, 100_000), place=2, served=Range(0, 2000, 1),
    )  # fmt: skip
    select_batch: int = setting(
        8, "Selection batch", "Latents of each selection of layers.", range=Range(1, 256)
    )
    train_to_rgb: bool = setting(
        False, "RGB layers", "Let the RGB outputs train as well, beside the k.",
        api_name="to_rgb", place=11,
    )  # fmt: skip
    # a base without noise, such as the bundled one, would only learn grain
    train_noise: bool = setting(
        True, "Train noise", "Let the strengths of the noise train with their layers."
    )
    preview_every: int = setting(
        0, "Preview every n steps", "0 for none; there is one after the first step as well.",
        range=Range(0, 100_000),
    )  # fmt: skip
    preview_seeds: tuple[int, ...] = (0, 1, 2, 3)
    preview_psi: float = setting(
        0.7, "Truncation of previews", "As of samples.", range=Range(-2, 2)
    )
    precision: str = setting(
        "fp32", "Precision", "Of convolutions: bf16 is faster with gradients a few per cent off, "
        "auto takes it where the hardware has it.", choices=PRECISIONS,
    )  # fmt: skip
    resolution: int = setting(
        0, "Training resolution", "Side of the images trained on; finer layers stay as they are. "
        "0 for the generator's.", choices=(0, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    )  # fmt: skip
    micro_batch: int = setting(
        0, "Micro-batch", "Images at once, 0 for all; the same sums in less memory.",
        range=Range(0, 256),
    )  # fmt: skip
    checkpointing: bool = setting(
        False, "Checkpointing", "Compute part of the forward pass twice instead of keeping it."
    )
    latent_pool: int = setting(
        0, "Latent pool", "Batches of latents that come round again, so that the frozen twin draws "
        "each once; 0 for new ones in each step.", range=Range(0, 10_000),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)

    def synthesis_options(self, generator: Generator) -> SynthesisOptions:
        """Options of synthesis in a step."""
        options = SynthesisOptions(
            self.micro_batch, self.precision, self.resolution, self.checkpointing
        )
        return replace(options, resolution=options.resolution_for(generator))

    def layers(self, generator: Generator, to_rgb: bool | None = None) -> tuple[str, ...]:
        """Names of the layers that may be trained at the training resolution.

        Args:
            generator: whose layers.
            to_rgb: whether RGB outputs are among them; by default as `train_to_rgb` says.
        """
        to_rgb = self.train_to_rgb if to_rgb is None else to_rgb
        return candidates(generator, to_rgb, self.synthesis_options(generator).resolution)

    def chosen_among(self, generator: Generator) -> tuple[str, ...]:
        """Names of the layers that a selection is made among.

        The RGB outputs are none of them: those train beside the selected convolutions, or not at
        all. As candidates they take most places, for the norm of their gradient is of another
        order, and leave the shapes as they are (REPORT.md).
        """
        return self.layers(generator, to_rgb=False)

    def final_rate(self, lr: float) -> float | None:
        """Where a run that begins at rate lr ends if it falls as far as this one; None: nowhere."""
        return self.final_lr and lr * self.final_lr / self.lr

    def rates_at(self, step: int) -> tuple[float, float]:
        """Adam's rates of weights and of style offsets in step 0 … steps − 1; both fall alike."""
        lr = self.lr_at(step)
        return lr, self.style_lr * (lr / self.lr if self.lr else 1.0)

    def lr_at(self, step: int) -> float:
        """Adam's rate for step 0 … steps − 1: half a cosine from lr to final_lr."""
        if self.final_lr is None:
            return self.lr
        done = step / max(1, self.steps - 1)
        return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Progress:
    """One step of a run.

    Attributes:
        step: steps done, from 1.
        steps: of how many.
        loss: the total, before this step's update.
        terms: its parts by name, unweighted.
        layers: what was trained in this step.
        lr: Adam's rate, of the style offsets where only they train.
        seconds: since the start.
        eta: seconds still to go.
        collapsing: whether people become alike beyond what the way gone explains
            (`nada.metrics.CollapseAlarm`).
        preview: adapted images [N, 3, H, W] in [-1, 1] of the preview seeds, None at most steps.
    """

    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    layers: tuple[str, ...]
    lr: float
    seconds: float
    eta: float
    collapsing: bool = False
    preview: Tensor | None = field(default=None, repr=False)

    @property
    def way(self) -> float | None:
        """How far the images have gone of what the words ask, the mean over the CLIP models; None
        where none of them knows (`nada.clip.reach_of`)."""
        return _way(self.terms)

    def __str__(self) -> str:
        return (
            f"step {self.step}/{self.steps}  loss {self.loss:.4f}  "
            f"{self.seconds:.1f} s, {self.eta:.1f} s to go"
        )


def _way(terms: Mapping[str, float]) -> float | None:
    ways = [value for name, value in terms.items() if name.split()[0] == "way"]
    return sum(ways) / len(ways) if ways else None


def adapt(
    frozen: Generator,
    trainable: Generator,
    loss_fn: Loss,
    config: AdaptConfig,
    select: Select | None = None,
) -> Iterator[Progress]:
    """Train `trainable` in place; yields after every step.

    The mapping network, the constant and the stored noise are never trained. However the run
    ends, by itself, by `close()` at any yield or by an error, `trainable` has whole steps behind
    it, no gradients, and is ready to use.

    Args:
        frozen: left as it is.
        trainable: a deep copy of it.
        loss_fn: (source images, adapted images) → scalar, such as from `build_loss`, whose `terms`
            are reported and whose random views follow the seed.
        config: settings of the loop.
        select: (generator, z, names=candidates) → names of layers to train, such as
            `partial(select_by_gradient, objective=GlobalLoss(clip, target), k=6)`, beside those
            that are not selected among (`AdaptConfig.chosen_among`); None trains all.

    Raises:
        DivergedError: the loss or a gradient is not a number any more, or a preview no image.
    """
    _check_twins(frozen, trainable)
    start = time.monotonic()
    random = torch.Generator().manual_seed(config.seed)
    if hasattr(loss_fn, "seed"):
        loss_fn.seed(config.seed)
    options = config.synthesis_options(frozen)
    source = FrozenTwin(frozen, config, options, getattr(loss_fn, "resolution", None), random)
    layers, alarm = config.layers(trainable), CollapseAlarm()
    try:
        freeze_all_but(trainable, layers, config.train_noise, config.parameters)
        trained = [parameter for parameter in trainable.parameters() if parameter.requires_grad]
        last_good = [parameter.detach().clone() for parameter in trained]
        optimizer = _adam(trainable, config)
        for step in range(config.steps):
            if select and step % (config.select_every or config.steps) == 0:
                layers = _selected(select, trainable, config, random)
                freeze_all_but(trainable, layers, config.train_noise, config.parameters)
            lr = _set_rates(optimizer, config, step)
            optimizer.zero_grad(set_to_none=True)  # Adam leaves alone what has no gradient
            ws, noise, images = source.draw()
            loss, terms, adapted = _backward(trainable, loss_fn, ws, noise, images, options)
            _copy(trained, last_good)  # a sound loss and gradient came of these weights
            optimizer.step()
            told = (loss, terms, layers, lr, *_times(start, step + 1, config.steps))
            alike = config.batch > 1 and alarm.see(images, adapted, _way(terms))
            preview = _preview(trainable, config, step + 1)
            yield Progress(step + 1, config.steps, *told, alike, preview)
    except FloatingPointError as error:
        _copy(last_good, trained)
        raise DivergedError(step, str(error), _set_rates(optimizer, config, step)) from error
    finally:
        trainable.requires_grad_(False)
        trainable.zero_grad(set_to_none=True)


def _times(start: float, step: int, steps: int) -> tuple[float, float]:
    """Seconds since the start, and still to go."""
    seconds = time.monotonic() - start
    return seconds, seconds / step * (steps - step)


def trainable_copy(frozen: Generator, config: AdaptConfig) -> Generator:
    """A copy to train, which shares with `frozen` the memory of all that `config` never trains.

    So that a run of style offsets takes kilobytes, and any number of runs one generator. What is
    shared must not be written to: `adapt` does not.

    Args:
        frozen: the generator to copy.
        config: of the run that the copy is for, and for no other.
    """
    own = {id(tensor) for tensor in trained_tensors(frozen, config)}
    parameters = frozen.named_parameters()
    return with_tensors(frozen, {name: p.clone() for name, p in parameters if id(p) in own})


def trained_tensors(generator: Generator, config: AdaptConfig) -> list[Tensor]:
    """The parameters that a run may train, whatever layers it chooses."""
    return [
        parameter
        for name in config.layers(generator)
        for key, parameter in generator.layer(name).named_parameters()
        if key == OFFSET or config.parameters != "styles"
    ]


def _adam(trainable: Generator, config: AdaptConfig) -> torch.optim.Adam:
    """In one pass over each tensor where there is code for that: an update of the bundled generator
    takes one thread of a CPU 3.5 instead of 15 ms."""
    groups: dict[bool, list[Tensor]] = {}  # a group for each rate: style offsets have their own
    for key, parameter in trainable.named_parameters():
        if parameter.requires_grad:
            offset = config.parameters != "weights" and key.endswith(f".{OFFSET}")
            groups.setdefault(offset, []).append(parameter)
    fused = all(p.device.type in ("cpu", "cuda") for group in groups.values() for p in group)
    betas = (config.beta1, config.beta2)
    by_rate = [{"params": group, "offsets": offset} for offset, group in sorted(groups.items())]
    return torch.optim.Adam(by_rate, config.lr, betas, fused=fused)


def _set_rates(optimizer: torch.optim.Adam, config: AdaptConfig, step: int) -> float:
    """Give each group its rate for a step; the first of them, which `Progress` tells."""
    rates = config.rates_at(step)
    for group in optimizer.param_groups:
        group["lr"] = rates[group["offsets"]]
    return optimizer.param_groups[0]["lr"]


def _check_twins(frozen: Generator, trainable: Generator) -> None:
    if trainable is frozen or trainable.config != frozen.config:
        raise ValueError(
            "adapt trains a copy of the frozen generator, and got "
            f"{'the same object' if trainable is frozen else 'another architecture'}: "
            "use copy.deepcopy(frozen)."
        )


def _selected(
    select: Select, trainable: Generator, config: AdaptConfig, random: torch.Generator
) -> tuple[str, ...]:
    """The layers to train from now on: those selected, and those beside them."""
    z, names = _draw_z(trainable, config.select_batch, random), config.chosen_among(trainable)
    beside = [name for name in config.layers(trainable) if name not in names]
    return (*select(trainable, z, names=names), *beside)


def _draw_z(generator: Generator, count: int, random: torch.Generator) -> Tensor:
    z = torch.randn(count, generator.z_dim, generator=random)  # on the CPU: the same everywhere
    return z.to(generator.mean_latent.device)


class FrozenTwin:
    """Latents and noise of each step, and the frozen twin's images.

    With a pool of latents (`AdaptConfig.latent_pool`) the images are cached at CLIP's size, since
    nothing else looks at them.
    """

    def __init__(
        self,
        frozen: Generator,
        config: AdaptConfig,
        options: SynthesisOptions,
        clip_resolution: int | None,
        random: torch.Generator,
    ):
        self.frozen, self.config, self.options = frozen, config, options
        self.clip_resolution, self.random = clip_resolution, random
        self.seeds = torch.randint(2**62, (config.latent_pool,), generator=random).tolist()
        self.cache: dict[int, Tensor] = {}

    @torch.no_grad()
    def draw(self) -> tuple[Tensor, list[Tensor], Tensor]:
        """ws [N, num_ws, w_dim], noise, and images [N, 3, H, W] for the next step."""
        if not self.seeds:
            ws, noise = _draw_inputs(self.frozen, self.config, self.options, self.random)
            return ws, noise, self._images(ws, noise)
        which = int(torch.randint(len(self.seeds), (), generator=self.random))
        own = torch.Generator().manual_seed(self.seeds[which])
        ws, noise = _draw_inputs(self.frozen, self.config, self.options, own)
        if which not in self.cache:
            images = self._images(ws, noise)
            self.cache[which] = (
                resize(images, self.clip_resolution) if self.clip_resolution else images
            )
        return ws, noise, self.cache[which]

    def _images(self, ws: Tensor, noise: list[Tensor]) -> Tensor:
        parts = self.options.micro_batches(ws, *noise)
        return torch.cat(
            [self.options.synthesize(self.frozen, part, rest) for part, *rest in parts]
        )


@torch.no_grad()
def _draw_inputs(
    frozen: Generator, config: AdaptConfig, options: SynthesisOptions, random: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """The ws [N, num_ws, w_dim] and the noise of a step."""
    ws = frozen.mapping(_draw_z(frozen, config.batch, random), config.truncation_psi)
    if config.mixing and torch.rand((), generator=random) < config.mixing:
        second = frozen.mapping(_draw_z(frozen, config.batch, random), config.truncation_psi)
        crossover = int(torch.randint(1, frozen.num_ws, (), generator=random))
        ws = torch.cat([ws[:, :crossover], second[:, crossover:]], dim=1)
    return ws, frozen.make_noise(config.batch, random, options.resolution)


def _backward(
    trainable: Generator,
    loss_fn: Loss,
    ws: Tensor,
    noise: list[Tensor],
    source: Tensor,
    options: SynthesisOptions,
) -> tuple[float, dict[str, float], Tensor]:
    """Forward and backward through the trainable; the loss, its terms, and the images.

    The loss is differentiated for the images first and those then for the weights. So a loss that
    compares the whole batch knows nothing of micro-batches: these are drawn once for the loss, and
    once more, with what the backward pass needs, one after the other.

    Raises:
        FloatingPointError: the loss or a gradient is not finite.
    """
    parts = options.micro_batches(ws, *noise)
    with torch.set_grad_enabled(len(parts) == 1):  # whatever the consumer's mode
        drawn = torch.cat([options.synthesize(trainable, part, rest) for part, *rest in parts])
    adapted = drawn.detach().requires_grad_(True)
    loss, terms, gradient = _loss(loss_fn, source, adapted, options.precision)
    with torch.enable_grad():
        if len(parts) == 1:
            drawn.backward(gradient)
        else:
            for part, *rest, towards in options.micro_batches(ws, *noise, gradient):
                options.synthesize(trainable, part, rest).backward(towards)
    gradients = [p.grad for p in trainable.parameters() if p.grad is not None]
    size = torch.stack(torch._foreach_norm(gradients)).norm() if gradients else loss
    if not torch.isfinite(loss + size):
        raise FloatingPointError(f"the loss is {loss.item():g} and its gradient {size.item():g}.")
    return loss.item(), {name: term.item() for name, term in terms.items()}, adapted.detach()


def _loss(
    loss_fn: Loss, source: Tensor, adapted: Tensor, precision: str
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """The loss, its terms by name, and its gradient for the adapted images."""
    context, scale = clip_in(precision, adapted.device)
    with torch.enable_grad():
        with context:
            terms: dict[str, Tensor] = {}
            if isinstance(loss_fn, TermsLoss):
                terms = loss_fn.terms(source, adapted)
                loss = loss_fn.total(terms)
            else:
                loss = loss_fn(source, adapted)
        (loss * scale).backward()
    assert adapted.grad is not None  # the loss is computed from these images
    return loss.detach(), terms, adapted.grad / scale


@torch.no_grad()
def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets):
        target.copy_(source)


def _preview(trainable: Generator, config: AdaptConfig, step: int) -> Tensor | None:
    due = step in (1, config.steps) or step % max(1, config.preview_every) == 0
    if not (config.preview_every and due):
        return None
    seeds, psi, precision = config.preview_seeds, config.preview_psi, config.precision
    try:
        return sample(trainable, seeds, psi, precision=precision)
    except ImageError as error:
        raise FloatingPointError("its images are none any more.") from error
