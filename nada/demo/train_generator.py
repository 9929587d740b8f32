"""Distil the renderer into a StyleGAN2 generator: `python -m nada.demo.train_generator`.

The teacher is `render(z, "photo")`, so no adversary is needed: the generator learns z → image
by regression. Two stages:

1. The mapping network alone, until a linear head reads off w the lengths, amounts and colours that
   the renderer draws. A hat is worn or not: such steps are not linear in z, and the synthesis
   network would not find them by itself. The spread of w is held near 0.75: with wide w the
   synthesis network fails to learn.
2. The synthesis network, grown 32 → 64 → 128, on a pixel loss at three scales, on the
   image's gradients, and on how strong they are around each place (both weighted up as training
   goes). The last asks for the right amount of texture even where its phase is missed: a loss by
   pixels alone answers doubt with blur. The mapping goes on to be asked for what is drawn.

The photos are rendered once and kept in the work folder. State is saved as it goes and a re-run
takes it up again. A run is seeded, so two runs on one machine agree, and two machines agree in
quality.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.checkpoint import CHECKPOINTS, load_generator, save_generator
from nada.demo.render import Z_DIM, factors_of, portrait
from nada.demo.styles import PHOTO, render
from nada.demo.training import (
    Pace,
    Schedule,
    cosine_rate,
    fit_linear,
    half_precision,
    has_compiler,
    parse_options,
    resume,
    save_state,
)
from nada.formats.files import written_whole
from nada.generator import Generator, GeneratorConfig
from nada.machine import pick_device

CHANNELS = {4: 224, 8: 224, 16: 224, 32: 128, 64: 64, 128: 40}
STAGES = {32: 4000, 64: 6000, 128: 15_000}  # steps at each size
BATCH = 16
W_DIM, W_STD = 96, 0.75


@dataclass(frozen=True)
class Stage:
    """One size of the training: its steps, those at smaller sizes before it, those of all sizes."""

    size: int
    steps: int
    first: int
    total: int

    @property
    def final(self) -> bool:
        return self.first + self.steps == self.total


@dataclass(frozen=True)
class GeneratorTraining:
    """Settings of a training of the generator."""

    size: Annotated[int, tuple(STAGES)] = 128
    output: Path = CHECKPOINTS / "generator.safetensors"
    work: Annotated[Path, "folder of the resumable state"] = Path("build")
    scale: Annotated[float, "multiplies the number of steps"] = 1.0
    start: Annotated[Path | None, "generator of this size to go on from"] = None
    rate: Annotated[float, "multiplies the learning rates"] = 1.0
    photos: Annotated[int, "people to learn from"] = 32_768  # each is seen a few times
    batch: Annotated[int, "pictures in a step"] = BATCH
    minutes: Annotated[float, "cut the last size short"] = math.inf
    device: str = "auto"
    compile: Annotated[
        bool | None,
        "faster after a while: compiled, on a GPU recorded as a graph (default: if possible)",
    ] = None

    def stages(self) -> list[Stage]:
        """From small to large; one alone where a trained generator is gone on from."""
        sizes = [self.size] if self.start else [size for size in STAGES if size <= self.size]
        steps = [max(1, round(STAGES[size] * self.scale)) for size in sizes]
        return [Stage(size, steps[i], sum(steps[:i]), sum(steps)) for i, size in enumerate(sizes)]


def shape(size: int) -> GeneratorConfig:
    """Of the bundled generator, or of one that will grow to it."""
    channels = tuple(c for r, c in CHANNELS.items() if r <= size)
    return GeneratorConfig(size=size, z_dim=Z_DIM, w_dim=W_DIM, mapping_layers=4, channels=channels)


def seeded_latents(step: int, n: int) -> Tensor:
    """The z of a step: seeded by the step, so a resumed run sees what an unbroken one would."""
    return torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(1_000_000 + step))


class Drawn:
    """What the renderer draws of a person: the numbers of `portrait` that differ between people,
    each with mean 0 and deviation 1. Called with z [N, 96] on any device, gives [N, `count`]."""

    def __init__(self):
        numbers = self._numbers(seeded_latents(0, 16_384))
        deviation, self.mean = torch.std_mean(numbers, 0)
        self.varied = deviation > 1e-3
        self.deviation = deviation.clamp(min=1e-3)
        self.count = int(self.varied.sum())

    def __call__(self, z: Tensor) -> Tensor:
        mean, deviation, varied = (x.to(z.device) for x in (self.mean, self.deviation, self.varied))
        return ((self._numbers(z) - mean) / deviation)[:, varied]

    def _numbers(self, z: Tensor) -> Tensor:
        return torch.cat([number.flatten(1) for number in portrait(factors_of(z)).values()], 1)


class Photos:
    """People z [P, 96], what is drawn of them [P, `Drawn.count`] and their photos [P, 3, S, S]
    uint8, on `device`; rendered once and kept in a file, unless a GPU does it in seconds."""

    def __init__(self, count: int, size: int, folder: Path, compiled: bool, device: torch.device):
        self.z = torch.randn(count, Z_DIM, generator=torch.Generator().manual_seed(5)).to(device)
        drawn, path = Drawn(), folder / f"photos-{size}-{count}.npy"
        self.drawn = torch.cat([drawn(part) for part in self.z.split(4096)])
        if path.exists():
            self.images = torch.from_numpy(np.load(path))
            return
        on_cpu = device.type == "cpu"
        paint = torch.compile(render) if compiled and on_cpu else render
        self.images = torch.empty(count, 3, size, size, dtype=torch.uint8, device=device)
        at_once = BATCH if on_cpu else 256
        pace = Pace(-(-count // at_once), 8000 // at_once, label="photos  ")
        for i, rows in enumerate(torch.arange(count, device=device).split(at_once)):
            image = paint(self.z[rows], PHOTO, size)
            self.images[rows] = (image * 127.5 + 127.5).round().byte()
            pace(i + 1, 0.0)
        if on_cpu:
            with written_whole(path) as unfinished:
                np.save(unfinished, self.images.numpy())

    def batch(self, step: int, n: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """A step's people z [n, 96], what is drawn of them [n, D] and their photos
        [n, 3, size, size] in [-1, 1]; the same at every call."""
        generator = torch.Generator().manual_seed(1_000_000 + step)
        rows = torch.randint(len(self.z), (n,), generator=generator).to(self.z.device)
        images = self.images[rows].float() / 127.5 - 1
        factor = images.shape[-1] // size
        images = images if factor == 1 else F.avg_pool2d(images, factor)
        return (
            self.z[rows],
            self.drawn[rows],
            images.contiguous(memory_format=torch.channels_last),
        )


def train_mapping(generator: Generator, head: nn.Linear, steps: int, batch: int = 512) -> float:
    """Stage 1, in a minute or two.

    Args:
        generator: whose mapping is trained, in place.
        head: trained along, to read off w what is drawn.
        steps: of training.
        batch: people in a step.

    Returns:
        The mean squared error of what the head reads, of a variance of 1.
    """
    device, drawn = head.weight.device, Drawn()
    people = seeded_latents(-1, 2**19).to(device)
    truth = torch.cat([drawn(part) for part in people.split(2**14)])
    # The mapping's weights are stored a hundred times larger than they act: rates scale with them.
    optimizer = torch.optim.Adam(
        [
            {"params": list(generator.style.parameters()), "lr": 2.0},
            {"params": list(head.parameters()), "lr": 2e-3},
        ],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator.style.requires_grad_(True)
    pace = Pace(steps, 1000, label="mapping ")
    for step in range(steps):
        rows = torch.randint(len(people), (batch,), device=device)
        w = generator.mapping(people[rows])[:, 0]
        error = F.mse_loss(head(w), truth[rows])
        spread = (w.std(0) - W_STD).square().mean() + w.mean(0).square().mean()
        optimizer.zero_grad(set_to_none=True)
        (error + 0.1 * spread).backward()
        optimizer.step()
        schedule.step()
        pace(step + 1, error.detach())
    return error.item()


def image_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbours along x and along y."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def texture(gradient: Tensor) -> Tensor:
    """Strength of a gradient around each place: root mean square in 8×8."""
    return (F.avg_pool2d(gradient.square(), 8, 4, ceil_mode=True) + 1e-5).sqrt()


def distillation_loss(image: Tensor, truth: Tensor, progress: Tensor | float) -> Tensor:
    """L1 + MSE, half weight of L1 at half and quarter size, L1 of gradients (weight 0.3 → 2) and
    of their local strength (0 → 3).

    Args:
        image: [N, 3, S, S], what the generator drew.
        truth: [N, 3, S, S], the photos.
        progress: of the training, from 0 to 1, which raises the last two weights.
    """
    loss = F.l1_loss(image, truth) + F.mse_loss(image, truth)
    for factor in (2, 4):
        loss = loss + 0.5 * F.l1_loss(F.avg_pool2d(image, factor), F.avg_pool2d(truth, factor))
    pairs = list(zip(image_gradients(image), image_gradients(truth)))
    edges = sum(F.l1_loss(a, b) for a, b in pairs)
    strength = sum(F.l1_loss(texture(a), texture(b)) for a, b in pairs)
    return loss + (0.3 + 1.7 * progress) * edges + 3 * progress * strength


def grow(small: Generator | None, size: int) -> Generator:
    """A generator of `size` that begins as `small` does: new layers add nothing yet."""
    generator = Generator(shape(size))
    with torch.no_grad():
        for name, p in generator.named_parameters():
            if name.endswith("noise.weight"):
                p.zero_()  # the teacher has no randomness beside z
            elif name.startswith("to_rgbs") and name.endswith("conv.weight"):
                p.zero_()
    if small is not None:
        state = {k: v for k, v in small.state_dict().items() if k in generator.state_dict()}
        generator.load_state_dict(state, strict=False)
    return generator


def trainable(generator: Generator, head: nn.Linear) -> list[dict]:
    """Parameter groups for Adam, all but the noise weights, each with its learning rate."""
    for name, p in generator.named_parameters():
        p.requires_grad_(not name.endswith("noise.weight"))
    style = list(generator.style.parameters())
    rest = [
        p for n, p in generator.named_parameters() if p.requires_grad and not n.startswith("style.")
    ]
    return [
        {"params": rest, "lr": 1e-2},
        {"params": style, "lr": 1e-1},
        {"params": list(head.parameters()), "lr": 1e-3},
    ]


@dataclass(frozen=True)
class Learner:
    """What is trained: a generator, the head that reads its w, and the mean of its past weights."""

    generator: Generator
    head: nn.Linear
    ema: Generator


class Lesson(nn.Module):
    """What a learner learns from: people z [N, 96], what is drawn of them [N, D], their photos and
    the progress of the training → loss."""

    def __init__(self, learner: Learner):
        super().__init__()
        self.generator, self.head = learner.generator, learner.head

    def forward(self, z: Tensor, drawn: Tensor, truth: Tensor, progress: Tensor) -> Tensor:
        w = self.generator.mapping(z)
        with half_precision(z.device):
            image = self.generator.synthesis(w)
        loss = distillation_loss(image.float(), truth, progress)
        return loss + 0.1 * F.mse_loss(self.head(w[:, 0]), drawn)


def lesson_for(learner: Learner, photos: Photos, config: GeneratorTraining) -> nn.Module:
    """The learner's `Lesson`, compiled or recorded where the settings say so."""
    lesson, size = Lesson(learner), learner.generator.size
    if not config.compile:
        return lesson
    if photos.z.device.type == "cpu":
        return torch.compile(lesson)
    # A GPU waits for Python otherwise, kernel by kernel.
    example = (*photos.batch(0, config.batch, size), torch.zeros((), device=photos.z.device))
    return torch.cuda.make_graphed_callables(lesson, example)


