"""What experiments compare the method with: other choices of layers, and twins that do not match.

Nothing here is meant for use: each is a control, or a defect of the original program kept apart so
that its price can be measured; and a twin that saves what many runs would compute again.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from nada.generator import Generator
from nada.layers import Objective, candidates, w_shifts

NOISE = ("shared", "independent")
CROSSOVERS = ("paired", "unpaired")


class RandomLayers:
    """k layers drawn at random, new ones at each choice: what any rule of choice has to beat.

    Called as the selectors of `nada.layers`, whose arguments about a gradient pass mean nothing
    here. k = 0 means all candidates.

    Args:
        seed: of the draws.
    """

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)

    def __call__(
        self, generator: Generator, z: Tensor, k: int, names: Sequence[str] | None = None, **_
    ) -> list[str]:
        names = candidates(generator) if names is None else names
        order = torch.randperm(len(names), generator=self.random).tolist()
        return [names[i] for i in order[: k or None]]


def select_by_w_shift_off_by_one(
    generator: Generator,
    z: Tensor,
    objective: Objective,
    k: int,
    names: Sequence[str] | None = None,
    **kwargs,
) -> list[str]:
    """`nada.layers.select_by_w_shift` with the original program's table of rows and layers.

    There row 0 stands for conv1, row 1 for to_rgb1 and row i for convs.(i − 2): one convolution
    below the one that the row drives. k counts rows that stand for a candidate; k = 0 means all.
    kwargs: as `nada.layers.w_shifts` takes it.
    """
    names = candidates(generator) if names is None else names
    if k == 0:
        return list(names)
    table = ("conv1", "to_rgb1", *(f"convs.{i}" for i in range(len(generator.convs))))
    shifts = dict(zip(table, w_shifts(generator, z, objective, **kwargs)))
    ours = [name for name in table if name in names]
    return sorted(ours, key=shifts.__getitem__, reverse=True)[:k]


class UnpairedGenerator(Generator):
    """A frozen twin whose images do not match the trainable one's as they should.

    noise: draw noise of its own instead of taking what the other twin gets.
    crossover: change to the second latent of a mixed ws at a row of its own, as the original
    program does.
    """

    noise = crossover = False
    random: torch.Generator

    @classmethod
    def like(
        cls, generator: Generator, noise: bool, crossover: bool, seed: int
    ) -> "UnpairedGenerator":
        """A copy of `generator` on its device, without gradients."""
        twin = _copy_as(cls, generator)
        twin.noise, twin.crossover = noise, crossover
        twin.random = torch.Generator().manual_seed(seed)
        return twin

    def synthesis(self, ws: Tensor, noise="const", *args, **options) -> Tensor:
        """As `Generator.synthesis`, with the mismatch; only a drawn noise is drawn again."""
        if self.noise and not isinstance(noise, str):
            noise = [torch.randn(n.shape, generator=self.random).to(n) for n in noise]
        first, second = ws[:, :1], ws[:, -1:]
        if self.crossover and not torch.equal(first, second):  # a mixed ws
            row = int(torch.randint(1, self.num_ws, (), generator=self.random))
            parts = [first.expand(-1, row, -1), second.expand(-1, self.num_ws - row, -1)]
            ws = torch.cat(parts, dim=1)
        return super().synthesis(ws, noise, *args, **options)


class CachingGenerator(Generator):
    """A frozen twin that recalls the images it has made: runs of one seed ask for the same.

    ROOM: how many bytes of images it keeps; the oldest go first.
    """

    ROOM = 2**27

    @classmethod
    def like(cls, generator: Generator) -> "CachingGenerator":
        """A copy of `generator` on its device, without gradients."""
        twin = _copy_as(cls, generator)
        twin.made = {}
        return twin

    def synthesis(self, ws: Tensor, noise="const", *args, **options) -> Tensor:
        """As `Generator.synthesis`; only a drawn noise can come again."""
        if isinstance(noise, str):
            return super().synthesis(ws, noise, *args, **options)
        kind = ws.device.type
        types = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind)
        digest = hashlib.sha256(repr((types, args, options)).encode())
        for tensor in (ws, *noise):
            digest.update(tensor.cpu().numpy().tobytes())
        key = digest.digest()
        if key in self.made:
            return self.made[key]
        images = self.made[key] = super().synthesis(ws, noise, *args, **options)
        while sum(known.nbytes for known in self.made.values()) > self.ROOM:
            del self.made[next(iter(self.made))]
        return images


def with_noise(generator: Generator, strength: float) -> Generator:
    """A copy whose convolutions all add noise of this strength (StyleGAN2's B), where the bundled
    generator has none; for 0 the generator itself."""
    if not strength:
        return generator
    noisy = _copy_as(Generator, generator)
    for name in noisy.conv_names:
        noisy.layer(name).noise.weight.data.fill_(strength)
    return noisy


def _copy_as(kind: type[Generator], generator: Generator) -> Generator:
    twin = kind(generator.config).to(generator.mean_latent.device)
    twin.load_state_dict(generator.state_dict())
    twin.mean_latent.copy_(generator.mean_latent)
    return twin.eval().requires_grad_(False)
