"""Pictures to learn from: a pool of renders, and random distortions that cost little."""

from __future__ import annotations

import math
import random
import shutil
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.demo.captions import ATTRIBUTES, attributes_of, with_attribute
from nada.demo.render import Z_DIM, blur, factors_of, portrait
from nada.demo.styles import PHOTO, STYLE_NAMES, STYLES, draw_attribute, draw_partly


class Pool:
    """People, each as a photo, as a photo with one attribute given, and in some other styles.

    Attributes: images [P, V, 3, S, S] uint8 on `device` (view 0 is the photo, view 1 the one with
    `given` [P], an index of ATTRIBUTES); on the CPU styles [P, V] indices, attributes [P, V, A]
    (1, 0, −1), z [P, Z_DIM].
    """

    def __init__(self, people: int, views: int, size: int, seed: int, device="cpu", report=print):
        generator = torch.Generator().manual_seed(seed)
        self.z = torch.randn(people, Z_DIM, generator=generator)
        self.given = torch.randint(len(ATTRIBUTES), (people,), generator=generator)
        order = torch.rand(people, len(STYLE_NAMES) - 1, generator=generator).argsort(1) + 1
        photos = torch.zeros(people, 2, dtype=torch.long)
        self.styles = torch.cat([photos, order[:, : views - 2]], 1)
        self.images = torch.empty(people, views, 3, size, size, dtype=torch.uint8, device=device)
        at_once = 64 if self.images.device.type == "cpu" else 512
        self.attributes = torch.empty(people, views, len(ATTRIBUTES), dtype=torch.int8)
        started = time.time()
        for index, name in enumerate(STYLE_NAMES):
            where = self.styles == index
            where[:, 1] = False
            for part in where.nonzero().split(at_once):
                factors = factors_of(self.z[part[:, 0]])
                pictures = STYLES[name](portrait(factors.to(device)), size)
                self._keep(part, pictures, attributes_of(factors, name))
        for index, name in enumerate(ATTRIBUTES):
            for rows in (self.given == index).nonzero()[:, 0].split(at_once):
                factors = factors_of(self.z[rows])
                table = with_attribute(attributes_of(factors, PHOTO), name)
                part = torch.stack([rows, torch.ones_like(rows)], 1)
                self._keep(part, draw_attribute(portrait(factors.to(device)), name, size), table)
        report(f"rendered {people * views} pictures in {time.time() - started:.0f} s", flush=True)

    def _keep(self, where: Tensor, pictures: Tensor, attributes: Tensor) -> None:
        person, view = where.unbind(1)
        device = self.images.device
        self.images[person.to(device), view.to(device)] = (pictures * 255).round().byte()
        self.attributes[person, view] = attributes.to(torch.int8)

    def __len__(self) -> int:
        return len(self.images)

    def pictures(self, people: Tensor, views: Tensor) -> Tensor:
        """[N] and [N] → [N, 3, S, S] in [-1, 1]."""
        device = self.images.device
        return self.images[people.to(device), views.to(device)].float() / 127.5 - 1


class PartlyStyled:
    """Pictures that have only some of a style's cues: what a fooled CLIP would call the style.

    Attributes: images [P, 3, S, S] uint8 of the people of a pool, where that has its own;
    styles [P], shares [P] on the CPU.
    """

    def __init__(self, pool: Pool, size: int, seed: int):
        rng = random.Random(seed)
        people, device = len(pool), pool.images.device
        self.images = torch.empty(people, 3, size, size, dtype=torch.uint8, device=device)
        self.styles = torch.zeros(people, dtype=torch.long)
        self.shares = torch.zeros(people)
        with torch.no_grad():
            together = 8 if device.type == "cpu" else 32  # people who share the choice of cues
            for rows in torch.arange(people).split(together):
                index = rng.randrange(1, len(STYLE_NAMES))
                chance = rng.uniform(0.2, 0.9)
                picture, share = draw_partly(
                    STYLES[STYLE_NAMES[index]],
                    portrait(factors_of(pool.z[rows].to(device))),
                    size,
                    lambda chance=chance: rng.random() < chance,
                )
                self.images[rows.to(device)] = (picture * 255).round().byte()
                self.styles[rows], self.shares[rows] = index, share

    def pictures(self, people: Tensor) -> Tensor:
        """[N] → [N, 3, S, S] in [-1, 1]."""
        return self.images[people.to(self.images.device)].float() / 127.5 - 1


def kept(kind: type, path: Path, *arguments):
    """`kind(*arguments)`, a Pool or PartlyStyled; from the file where there is one already.

    What a GPU rendered is not kept: to render it again takes seconds.
    """
    if path.exists():
        pictures = object.__new__(kind)
        vars(pictures).update(torch.load(path, weights_only=True))
        return pictures
    pictures = kind(*arguments)
    if pictures.images.device.type == "cpu":
        torch.save(vars(pictures), path)
    return pictures


