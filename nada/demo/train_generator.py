"""Distil the renderer into a StyleGAN2 generator: `python -m nada.demo.train_generator`.

The teacher is `render(z, "photo")`, so no adversary is needed: the generator learns z → picture
by regression. Two stages:

1. The mapping network alone, until a linear head reads the renderer's factors off w. The spread
   of w is held near 0.75: with wide w the synthesis network fails to learn.
2. The synthesis network, grown 16 → 32 → 64 → 128, on a pixel loss at three scales, on the
   picture's gradients, and on how strong they are around each place (both weighted up as training
   goes). The last asks for the right amount of texture even where its phase is missed: a loss by
   pixels alone answers doubt with blur.

The photos are rendered once and kept in the work folder. State is saved as it goes and a re-run
takes it up again. A run is seeded, so two runs on one machine agree, and two machines agree in
quality.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.checkpoint import CHECKPOINTS, load_generator, save_generator
from nada.demo.data import Pace, cosine_rate
from nada.demo.render import FACTORS, Z_DIM, factors_of, render
from nada.generator import Generator, GeneratorConfig

CHANNELS = {4: 160, 8: 160, 16: 160, 32: 80, 64: 40, 128: 20}
STAGES = {16: 2500, 32: 4000, 64: 5000, 128: 7500}  # steps at each size
BATCH = 16
PHOTOS = 32_768  # rendered once; a picture is seen a few times
W_STD = 0.75


def config(size: int) -> GeneratorConfig:
    channels = tuple(c for r, c in CHANNELS.items() if r <= size)
    return GeneratorConfig(size=size, z_dim=Z_DIM, w_dim=Z_DIM, mapping_layers=4, channels=channels)


def latents(step: int, n: int) -> Tensor:
    """The z of a step: seeded by the step, so a resumed run sees what an unbroken one would."""
    return torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(1_000_000 + step))


class Photos:
    """People z [P, 96] and their photos [P, 3, S, S] uint8, rendered once and kept in a file."""

    def __init__(self, count: int, size: int, folder: Path, compiled: bool, device: torch.device):
        self.z = torch.randn(count, Z_DIM, generator=torch.Generator().manual_seed(5))
        path = folder / f"photos-{size}-{count}.npy"
        if not path.exists():
            paint = render
            if compiled:
                paint = torch.compile(render)
            pictures = torch.empty(count, 3, size, size, dtype=torch.uint8)
            pace = Pace(-(-count // BATCH), 500, label="photos  ")
            for i, rows in enumerate(torch.arange(count).split(BATCH)):
                picture = paint(self.z[rows].to(device), "photo", size)
                pictures[rows] = (picture * 127.5 + 127.5).round().byte().cpu()
                pace(i + 1, 0.0)
            unfinished = path.with_suffix(".part.npy")
            np.save(unfinished, pictures.numpy())
            unfinished.replace(path)
        self.pictures = torch.from_numpy(np.load(path))

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """z [B, 96] and photos [B, 3, size, size] in [-1, 1] of a step, whoever asks again."""
        generator = torch.Generator().manual_seed(1_000_000 + step)
        rows = torch.randint(len(self.z), (BATCH,), generator=generator)
        pictures = self.pictures[rows].float() / 127.5 - 1
        factor = pictures.shape[-1] // size
        return self.z[rows], pictures if factor == 1 else F.avg_pool2d(pictures, factor)


def train_mapping(generator: Generator, steps: int = 4000, batch: int = 512) -> float:
    """Stage 1, in seconds. Returns the mean squared error of the factors read off w."""
    head = nn.Linear(Z_DIM, len(FACTORS))
    # The mapping's weights are stored a hundred times larger than they act: rates scale with them.
    parameters = [*generator.style.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(
        [
            {"params": list(generator.style.parameters()), "lr": 2.0},
            {"params": list(head.parameters()), "lr": 2e-3},
        ],
        betas=(0.9, 0.99),
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for p in parameters:
        p.requires_grad_(True)
    for step in range(steps):
        z = latents(-step - 1, batch)
        w = generator.mapping(z)[:, 0]
        error = F.mse_loss(head(w), factors_of(z))
        spread = (w.std(0) - W_STD).square().mean() + w.mean(0).square().mean()
        optimizer.zero_grad(set_to_none=True)
        (error + 0.1 * spread).backward()
        optimizer.step()
        schedule.step()
    return error.item()


def picture_gradients(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def texture(gradient: Tensor) -> Tensor:
    """How strong a gradient is around each place, whatever its sign: root mean square in 8×8."""
    return (F.avg_pool2d(gradient.square(), 8, 4, ceil_mode=True) + 1e-5).sqrt()


def distillation_loss(image: Tensor, truth: Tensor, progress: Tensor | float) -> Tensor:
    """L1 + MSE, half weight of L1 at half and quarter size, L1 of gradients (weight 0.3 → 2) and
    of their local strength (0 → 1)."""
    loss = F.l1_loss(image, truth) + F.mse_loss(image, truth)
    for factor in (2, 4):
        loss = loss + 0.5 * F.l1_loss(F.avg_pool2d(image, factor), F.avg_pool2d(truth, factor))
    pairs = list(zip(picture_gradients(image), picture_gradients(truth)))
    edges = sum(F.l1_loss(a, b) for a, b in pairs)
    strength = sum(F.l1_loss(texture(a), texture(b)) for a, b in pairs)
    return loss + (0.3 + 1.7 * progress) * edges + progress * strength


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


def trainable(generator: Generator) -> list[dict]:
    for name, p in generator.named_parameters():
        p.requires_grad_(not name.endswith("noise.weight"))
    style = list(generator.style.parameters())
    rest = [
        p for n, p in generator.named_parameters() if p.requires_grad and not n.startswith("style.")
    ]
    return [{"params": rest, "lr": 1e-2}, {"params": style, "lr": 1e-1}]


def train_stage(
    generator: Generator,
    ema: Generator,
    photos: Photos,
    steps: int,
    first: int,
    state: Path,
    total: int,
    rate: float,
    compiled: bool,
) -> None:
    """Train one size in place; resume from `state` where it holds this size."""
    size, device = generator.size, generator.input.input.device
    optimizer = torch.optim.Adam(trainable(generator), betas=(0.9, 0.99))
    base = [group["lr"] for group in optimizer.param_groups]
    step = 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        if saved["size"] == size:
            generator.load_state_dict(saved["generator"])
            ema.load_state_dict(saved["ema"])
            optimizer.load_state_dict(saved["optimizer"])
            step = saved["step"]

    def loss_of(z: Tensor, truth: Tensor, progress: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            image = generator.synthesis(generator.mapping(z))
        return distillation_loss(image.float(), truth, progress)

    if compiled:
        loss_of = torch.compile(loss_of)
    final = first + steps == total
    pace = Pace(steps, 200, step, f"{size:4d}px ")
    while step < steps:
        low = 0.0 if final else 0.4  # earlier sizes keep moving; the last one settles
        pulse = min(1.0, (step + 1) / 100) * (low + (1 - low) * cosine_rate(step, steps, 0))
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * rate * pulse
        z, truth = photos.batch(first + step, size)
        truth = truth.to(device, memory_format=torch.channels_last)
        loss = loss_of(z.to(device), truth, torch.tensor((first + step) / total, device=device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay = min(0.999, (step + 10) / (step + 100))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(generator.parameters()), 1 - decay)
        step += 1
        pace(step, loss.item())
        if step % 500 == 0 or step == steps:
            torch.save(
                {
                    "size": size,
                    "step": step,
                    "generator": generator.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
                state,
            )


@torch.no_grad()
def measure(generator: Generator, n: int = 512) -> dict[str, float]:
    """Held-out L1 (of 0..1), and the shares of the renders' gradients that are reached: of their
    mean absolute value and of their mean square."""
    device = next(generator.parameters()).device
    z = torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(7)).to(device)
    image = torch.cat([generator.synthesis(generator.mapping(part)) for part in z.split(32)]).clamp(
        -1, 1
    )
    truth = torch.cat([render(part, "photo", generator.size) for part in z.split(32)])
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
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=bool(shutil.which("g++") or shutil.which("c++")),
        help="torch.compile: twice as fast after a minute or two (default: where a compiler is)",
    )
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device, state = torch.device(args.device), args.work / "generator.pt"
    torch.manual_seed(0)
    started = time.time()
    photos = Photos(args.photos, args.size, args.work, args.compile, device)
    sizes = [args.size] if args.start else [s for s in STAGES if s <= args.size]
    steps = {s: max(1, round(STAGES[s] * args.scale)) for s in sizes}
    total = sum(steps.values())
    saved_size = torch.load(state, weights_only=True)["size"] if state.exists() else sizes[0]
    generator, ema = load_generator(args.start) if args.start else None, None
    for i, size in enumerate(sizes):
        done = sum(steps[s] for s in sizes[:i])
        generator, previous = grow(generator, size), ema
        if size < saved_size:
            continue
        if i == 0 and not (args.start or state.exists()):
            print(
                f"mapping: error {train_mapping(generator, round(4000 * min(1, args.scale))):.4f}",
                flush=True,
            )
        generator = generator.to(device)
        # Every activation follows the constant's layout, and convolutions like this one better.
        generator.input.input.data = generator.input.input.data.contiguous(
            memory_format=torch.channels_last
        )
        ema = grow(previous, size).to(device) if previous is not None else copy.deepcopy(generator)
        if previous is None:
            ema.load_state_dict(generator.state_dict())
        train_stage(
            generator, ema, photos, steps[size], done, state, total, args.rate, args.compile
        )
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
            "style": "photo",
            **{k: f"{v:.4f}" for k, v in quality.items()},
            "minutes": f"{(time.time() - started) / 60:.1f}",
        },
    )


if __name__ == "__main__":
    main()