def train_stage(
    learner: Learner,
    photos: Photos,
    stage: Stage,
    config: GeneratorTraining,
    state: Path,
    deadline: float = math.inf,
) -> None:
    """Train one size in place.

    Args:
        learner: what is trained, on the device of the photos.
        photos: what it learns from.
        stage: its size and steps.
        config: batch, rate, compile and start are of interest here.
        state: file that is written as training goes; where it holds this size it is taken up again.
        deadline: when the last size must be done, as `time.time` counts.
    """
    device = photos.z.device
    groups, fused = trainable(learner.generator, learner.head), device.type != "cpu"
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), fused=fused)
    base = [group["lr"] for group in optimizer.param_groups]
    parts = {**vars(learner), "optimizer": optimizer}
    step = resume(state, parts, device, size=stage.size)
    lesson = lesson_for(learner, photos, config)
    pace = Pace(stage.steps, 200, step, f"{stage.size:4d}px ")
    schedule = Schedule(stage.steps, deadline if stage.final else math.inf)
    low = 0.0 if stage.final else 0.4  # earlier sizes keep moving; the last one settles
    while (done := schedule(step)) < 1:
        pulse = min(1.0, (step + 1) / 100) * (low + (1 - low) * cosine_rate(done))
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * config.rate * pulse
        # What was trained before goes on with the loss of its end.
        progress = 1.0 if config.start else (stage.first + done * stage.steps) / stage.total
        progress = torch.full((), progress, device=device)
        loss = lesson(*photos.batch(stage.first + step, config.batch, stage.size), progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_ema(learner, step)
        step += 1
        pace(step, loss.detach())
        if step % 500 == 0 or schedule(step) == 1:
            save_state(state, parts, step, size=stage.size)


@torch.no_grad()
def update_ema(learner: Learner, step: int) -> None:
    """Move the mean of the weights towards those of a step, by less and less."""
    decay = min(0.999, (step + 10) / (step + 100))
    mean, new = (list(model.parameters()) for model in (learner.ema, learner.generator))
    torch._foreach_lerp_(mean, new, 1 - decay)


def train_sizes(
    photos: Photos, config: GeneratorTraining, state: Path, deadline: float = math.inf
) -> Generator:
    """Train size after size.

    Args:
        photos: what to learn from; on their device it is trained.
        config: the settings.
        state: file that is written as training goes; what it holds is taken up again.
        deadline: when to be done, as `time.time` counts.

    Returns:
        The mean of the last size's weights over its steps.
    """
    device, stages = photos.z.device, config.stages()
    saved_size = torch.load(state, weights_only=True)["size"] if state.exists() else 0
    generator, ema = load_generator(config.start) if config.start else None, None
    head = nn.Linear(W_DIM, photos.drawn.shape[1]).to(device)
    for stage in stages:
        generator = grow(generator, stage.size).to(device)
        if stage.size < saved_size:
            continue
        if config.start:
            fit_to_w(head, generator, photos)
        elif stage.first == 0 and not state.exists():
            error = train_mapping(generator, head, round(4000 * min(1, config.scale)))
            print(f"mapping: error {error:.4f}", flush=True)
        # Every activation follows the constant's layout, and convolutions like this one better.
        constant = generator.input.input
        constant.data = constant.data.contiguous(memory_format=torch.channels_last)
        ema = copy.deepcopy(generator) if ema is None else grow(ema, stage.size).to(device)
        train_stage(Learner(generator, head, ema), photos, stage, config, state, deadline)
    return ema


@torch.no_grad()
def fit_to_w(head: nn.Linear, generator: Generator, photos: Photos, people: int = 16_384) -> None:
    """Have the head read off w what is drawn: for a generator trained before."""
    w = generator.mapping(photos.z[:people])[:, 0]
    fit_linear(head, w, photos.drawn[:people])


@torch.no_grad()
def set_mean_latent(generator: Generator) -> None:
    """Fill in the mean of w, towards which truncation goes."""
    z = torch.randn(16_384, Z_DIM, generator=torch.Generator().manual_seed(4096))
    mean = generator.mean_latent
    mean.copy_(generator.mapping(z.to(mean.device))[:, 0].mean(0))


@torch.no_grad()
def measure_distilled(generator: Generator, people: int = 512) -> dict[str, float]:
    """How near a generator is to the renderer, on people whom it has not seen.

    Args:
        generator: one that draws photos, on any device.
        people: their number.

    Returns:
        l1: mean absolute difference, of 0..1. gradients, gradient_energy: the shares of the
        renders' gradients that are reached, of their mean absolute value and mean square.
    """
    z = torch.randn(people, Z_DIM, generator=torch.Generator().manual_seed(7))
    parts = z.to(next(generator.parameters()).device).split(32)
    images = torch.cat([generator.synthesis(generator.mapping(part)) for part in parts])
    images = images.clamp(-1, 1)
    truth = torch.cat([render(part, PHOTO, generator.size) for part in parts])
    reached, whole = _gradient_sizes(images), _gradient_sizes(truth)
    return {
        "l1": (images - truth).abs().mean().item() / 2,
        "gradients": reached[0] / whole[0],
        "gradient_energy": reached[1] / whole[1],
    }


def _gradient_sizes(images: Tensor) -> tuple[float, float]:
    """Mean absolute value and mean square of images' gradients."""
    gradients = image_gradients(images)
    absolute = sum(gradient.abs().mean() for gradient in gradients).item()
    return absolute, sum(gradient.square().mean() for gradient in gradients).item()


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the generator and save it; its figures go to standard output.

    Args:
        arguments: the command line without the script's name; None for that of this process.

    Returns:
        The exit status.
    """
    config = parse_options(GeneratorTraining, __doc__.splitlines()[0], arguments)
    config.work.mkdir(parents=True, exist_ok=True)
    device = pick_device(config.device)
    if config.compile is None:
        config = replace(config, compile=device.type != "cpu" or has_compiler())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    started = time.time()
    photos = Photos(config.photos, config.size, config.work, config.compile, device)
    state, deadline = config.work / "generator.pt", started + 60 * config.minutes
    generator = train_sizes(photos, config, state, deadline)
    set_mean_latent(generator)
    generator.eval().requires_grad_(False)
    figures = measure_distilled(generator)
    print(json.dumps(figures))
    metadata = {
        "world": "procedural portraits",
        "style": PHOTO,
        **{name: f"{value:.4f}" for name, value in figures.items()},
        "minutes": f"{(time.time() - started) / 60:.1f}",
    }
    save_generator(generator, config.output, metadata)
    return 0


if __name__ == "__main__":
    sys.exit(main())
