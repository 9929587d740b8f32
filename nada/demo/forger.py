"""What fools CLIP, and how near the truth that is: images for CLIP to learn from as it trains.

Distortions and attacks on single images do not prepare a small CLIP for what adaptation does to
it: move all the layers of a generator for a hundred steps, wherever the loss falls. Its answer was
haze in the colours of the style. So that is done here, to CLIP as it stands, style after style, and
CLIP learns how each image really compares with the true render of the same person: in which
direction it moved and how far it came (`agreement`). Nothing like it is known for photographs.
"""

from __future__ import annotations

import copy
import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.augment import RandomViews
from nada.clip import CLIP
from nada.demo.data import Pool
from nada.demo.styles import STYLE_NAMES
from nada.demo.training import half_precision
from nada.generator import Generator
from nada.guidance import DirectionalLoss
from nada.layers import candidates, freeze_all_but

FRESH, REMEMBERED = 8, 16  # pairs of images in a batch, beside a perfect one for each fresh one
MEMORY = 64  # batches' worth of remembered pairs
EPISODE = (8, 60)  # steps against one style
RATE = (0.003, 0.012)  # of Adam, drawn for each style


def bands(change: Tensor) -> list[Tensor]:
    """A change of images [N, 3, S, S] → colour of places, of parts and edges, [N, K] each: three
    bands of frequencies, weighted so that faces and edges count as the eye counts them."""
    size = change.shape[-1]
    axis = (torch.arange(size, device=change.device) + 0.5) / size * 2 - 1
    middle = 1 + 3 * torch.exp(-(axis.square() + axis[:, None].square()) / 0.35)  # where faces are
    half, eighth = F.avg_pool2d(change, 2), F.avg_pool2d(change, 8)
    parts = half - F.interpolate(eighth, scale_factor=4)
    edges = change - F.interpolate(half, scale_factor=2)
    weights = [F.avg_pool2d(middle[None, None], step).sqrt() for step in (8, 2, 1)]
    scales = (8.0, 3.0, 2.0)  # sides of the pixels, the finer ones weighted up
    return [(x * w * s).flatten(1) for x, w, s in zip((eighth, parts, edges), weights, scales)]