def patches(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth random masks [N, 1, size, size] in [0, 1] that cover any share of a picture."""
    coarse = torch.randn(n, 1, 5, 5, generator=generator)
    bias = 3 * torch.rand(n, 1, 1, 1, generator=generator) - 1.5
    smooth = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return torch.sigmoid(6 * (smooth + bias))


def distort(images: Tensor, strength: float = 1.0, noise: float = 0.06) -> Tensor:
    """Random flip, shift, size, rotation, colour, cutout, blur and noise; [N, 3, S, S] in [-1, 1].

    The colour changes are one 3×3 matrix and an offset: far cheaper than one after the other.
    Uses torch's global randomness.
    """
    n, _, size, _ = images.shape
    rand = partial(torch.rand, device=images.device)
    angle = (rand(n) - 0.5) * 0.35 * strength
    zoom = 1 + (rand(n) - 0.5) * 0.36 * strength
    flip = torch.where(rand(n) < 0.5, -1.0, 1.0)
    shift = (rand(n, 2) - 0.5) * 0.20 * strength
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack(
        [
            torch.stack([cos * flip, -sin, shift[:, 0]], 1),
            torch.stack([sin * flip, cos, shift[:, 1]], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, images.shape, align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    luma = images.new_tensor([0.299, 0.587, 0.114]).expand(3, 3)
    saturation = 1 + (rand(n, 1, 1) - 0.5) * 0.5 * strength
    contrast = 1 + (rand(n, 1, 1) - 0.5) * 0.5 * strength
    gains = 1 + (rand(n, 3, 1) - 0.5) * 0.16 * strength
    unchanged = torch.eye(3, device=images.device)
    matrix = gains * contrast * (saturation * unchanged + (1 - saturation) * luma)
    offset = (rand(n, 1, 1) - 0.5) * 0.3 * strength
    images = (matrix @ images.flatten(2) + offset).view_as(images)
    if torch.rand(()) < 0.35 * strength:
        images = blur(images, 0.3 + 0.7 * torch.rand(()).item() * size / 64)
    half, centre = rand(n, 1) * 0.28 * strength, rand(n, 2, 1) * 2 - 1
    axis = (torch.arange(size, device=images.device) + 0.5) / size * 2 - 1
    inside = (axis - centre).abs() < half[:, None]  # [N, 2, S]
    hole = (inside[:, 0, :, None] & inside[:, 1, None, :] & (rand(n, 1, 1) < 0.4))[:, None]
    images = torch.where(hole, rand(n, 3, 1, 1) * 2 - 1, images)
    level = noise * strength * rand(n, 1, 1, 1)
    return (images + level * torch.randn_like(images)).clamp(-1, 1)


def has_compiler() -> bool:
    """Whether `torch.compile` finds a compiler for the CPU."""
    return bool(shutil.which("g++") or shutil.which("c++"))


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where it is faster: on a GPU models so small are held up by other things."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cpu")


@torch.no_grad()
def fit_linear(head: nn.Linear, features: Tensor, truth: Tensor) -> None:
    """The head that reads `truth` [N, O] best off `features` [N, I], by least squares with a little
    damping: for what was trained before, without its head."""
    ones = torch.ones(len(features), 1, device=features.device)
    damping = 0.1 * torch.eye(features.shape[1] + 1, device=features.device)
    table = torch.cat([torch.cat([features, ones], 1), damping])
    solution = torch.linalg.lstsq(table, F.pad(truth, (0, 0, 0, len(damping)))).solution
    head.weight.copy_(solution[:-1].T)
    head.bias.copy_(solution[-1])


class Pace:
    """Tells every `every` steps how a training loop gets on: smoothed loss, speed, time to go."""

    def __init__(self, steps: int, every: int, done: int = 0, label: str = ""):
        self.steps, self.every, self.done, self.label = steps, every, done, label
        self.since, self.loss = time.time(), None

    def __call__(self, step: int, loss: Tensor | float) -> None:
        """`step` steps are done, the last one with this loss, which is not waited for."""
        self.loss = loss if self.loss is None else 0.98 * self.loss + 0.02 * loss
        if step % self.every and step != self.steps:
            return
        self.loss = float(self.loss)
        now = time.time()
        pace = (now - self.since) / (step - self.done)
        self.since, self.done = now, step
        print(
            f"{self.label}step {step}/{self.steps}  loss {self.loss:.4f}  "
            f"{pace * 1e3:.0f} ms/step  eta {(self.steps - step) * pace / 60:.1f} min",
            flush=True,
        )


class Schedule:
    """How far a training is, from 0 to 1: by its steps, or by the clock where it must be over at
    `deadline` (seconds as `time.time` tells them)."""

    def __init__(self, steps: int, deadline: float = math.inf):
        self.steps, self.begun = steps, time.time()
        self.span = max(1.0, deadline - self.begun)

    def __call__(self, step: int) -> float:
        return min(1.0, max(step / self.steps, (time.time() - self.begun) / self.span))


def cosine_rate(progress: float) -> float:
    """Learning-rate factor: half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))
