"""Distil the renderer into a StyleGAN2 generator: `python -m nada.demo.train_generator`.

The teacher is `render(z, "photo")`, so no adversary is needed: the generator learns z → picture
by regression. Two stages:

1. The mapping network alone, until a linear head reads the renderer's factors off w. The spread
   of w is held near 0.75: with wide w the synthesis network fails to learn.
2. The synthesis network, grown 16 → 32 → 64, on a pixel loss at three scales and on the picture's
   gradients (weighted up as training goes: they are what makes the result crisp).

State is saved as it goes and a re-run takes it up again. A run is seeded, so two runs on one
machine agree, and two machines agree in quality.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.checkpoint import CHECKPOINTS, save_generator
from nada.demo.data import Pace, cosine_rate
from nada.demo.render import FACTORS, Z_DIM, factors_of, render
from nada.generator import Generator, GeneratorConfig

CHANNELS = {4: 128, 8: 128, 16: 128, 32: 64, 64: 32, 128: 32}
STAGES = {16: 3000, 32: 5000, 64: 15000}  # steps at each size
BATCH = 16
W_STD = 0.75


def config(size: int) -> GeneratorConfig:
    channels = tuple(c for r, c in CHANNELS.items() if r <= size)
    return GeneratorConfig(size=size, z_dim=Z_DIM, w_dim=Z_DIM, mapping_layers=4, channels=channels)


def latents(step: int, n: int) -> Tensor:
    """The z of a step: seeded by the step, so a resumed run sees what an unbroken one would."""
    return torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(1_000_000 + step))


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


def distillation_loss(image: Tensor, truth: Tensor, progress: float) -> Tensor:
    """L1 + MSE, half weight of L1 at half and quarter size, and L1 of gradients (0.3 → 2)."""
    loss = F.l1_loss(image, truth) + F.mse_loss(image, truth)
    for factor in (2, 4):
        loss = loss + 0.5 * F.l1_loss(F.avg_pool2d(image, factor), F.avg_pool2d(truth, factor))
    edges = sum(F.l1_loss(a, b) for a, b in zip(picture_gradients(image), picture_gradients(truth)))
    return loss + (0.3 + 1.7 * progress) * edges


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
    steps: int,
    first: int,
    state: Path,
    device: torch.device,
    overall: tuple[int, int],
    final: bool,
) -> None:
    """Train one size in place; resume from `state` where it holds this size."""
    size = generator.size
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
    pace = Pace(steps, 200, step, f"{size:4d}px ")
    while step < steps:
        low = 0.0 if final else 0.4  # earlier sizes keep moving; the last one settles
        rate = min(1.0, (step + 1) / 100) * (low + (1 - low) * cosine_rate(step, steps, 0))
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * rate
        z = latents(first + step, BATCH).to(device)
        truth = render(z, "photo", size).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            image = generator.synthesis(generator.mapping(z))
        loss = distillation_loss(image.float(), truth, (overall[0] + step) / overall[1])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay = min(0.999, (step + 10) / (step + 100))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(generator.parameters()), 1 - decay)
        step += 1
        pace(step, loss.item())
        if step % 1000 == 0 or step == steps:
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
    """Held-out L1 (of 0..1) and the share of the renders' gradient energy that is reached."""
    device = next(generator.parameters()).device
    z = torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(7)).to(device)
    image = torch.cat([generator.synthesis(generator.mapping(part)) for part in z.split(32)]).clamp(
        -1, 1
    )
    truth = torch.cat([render(part, "photo", generator.size) for part in z.split(32)])
    energy = [sum(g.abs().mean() for g in picture_gradients(x)) for x in (image, truth)]
    return {
        "l1": (image - truth).abs().mean().item() / 2,
        "gradient_energy": (energy[0] / energy[1]).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, choices=[16, 32, 64])
    parser.add_argument("--output", type=Path, default=CHECKPOINTS / "generator.safetensors")
    parser.add_argument(
        "--work", type=Path, default=Path("build"), help="folder of the resumable state"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    device, state = torch.device(args.device), args.work / "generator.pt"
    torch.manual_seed(0)
    started = time.time()
    sizes = [s for s in STAGES if s <= args.size]
    steps = {s: max(1, round(STAGES[s] * args.scale)) for s in sizes}
    total = sum(steps.values())
    saved_size = torch.load(state, weights_only=True)["size"] if state.exists() else sizes[0]
    generator = ema = None
    for i, size in enumerate(sizes):
        done = sum(steps[s] for s in sizes[:i])
        generator, previous = grow(generator, size), ema
        if size < saved_size:
            continue
        if i == 0 and not state.exists():
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
            generator, ema, steps[size], done, state, device, (done, total), size == sizes[-1]
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
