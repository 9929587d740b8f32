"""Distil the renderer into a StyleGAN2 generator: `python -m nada.demo.train_generator`.

The teacher is `render(z, "photo")`, so no adversary is needed: the generator learns z → picture
by regression. Two stages:

1. The mapping network alone, until a linear head reads off w the lengths, amounts and colours that
   the renderer draws. A hat is worn or not: such steps are not linear in z, and the synthesis
   network would not find them by itself. The spread of w is held near 0.75: with wide w the
   synthesis network fails to learn.
2. The synthesis network, grown 32 → 64 → 128, on a pixel loss at three scales, on the
   picture's gradients, and on how strong they are around each place (both weighted up as training
   goes). The last asks for the right amount of texture even where its phase is missed: a loss by
   pixels alone answers doubt with blur. The mapping goes on to be asked for what is drawn.

The photos are rendered once and kept in the work folder. State is saved as it goes and a re-run
takes it up again. A run is seeded, so two runs on one machine agree, and two machines agree in
quality.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.checkpoint import CHECKPOINTS, load_generator, save_generator
from nada.demo.data import Pace, Schedule, cosine_rate, fit_linear, half_precision, has_compiler
from nada.demo.render import Z_DIM, factors_of, portrait
from nada.demo.styles import PHOTO, render
from nada.generator import Generator, GeneratorConfig
from nada.machine import pick_device

CHANNELS = {4: 224, 8: 224, 16: 224, 32: 128, 64: 64, 128: 40}
STAGES = {32: 4000, 64: 6000, 128: 15_000}  # steps at each size
BATCH = 16
PHOTOS = 32_768  # rendered once; a picture is seen a few times
W_DIM, W_STD = 96, 0.75


def config(size: int) -> GeneratorConfig:
    channels = tuple(c for r, c in CHANNELS.items() if r <= size)
    return GeneratorConfig(size=size, z_dim=Z_DIM, w_dim=W_DIM, mapping_layers=4, channels=channels)


def latents(step: int, n: int) -> Tensor:
    """The z of a step: seeded by the step, so a resumed run sees what an unbroken one would."""
    return torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(1_000_000 + step))


class Drawn:
    """What the renderer draws of a person: the numbers of `portrait` that differ between people,
    each with mean 0 and deviation 1. Called with z [N, 96] on any device, gives [N, `count`]."""

    def __init__(self):
        numbers = self._numbers(latents(0, 16_384))
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
            self.pictures = torch.from_numpy(np.load(path))
            return
        on_cpu = device.type == "cpu"
        paint = torch.compile(render) if compiled and on_cpu else render
        self.pictures = torch.empty(count, 3, size, size, dtype=torch.uint8, device=device)
        at_once = BATCH if on_cpu else 256
        pace = Pace(-(-count // at_once), 8000 // at_once, label="photos  ")
        for i, rows in enumerate(torch.arange(count, device=device).split(at_once)):
            picture = paint(self.z[rows], PHOTO, size)
            self.pictures[rows] = (picture * 127.5 + 127.5).round().byte()
            pace(i + 1, 0.0)
        if on_cpu:
            unfinished = path.with_suffix(".part.npy")
            np.save(unfinished, self.pictures.numpy())
            unfinished.replace(path)

    def batch(self, step: int, n: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """z [n, 96], what is drawn [n, D] and photos [n, 3, size, size] in [-1, 1] of a step,
        whoever asks again."""
        generator = torch.Generator().manual_seed(1_000_000 + step)
        rows = torch.randint(len(self.z), (n,), generator=generator).to(self.z.device)
        pictures = self.pictures[rows].float() / 127.5 - 1
        factor = pictures.shape[-1] // size
        pictures = pictures if factor == 1 else F.avg_pool2d(pictures, factor)
        return (
            self.z[rows],
            self.drawn[rows],
            pictures.contiguous(memory_format=torch.channels_last),
        )


def train_mapping(generator: Generator, head: nn.Linear, steps: int, batch: int = 512) -> float:
    """Stage 1, in a minute or two. Returns the mean squared error of what `head` reads off w, of a
    variance of 1."""
    device, drawn = head.weight.device, Drawn()
    people = latents(-1, 2**19).to(device)
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


def picture_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def texture(gradient: Tensor) -> Tensor:
    """How strong a gradient is around each place, whatever its sign: root mean square in 8×8."""
    return (F.avg_pool2d(gradient.square(), 8, 4, ceil_mode=True) + 1e-5).sqrt()


def distillation_loss(image: Tensor, truth: Tensor, progress: Tensor | float) -> Tensor:
    """L1 + MSE, half weight of L1 at half and quarter size, L1 of gradients (weight 0.3 → 2) and
    of their local strength (0 → 3)."""
    loss = F.l1_loss(image, truth) + F.mse_loss(image, truth)
    for factor in (2, 4):
        loss = loss + 0.5 * F.l1_loss(F.avg_pool2d(image, factor), F.avg_pool2d(truth, factor))
    pairs = list(zip(picture_gradients(image), picture_gradients(truth)))
    edges = sum(F.l1_loss(a, b) for a, b in pairs)
    strength = sum(F.l1_loss(texture(a), texture(b)) for a, b in pairs)
    return loss + (0.3 + 1.7 * progress) * edges + 3 * progress * strength


def grow(small: Generator | None, size: int) -> Generator:
    """A generator of `size` that begins as `small` does: new layers add nothing yet."""
    generator = Generator(config(size))
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
class Course:
    """How to train: pictures in a step, a factor on the learning rates, whether to compile (on a
    GPU: to record a step once and repeat it), the steps of all sizes together, when the last size
    must be done, and whether what is trained was trained before, so that the loss starts where it
    ends."""

    batch: int
    rate: float
    compiled: bool
    total: int
    deadline: float
    continued: bool


class Lesson(nn.Module):
    """What a generator and the head that reads its w are taught: people z [N, 96], what is drawn of
    them [N, D], their photos and the progress of the training → loss."""

    def __init__(self, generator: Generator, head: nn.Linear):
        super().__init__()
        self.generator, self.head = generator, head

    def forward(self, z: Tensor, drawn: Tensor, truth: Tensor, progress: Tensor) -> Tensor:
        w = self.generator.mapping(z)
        with half_precision(z.device):
            image = self.generator.synthesis(w)
        loss = distillation_loss(image.float(), truth, progress)
        return loss + 0.1 * F.mse_loss(self.head(w[:, 0]), drawn)


def train_stage(
    generator: Generator,
    head: nn.Linear,
    ema: Generator,
    photos: Photos,
    steps: int,
    first: int,
    state: Path,
    course: Course,
) -> None:
    """Train one size in place; resume from `state` where it holds this size."""
    size, device = generator.size, generator.input.input.device
    on_cpu = device.type == "cpu"
    optimizer = torch.optim.Adam(trainable(generator, head), betas=(0.9, 0.99), fused=not on_cpu)
    base = [group["lr"] for group in optimizer.param_groups]
    learner = {"generator": generator, "head": head, "ema": ema, "optimizer": optimizer}
    step = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        if saved["size"] == size:
            step = saved["step"]
            for name, part in learner.items():
                part.load_state_dict(saved[name])

    loss_of = Lesson(generator, head)
    if course.compiled and on_cpu:
        loss_of = torch.compile(loss_of)
    elif course.compiled:  # a GPU waits for Python otherwise, kernel by kernel
        example = photos.batch(0, course.batch, size)
        loss_of = torch.cuda.make_graphed_callables(
            loss_of, (*example, torch.zeros((), device=device))
        )
    final = first + steps == course.total
    pace = Pace(steps, 200, step, f"{size:4d}px ")
    schedule = Schedule(steps, course.deadline) if final else Schedule(steps)
    low = 0.0 if final else 0.4  # earlier sizes keep moving; the last one settles
    while (done := schedule(step)) < 1:
        pulse = min(1.0, (step + 1) / 100) * (low + (1 - low) * cosine_rate(done))
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * course.rate * pulse
        progress = 1.0 if course.continued else (first + done * steps) / course.total
        progress = torch.full((), progress, device=device)
        loss = loss_of(*photos.batch(first + step, course.batch, size), progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay = min(0.999, (step + 10) / (step + 100))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(generator.parameters()), 1 - decay)
        step += 1
        pace(step, loss.detach())
        if step % 500 == 0 or schedule(step) == 1:
            saved = {name: part.state_dict() for name, part in learner.items()}
            torch.save({**saved, "size": size, "step": step}, state)


@torch.no_grad()
def measure(generator: Generator, n: int = 512) -> dict[str, float]:
    """Held-out L1 (of 0..1), and the shares of the renders' gradients that are reached: of their
    mean absolute value and of their mean square."""
    device = next(generator.parameters()).device
    z = torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(7)).to(device)
    image = torch.cat([generator.synthesis(generator.mapping(part)) for part in z.split(32)]).clamp(
        -1, 1
    )
    truth = torch.cat([render(part, PHOTO, generator.size) for part in z.split(32)])
    size, square = (
        [sum(measure(g) for g in picture_gradients(x)).item() for x in (image, truth)]
        for measure in (lambda g: g.abs().mean(), lambda g: g.square().mean())
    )
    return {
        "l1": (image - truth).abs().mean().item() / 2,
        "gradients": size[0] / size[1],
        "gradient_energy": square[0] / square[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=128, choices=list(STAGES))
    parser.add_argument("--output", type=Path, default=CHECKPOINTS / "generator.safetensors")
    parser.add_argument(
        "--work", type=Path, default=Path("build"), help="folder of the resumable state"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps")
    parser.add_argument("--start", type=Path, help="generator of this size to go on from")
    parser.add_argument("--rate", type=float, default=1.0, help="multiplies the learning rates")
    parser.add_argument("--photos", type=int, default=PHOTOS, help="people to learn from")
    parser.add_argument("--batch", type=int, default=BATCH, help="pictures in a step")
    parser.add_argument("--minutes", type=float, default=math.inf, help="cut the last size short")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="faster after a while: compiled, on a GPU recorded as a graph (default: if possible)",
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device, state = pick_device(args.device), args.work / "generator.pt"
    if args.compile is None:
        args.compile = device.type != "cpu" or has_compiler()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    started = time.time()
    photos = Photos(args.photos, args.size, args.work, args.compile, device)
    sizes = [args.size] if args.start else [s for s in STAGES if s <= args.size]
    steps = {s: max(1, round(STAGES[s] * args.scale)) for s in sizes}
    deadline = started + 60 * args.minutes
    continued = args.start is not None
    course = Course(args.batch, args.rate, args.compile, sum(steps.values()), deadline, continued)
    saved_size = torch.load(state, weights_only=True)["size"] if state.exists() else sizes[0]
    generator, ema = load_generator(args.start) if args.start else None, None
    head = nn.Linear(W_DIM, photos.drawn.shape[1]).to(device)
    for i, size in enumerate(sizes):
        done = sum(steps[s] for s in sizes[:i])
        generator, previous = grow(generator, size).to(device), ema
        if size < saved_size:
            continue
        if args.start:
            with torch.no_grad():
                w = generator.mapping(photos.z[:16_384])[:, 0]
            fit_linear(head, w, photos.drawn[:16_384])
        elif i == 0 and not state.exists():
            error = train_mapping(generator, head, round(4000 * min(1, args.scale)))
            print(f"mapping: error {error:.4f}", flush=True)
        # Every activation follows the constant's layout, and convolutions like this one better.
        generator.input.input.data = generator.input.input.data.contiguous(
            memory_format=torch.channels_last
        )
        ema = grow(previous, size).to(device) if previous is not None else copy.deepcopy(generator)
        if previous is None:
            ema.load_state_dict(generator.state_dict())
        train_stage(generator, head, ema, photos, steps[size], done, state, course)
    with torch.no_grad():
        z = torch.randn(16384, Z_DIM, generator=torch.Generator().manual_seed(4096)).to(device)
        ema.mean_latent.copy_(ema.mapping(z)[:, 0].mean(0))
    ema.eval().requires_grad_(False)
    quality = measure(ema)
    print(json.dumps(quality))
    save_generator(
        ema,
        args.output,
        {
            "world": "procedural portraits",
            "style": PHOTO,
            **{k: f"{v:.4f}" for k, v in quality.items()},
            "minutes": f"{(time.time() - started) / 60:.1f}",
        },
    )


if __name__ == "__main__":
    main()
