"""An independent judge of style and attributes, and its training: `python -m nada.demo.judge`.

The judge never meets the generator or CLIP. It learns on people of its own (other seeds), under
noise and distortions that they do not use, attacked by gradient steps, so that a generator that
learnt to please CLIP does not please it by accident. Half-way images (a photo with a style laid
thinly over it) count as photos: a hint of a style is not the style. Its state is saved as
it goes, and a re-run takes it up again.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from nada.checkpoint import CHECKPOINTS, load_generator, write_safetensors
from nada.demo.captions import ATTRIBUTES, attributes_of
from nada.demo.data import Pool, distort
from nada.demo.render import Z_DIM, factors_of
from nada.demo.styles import PHOTO, STYLE_NAMES, render
from nada.demo.training import (
    Pace,
    Schedule,
    cosine_rate,
    half_precision,
    parse_options,
    resume,
    save_state,
)
from nada.generator import Generator
from nada.machine import pick_device

SIZE, VIEWS, LEARNING_RATE = 64, 10, 3e-3
SEEN = ("glasses", "hat", "beard")  # attributes whose accuracy is measured
PIECE = 64  # images that are looked at together


@dataclass(frozen=True)
class JudgeTraining:
    """Settings of a training of the judge, and of measuring it."""

    steps: int = 6000
    people: int = 2000
    batch: Annotated[int, "pictures in a step"] = 96
    epsilon: Annotated[float, "in units of [-1, 1]"] = 0.08
    minutes: Annotated[float, "end sooner"] = math.inf
    device: str = "auto"
    output: Path = CHECKPOINTS / "judge.safetensors"
    work: Annotated[Path, "folder of the resumable state"] = Path("build")
    held_out: Annotated[int, "new people to measure on"] = 40
    measure: Annotated[
        bool,
        "train nothing: say how good the judge in --output is, on renders and on what the "
        "bundled generator draws",
    ] = False


class Judge(nn.Module):
    """Images [N, 3, H, W] in [-1, 1] → logits of the styles [N, S] and the attributes [N, A].

    `features` are the layer before both.
    """

    def __init__(self, width: int = 40):
        super().__init__()
        widths = [3, width, 2 * width, 4 * width, 6 * width]
        blocks = []
        for narrow, wide in pairwise(widths):
            blocks += [
                nn.Conv2d(narrow, wide, 4 if narrow == 3 else 3, 2, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], len(STYLE_NAMES))
        self.attributes = nn.Linear(widths[-1], len(ATTRIBUTES))
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] in [-1, 1] → [N, 6·width]; any size, brought to 64."""
        if images.shape[-1] != SIZE:
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        return self.body(images.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.head(features), self.attributes(features)


def load_judge(path: Path = CHECKPOINTS / "judge.safetensors", device="cpu") -> Judge:
    """A judge out of a file, frozen; the bundled one by default.

    Raises:
        FileNotFoundError, ValueError: there is none, or it was trained on other styles; the message
            says how to train one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no judge at {path}: run python -m nada.demo.judge.")
    with safe_open(path, "pt") as file:
        state = {key: file.get_tensor(key).float() for key in file.keys()}
    judge = Judge()
    shapes = {key: value.shape for key, value in judge.state_dict().items()}
    if {key: value.shape for key, value in state.items()} != shapes:
        raise ValueError(
            f"The judge {path.name} was trained on other styles or attributes than the world has "
            f"now ({len(STYLE_NAMES)} styles): train it again with python -m nada.demo.judge."
        )
    judge.load_state_dict(state)
    return judge.requires_grad_(False).eval().to(device)


@torch.no_grad()
def look(judge: Judge, images: Tensor) -> tuple[Tensor, Tensor]:
    """The judge's logits of any number of images [N, 3, H, W], which may go beyond [-1, 1]."""
    style, having = zip(*(judge(part.clamp(-1, 1)) for part in images.split(PIECE)))
    return torch.cat(style), torch.cat(having)


def verdicts(judge: Judge, images: Tensor) -> list[str]:
    """The style that the judge sees in each image."""
    return [STYLE_NAMES[i] for i in look(judge, images)[0].argmax(1).tolist()]


def attributes(judge: Judge, images: Tensor) -> Tensor:
    """Whether the judge sees each of ATTRIBUTES in each image: [N, A] bool."""
    return look(judge, images)[1] > 0


def has_attribute(judge: Judge, images: Tensor, name: str) -> Tensor:
    """Whether the judge sees the attribute in each image: [N] bool."""
    return attributes(judge, images)[:, list(ATTRIBUTES).index(name)]


def disturb(images: Tensor) -> Tensor:
    """The judge's own distortions, on top of the common ones: coarse noise and lost detail."""
    n, _, size, _ = images.shape
    images = distort(images, 1.2, noise=0.15)
    level = 0.15 * torch.rand(n, 1, 1, 1, device=images.device)
    coarse = level * torch.randn(n, 3, 8, 8, device=images.device)
    images = images + F.interpolate(coarse, (size, size), mode="bilinear")
    if torch.rand(()) < 0.3:
        small = F.interpolate(images, scale_factor=0.5, mode="area")
        images = F.interpolate(small, (size, size), mode="bilinear")
    return images.clamp(-1, 1)


def batch_of(pool: Pool, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Disturbed images of a step; a tenth of them are thin overlays labelled photo.

    Args:
        pool: whose people.
        size: N.
        generator: where chance comes from, but for that of the disturbances, which is global.

    Returns:
        Images [N, 3, S, S] in [-1, 1], style labels [N] and attributes [N, A].
    """
    person = torch.randint(len(pool), (size,), generator=generator)
    view = torch.randint(pool.styles.shape[1], (size,), generator=generator)
    images, labels = pool.images_of(person, view), pool.styles[person, view].clone()
    attributes = pool.attributes[person, view].clone()
    thin = size // 10
    alpha = 0.35 * torch.rand(thin, 1, 1, 1, generator=generator).to(images)
    photos = pool.images_of(person[:thin], torch.zeros(thin, dtype=torch.long))
    images[:thin] = torch.lerp(photos, images[:thin], alpha)
    labels[:thin], attributes[:thin] = 0, pool.attributes[person[:thin], 0]
    return disturb(images), labels.to(images.device), attributes.to(images.device)


def judging_loss(logits: tuple[Tensor, Tensor], labels: Tensor, attributes: Tensor) -> Tensor:
    """Cross entropy of the style, and of each attribute that is known.

    Args:
        logits: of the styles [N, S] and of the attributes [N, A].
        labels: [N], the styles.
        attributes: [N, A] of 1, 0 and −1 (not known).
    """
    style, having = (x.float() for x in logits)
    known, truth = attributes >= 0, attributes.clamp(min=0).float()
    losses = F.binary_cross_entropy_with_logits(having, truth, reduction="none")
    of_attributes = (known * losses).sum() / known.sum()
    return F.cross_entropy(style, labels, label_smoothing=0.05) + of_attributes


def attack(judge: Judge, images: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
    """Projected gradient descent (Madry et al. 2018) against the style.

    Args:
        judge: whom to mislead.
        images: [N, 3, S, S] in [-1, 1].
        labels: [N], their styles.
        epsilon: largest change of a value.
        steps: of gradient descent, from a random start.
    """
    moved = images + epsilon * (2 * torch.rand_like(images) - 1)
    for _ in range(steps):
        moved.requires_grad_(True)
        (gradient,) = torch.autograd.grad(F.cross_entropy(judge(moved)[0], labels), moved)
        moved = moved.detach() + (1.25 * epsilon if steps == 1 else epsilon / 4) * gradient.sign()
        moved = (images + (moved - images).clamp(-epsilon, epsilon)).clamp(-1, 1)
    return moved.detach()


def train_judge(
    judge: Judge, pool: Pool, config: JudgeTraining, state: Path, deadline: float = math.inf
) -> None:
    """Train in place.

    Args:
        judge: what is trained, on its own device.
        pool: the people that it learns from.
        config: steps, batch and epsilon are of interest here.
        state: file that is written as training goes; what it holds is taken up again.
        deadline: when to be done, as `time.time` counts.
    """
    device = judge.head.weight.device
    optimizer = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    parts = {"judge": judge, "optimizer": optimizer}
    step = resume(state, parts, device)
    pace, schedule = Pace(config.steps, 200, step), Schedule(config.steps, deadline)
    while (done := schedule(step)) < 1:
        rate = LEARNING_RATE * min(1.0, (step + 1) / 50) * cosine_rate(done)
        optimizer.param_groups[0]["lr"] = rate
        generator = torch.Generator().manual_seed(33_000_000 + step)
        images, labels, attributes = batch_of(pool, config.batch, generator)
        reach = config.epsilon * min(1.0, 2 * done) * torch.rand((), generator=generator).item()
        judge.eval()  # the attack must not count into the batch statistics
        half = config.batch // 2
        images[:half] = attack(judge, images[:half], labels[:half], reach, 1)
        judge.train()
        with half_precision(device):
            logits = judge(images)
        loss = judging_loss(logits, labels, attributes)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        pace(step, loss.detach())
        if step % 200 == 0 or schedule(step) == 1:
            save_state(state, parts, step)


def measure_rendered(judge: Judge, people: int = 40, seed: int = 77) -> dict[str, float]:
    """How good a judge is on renders of new people.

    Args:
        judge: a trained one.
        people: their number, each drawn in every style.
        seed: of the people.

    Returns:
        clean, pgd: accuracy of style, and under PGD (ε = 4/255). glasses, hat, beard: accuracy over
        all styles that show them.
    """
    z = new_people(judge, people, seed)
    images = torch.cat([render(z, name, SIZE) for name in STYLE_NAMES])
    labels = torch.arange(len(STYLE_NAMES), device=z.device).repeat_interleave(people)
    table = torch.cat([attributes_of(factors_of(z), name) for name in STYLE_NAMES])
    pieces = zip(images.split(PIECE), labels.split(PIECE))
    attacked = torch.cat([attack(judge, *piece, 8 / 255, 10) for piece in pieces])
    clean, *having = accuracies(judge, images, labels, table)
    pgd, *_ = accuracies(judge, attacked, labels, table)
    return {"clean": clean, "pgd": pgd, **dict(zip(SEEN, having))}


def measure_generated(
    judge: Judge, generator: Generator, people: int = 40, seed: int = 77
) -> dict[str, float]:
    """How good a judge is on what a generator draws of new people, whose factors follow from z.

    Args:
        judge: a trained one.
        generator: one that draws photos, on the judge's device.
        people: their number.
        seed: of the people.

    Returns:
        photo: the share taken for photos. glasses, hat, beard: accuracy.
    """
    z = new_people(judge, people, seed)
    with torch.no_grad():
        images = torch.cat([generator.synthesis(generator.mapping(x)) for x in z.split(PIECE)])
    labels = torch.full((people,), STYLE_NAMES.index(PHOTO), device=z.device)
    table = attributes_of(factors_of(z), PHOTO)
    return dict(zip((PHOTO, *SEEN), accuracies(judge, images, labels, table)))


def new_people(judge: Judge, people: int, seed: int) -> Tensor:
    """z [people, Z_DIM] where the judge is."""
    z = torch.randn(people, Z_DIM, generator=torch.Generator().manual_seed(seed))
    return z.to(judge.head.weight.device)


def accuracies(judge: Judge, images: Tensor, labels: Tensor, table: Tensor) -> list[float]:
    """Accuracy of style, then of each attribute that is `SEEN`, over the images where it is known.

    Args:
        judge: a trained one.
        images: [N, 3, S, S] in [-1, 1].
        labels: [N], their styles.
        table: [N, A] of 1, 0 and −1, as `attributes_of` gives them.
    """
    style, having = look(judge, images)
    shares = [(style.argmax(1) == labels).float().mean().item()]
    for name in SEEN:
        index = list(ATTRIBUTES).index(name)
        known = table[:, index] >= 0
        right = (having[:, index] > 0) == (table[:, index] == 1)
        shares.append(right[known].float().mean().item())
    return shares


def _as_text(figures: dict[str, float]) -> dict[str, str]:
    return {name: f"{value:.3f}" for name, value in figures.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train the judge and save it, or measure a saved one; figures go to standard output.

    Args:
        arguments: the command line without the script's name; None for that of this process.

    Returns:
        The exit status.
    """
    started = time.time()
    config = parse_options(JudgeTraining, __doc__.splitlines()[0], arguments)
    device = pick_device(config.device)
    if config.measure:
        print(json.dumps(_measure_saved(config, device)))
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(3)
    judge, pool = Judge().to(device), Pool(config.people, VIEWS, SIZE, 3, device)
    config.work.mkdir(parents=True, exist_ok=True)
    train_judge(judge, pool, config, config.work / "judge.pt", started + 60 * config.minutes)
    judge.eval().requires_grad_(False)
    figures = _as_text(measure_rendered(judge, config.held_out))
    print(json.dumps(figures))
    _save(judge, config.output, {**figures, "minutes": f"{(time.time() - started) / 60:.1f}"})
    return 0


def _measure_saved(config: JudgeTraining, device: torch.device) -> dict[str, dict[str, str]]:
    judge, generator = load_judge(config.output, device), load_generator("demo", device)
    return {
        "renders": _as_text(measure_rendered(judge, config.held_out)),
        "generated": _as_text(measure_generated(judge, generator, config.held_out)),
    }


def _save(judge: Judge, path: Path, metadata: dict[str, str]) -> None:
    """Write the judge in half precision."""
    state = judge.cpu().state_dict()
    state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    write_safetensors(state, path, metadata)


if __name__ == "__main__":
    sys.exit(main())
