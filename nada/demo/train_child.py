"""Train the bundled generator on, for another look: `python -m nada.demo.train_child`.

A child draws the same people in a style of the renderer, older ones for example. It is of its
base's family, so that domains of styles carry over to it (`nada.delta.carry_over`): this is what
that is tried on. A few minutes do.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from nada.checkpoint import load_generator, save_generator
from nada.demo.styles import AGED, STYLES, render
from nada.demo.train_generator import distillation_loss, seeded_latents, set_mean_latent
from nada.demo.training import Pace, Schedule, cosine_rate, half_precision, parse_options
from nada.formats.files import check_place
from nada.generator import Generator
from nada.machine import pick_device


@dataclass(frozen=True)
class ChildTraining:
    """Settings of a child's training."""

    output: Annotated[Path, "generator to write"]
    style: Annotated[str, tuple(STYLES)] = AGED
    start: Annotated[str, "generator to go on from, as load_generator takes it"] = "demo"
    steps: int = 300
    batch: Annotated[int, "pictures in a step"] = 8
    rate: Annotated[float, "learning rate of the synthesis"] = 2e-3
    minutes: Annotated[float, "end by the clock"] = math.inf
    device: str = "auto"


def train_child(generator: Generator, config: ChildTraining) -> None:
    """Train all of the synthesis but the strengths of the noise, in place; people stay who they
    are, since the mapping does.

    Args:
        generator: the base, which the bundled one's renders fit.
        config: style, steps, batch, rate and minutes are of interest here.
    """
    device = generator.mean_latent.device
    for name, weight in generator.named_parameters():
        weight.requires_grad_(not name.startswith("style.") and not name.endswith("noise.weight"))
    learning = [weight for weight in generator.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(learning, lr=config.rate, betas=(0.9, 0.99))
    deadline = time.time() + 60 * config.minutes
    schedule, pace = Schedule(config.steps, deadline), Pace(config.steps, 50, label="child  ")
    settled, step = torch.zeros((), device=device), 0
    while (done := schedule(step)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = config.rate * cosine_rate(done)
        z = seeded_latents(step, config.batch).to(device)
        truth = render(z, config.style, generator.size)
        with torch.no_grad():
            ws = generator.mapping(z)
        with half_precision(device):
            image = generator.synthesis(ws)
        loss = distillation_loss(image.float(), truth, settled)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        pace(step, loss.detach())
    generator.requires_grad_(False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the child and save it.

    Args:
        arguments: the command line without the script's name; None for that of this process.

    Returns:
        The exit status.
    """
    config = parse_options(ChildTraining, __doc__.splitlines()[0], arguments)
    check_place(config.output)
    generator = load_generator(config.start, pick_device(config.device))
    train_child(generator, config)
    set_mean_latent(generator)
    save_generator(generator, config.output, {"style": config.style, "child_of": config.start})
    return 0


if __name__ == "__main__":
    sys.exit(main())