def agreement(change: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """How a change of images compares with the true one.

    Args:
        change: [N, 3, S, S], after − before.
        truth: the same of the true renders.

    Returns:
        The cosine of their directions [N], and the share of the way [N] in [0, 1]: what of the true
        change is explained.
    """
    a, b = (torch.cat(bands(x), 1) for x in (change, truth))
    inside, length, whole = (a * b).sum(1), a.norm(dim=1), b.norm(dim=1).clamp(min=1e-6)
    cosine = inside / (length * whole).clamp(min=1e-6)
    share = 1 - (a - b).square().sum(1) / whole.square()
    return cosine, share.clamp(0, 1)


class Forger:
    """A copy of `base` that is adapted against CLIP, one random style after another."""

    def __init__(self, base: Generator, pool: Pool, seed: int, times: int = 1):
        """Begin with no style and nothing remembered.

        Args:
            base: what is adapted; it stays as it is.
            pool: the people shown, and the truth about them.
            seed: of all that is drawn at random.
            times: a factor on the images of a batch, for a GPU.
        """
        self.base, self.pool = base.requires_grad_(False), pool
        self.side = pool.images.shape[-1]
        self.fresh, self.remembered = FRESH * times, REMEMBERED * times
        self.device = base.mean_latent.device
        self.rng, self.views = random.Random(seed), RandomViews(1)
        self.views.seed(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.memory: list[Tensor] = []  # columns: z, before, after, truth, style
        self.left = 0

    def _start(self) -> None:
        """A fresh copy against a new style."""
        self.copy = copy.deepcopy(self.base)
        self.style = self.rng.randrange(1, len(STYLE_NAMES))
        self.people, self.view = (self.pool.styles == self.style).nonzero(as_tuple=True)
        freeze_all_but(self.copy, candidates(self.copy, resolution=self.side), noise=False)
        trained = [p for p in self.copy.parameters() if p.requires_grad]
        low, high = map(math.log, RATE)
        rate = math.exp(self.rng.uniform(low, high))
        fused = self.device.type != "cpu"
        self.optimizer = torch.optim.Adam(trained, rate, betas=(0.0, 0.99), fused=fused)
        self.left = self.rng.randint(*EPISODE)

    def __call__(self, clip: CLIP, names: Tensor) -> dict[str, Tensor]:
        """One step against CLIP.

        Args:
            clip: as it stands now; it is left as it is.
            names: [S, D], its texts for the styles.

        Returns:
            Pairs of the generator's images: before, after [N, 3, S, S] in [-1, 1], style [N],
            z [N, 96], and the truth about them: cosine [N], share [N] (`agreement`) and length [N],
            of the change relative to the true one. New ones, what a perfect adaptation would have
            made, and remembered ones.
        """
        if not self.left:
            self._start()
        self.left -= 1
        drawn = torch.randint(len(self.people), (self.fresh,), generator=self.generator)
        people, view = self.people[drawn], self.view[drawn]
        z = self.pool.z[people].to(self.device)
        with torch.no_grad():
            ws = self.base.mapping(z)
            before = self._paint(self.base, ws)
        after = self._attack(clip, names, ws, before)
        photos = self.pool.images_of(people, torch.zeros_like(view))
        truth = self.pool.images_of(people, view) - photos
        style = torch.full((self.fresh,), self.style, device=self.device)
        fresh = (z, before, after, truth, style)
        self._remember(*fresh)
        amount = 0.3 + 0.9 * torch.rand(self.fresh, 1, 1, 1, generator=self.generator)
        amount = amount.to(self.device)
        perfect = (z, before, (before + amount * truth).clamp(-1, 1), truth, style)
        places = torch.randint(len(self.memory[0]), (self.remembered,), generator=self.generator)
        old = [column[places.to(self.device)] for column in self.memory]
        z, before, after, truth, style = map(torch.cat, zip(fresh, perfect, old))
        change = after - before
        cosine, share = agreement(change, truth)
        length = change.flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1).clamp(min=1e-6)
        return {"before": before, "after": after, "style": style, "z": z,
                "cosine": cosine, "share": share, "length": length}  # fmt: skip

    def _paint(self, generator: Generator, ws: Tensor) -> Tensor:
        with half_precision(ws.device):
            image = generator.synthesis(ws, resolution=self.side)
        return image.float().clamp(-1, 1)

    def _attack(self, clip: CLIP, names: Tensor, ws: Tensor, before: Tensor) -> Tensor:
        """Adapt by one step as `nada.adapt` does; the images it was taken from."""
        names = names.detach()
        directional = DirectionalLoss(clip, names[self.style] - names[0])
        was_training = clip.training
        clip.eval().requires_grad_(False)
        after = self._paint(self.copy, ws)
        views = torch.cat(self.views.draw(self.side, before, after))
        source, adapted = clip.encode_image(views).chunk(2)
        loss = directional.compare(source.detach(), adapted)
        loss = loss + (1 - adapted @ names[self.style]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        clip.requires_grad_(True).train(was_training)
        return after.detach()

    def _remember(self, *columns: Tensor) -> None:
        """Keep the pairs of a batch, in the place of random ones where there are enough."""
        if not self.memory:
            self.memory = [column.clone() for column in columns]
        elif len(self.memory[0]) < MEMORY * self.remembered:
            self.memory = [torch.cat(pair) for pair in zip(self.memory, columns)]
        else:
            places = torch.randperm(len(self.memory[0]), generator=self.generator)[: self.fresh]
            for column, new in zip(self.memory, columns):
                column[places.to(self.device)] = new
