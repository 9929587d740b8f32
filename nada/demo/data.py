"""Images to learn from: a pool of renders, and random distortions that cost little."""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.demo.captions import ATTRIBUTES, attributes_of, with_attribute
from nada.demo.render import Z_DIM, blur, factors_of, portrait
from nada.demo.styles import PHOTO, STYLE_NAMES, STYLES, draw_attribute, draw_partly
from nada.formats.files import written_whole


class Pool:
    """People, each as a photo, as a photo with one attribute given, and in some other styles.

    Attributes: images [P, V, 3, S, S] uint8 on `device` (view 0 is the photo, view 1 the one with
    `given` [P], an index of ATTRIBUTES); on the CPU styles [P, V] indices, attributes [P, V, A]
    (1, 0, −1), z [P, Z_DIM].
    """

    def __init__(self, people: int, views: int, size: int, seed: int, device="cpu", report=print):
        """Render it.

        Args:
            people: P.
            views: V, of each person.
            size: S, a side of the images.
            seed: of the people, and of what is shown of them.
            device: where to render, and where the images stay.
            report: called with a line of text at the end.
        """
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
                images = STYLES[name](portrait(factors.to(device)), size)
                self._keep(part, images, attributes_of(factors, name))
        for index, name in enumerate(ATTRIBUTES):
            for rows in (self.given == index).nonzero()[:, 0].split(at_once):
                factors = factors_of(self.z[rows])
                table = with_attribute(attributes_of(factors, PHOTO), name)
                part = torch.stack([rows, torch.ones_like(rows)], 1)
                self._keep(part, draw_attribute(portrait(factors.to(device)), name, size), table)
        report(f"rendered {people * views} pictures in {time.time() - started:.0f} s", flush=True)

    def _keep(self, where: Tensor, images: Tensor, attributes: Tensor) -> None:
        person, view = where.unbind(1)
        device = self.images.device
        self.images[person.to(device), view.to(device)] = (images * 255).round().byte()
        self.attributes[person, view] = attributes.to(torch.int8)

    def __len__(self) -> int:
        return len(self.images)

    def images_of(self, people: Tensor, views: Tensor) -> Tensor:
        """[N] and [N] → [N, 3, S, S] in [-1, 1]."""
        device = self.images.device
        return self.images[people.to(device), views.to(device)].float() / 127.5 - 1


class PartlyStyled:
    """Images that have only some of a style's cues: what a fooled CLIP would call the style.

    Attributes: images [P, 3, S, S] uint8 of the people of a pool, where that has its own;
    styles [P], shares [P] on the CPU.
    """

    def __init__(self, pool: Pool, size: int, seed: int):
        """Render one image of each person.

        Args:
            pool: whose people, and on whose device.
            size: S, a side of the images.
            seed: of the styles and their cues.
        """
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
                image, share = draw_partly(
                    STYLES[STYLE_NAMES[index]],
                    portrait(factors_of(pool.z[rows].to(device))),
                    size,
                    lambda chance=chance: rng.random() < chance,
                )
                self.images[rows.to(device)] = (image * 255).round().byte()
                self.styles[rows], self.shares[rows] = index, share

    def images_of(self, people: Tensor) -> Tensor:
        """[N] → [N, 3, S, S] in [-1, 1]."""
        return self.images[people.to(self.images.device)].float() / 127.5 - 1


def load_or_render(kind: type, path: Path, *arguments):
    """A pool of renders, from its file where there is one already.

    What a GPU renders is not saved: to render it again takes seconds.

    Args:
        kind: `Pool` or `PartlyStyled`.
        path: the file.
        arguments: what `kind` is made from.
    """
    if path.exists():
        renders = object.__new__(kind)
        vars(renders).update(torch.load(path, weights_only=True))
        return renders
    renders = kind(*arguments)
    if renders.images.device.type == "cpu":
        with written_whole(path, RuntimeError) as unfinished:
            torch.save(vars(renders), unfinished)
    return renders


def patches(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth random masks that cover any share of an image.

    Args:
        n: their number.
        size: a side.
        generator: where chance comes from.

    Returns:
        [n, 1, size, size] in [0, 1].
    """
    coarse = torch.randn(n, 1, 5, 5, generator=generator)
    bias = 3 * torch.rand(n, 1, 1, 1, generator=generator) - 1.5
    smooth = F.interpolate(coarse, (size, size), mode="bicubic", align_corners=False)
    return torch.sigmoid(6 * (smooth + bias))


def distort(images: Tensor, strength: float = 1.0, noise: float = 0.06) -> Tensor:
    """Random flip, shift, size, rotation, colour, cutout, blur and noise.

    The colour changes are one 3×3 matrix and an offset: far cheaper than one after the other.
    Uses torch's global randomness.

    Args:
        images: [N, 3, S, S] in [-1, 1]; the result is the same.
        strength: a factor on all changes.
        noise: largest deviation of the noise, before that factor.
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
