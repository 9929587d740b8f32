"""Images from seeds: tensors, PIL images, grids; of any number, batch by batch."""

import math
import re
from collections.abc import Iterable, Iterator

import torch
from PIL import Image
from torch import Tensor

from nada.compute import convolutions_in, uses_bf16
from nada.generator import Generator

BRIGHTEST = 1e6  # a value beyond it, of some 1 that are usual, belongs to no image
MOST_PIXELS = 2**27  # of a grid; viewers give up on much more
DASHES = "-‐‑‒–—−"  # as keyboards, word processors and other writing systems have them


class ImageError(ValueError):
    """Images that are none, since their numbers are not; the message is a sentence for the user."""


def parse_seeds(text: str, most: int = 10_000) -> list[int]:
    """The seeds that "0-7", "3, 7, 20-22" or "1 – 8" mean, in order.

    Args:
        text: numbers and ranges between commas, semicolons or spaces; any dash makes a range.
        most: how many seeds are allowed.

    Raises:
        ValueError: anything else, ranges that run backwards, or more than `most` seeds.
    """
    seeds: list[int] = []
    text = re.sub(rf"(?<=[0-9])\s*[{DASHES}]\s*(?=[0-9])", "-", text).strip(" \t\r\n,;")
    for part in re.split(r"[\s,;]+", text):
        match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", part)
        if not match:
            raise ValueError(f"The seeds contain {part[:40]!r}; write 0-7 or 3, 7, 20-22.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ValueError(f"The seeds {part} run backwards; write {last}-{first}.")
        if len(seeds) + last - first + 1 > most:
            raise ValueError(f"Those are more than {most} seeds; give fewer.")
        seeds += range(first, last + 1)
    return seeds


def latents(seeds: Iterable[int], z_dim: int) -> Tensor:
    """One z per seed, [N, z_dim] on the CPU: a seed means the same image on every device.

    Args:
        seeds: whole numbers.
        z_dim: width of z.

    Raises:
        ValueError: a seed that is not a whole number from −2⁶³ to 2⁶⁴ − 1.
    """
    seeds = list(seeds)
    for seed in seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**64:
            raise ValueError(f"A seed is {seed!r}; a whole number such as 7 was expected.")
    rows = [torch.randn(1, z_dim, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.cat(rows) if rows else torch.empty(0, z_dim)


def sample_batches(
    generator: Generator,
    seeds: Iterable[int],
    truncation_psi: float = 0.7,
    batch: int = 8,
    precision: str = "fp32",
) -> Iterator[Tensor]:
    """The images of `seeds`, `batch` of them after the other: [n, 3, size, size] in [-1, 1] on the
    generator's device. Only one batch is in memory, however many seeds there are.

    Args:
        generator: any generator; its stored noise is used.
        seeds: whole numbers, one image each.
        truncation_psi: 1 for all the variety, 0 for the mean image.
        batch: how many to compute at once.
        precision: one of `nada.compute.PRECISIONS`.

    Raises:
        ValueError: a seed, truncation, batch size or precision that makes no sense.
        ImageError: a batch that is not finite, when it is drawn.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; at least 1 was expected.")
    if not math.isfinite(truncation_psi):
        raise ValueError(f"truncation_psi is {truncation_psi}; a number such as 0.7 was expected.")
    device = generator.mean_latent.device
    uses_bf16(precision, device)  # an unknown one is told now, not at the first batch
    z = latents(seeds, generator.z_dim)

    @torch.no_grad()  # not around the loop: it would reach whoever takes the batches
    def draw(z: Tensor) -> Tensor:
        ws = generator.mapping(z.to(device), truncation_psi)
        with convolutions_in(precision, device):
            return check_images(generator.synthesis(ws)).clamp(-1, 1)

    return (draw(part) for part in z.split(batch) if len(part))


def sample(
    generator: Generator,
    seeds: Iterable[int],
    truncation_psi: float = 0.7,
    batch: int = 8,
    precision: str = "fp32",
) -> Tensor:
    """The images of `seeds`, [N, 3, size, size] in [-1, 1] on the generator's device.

    Args:
        generator, seeds, truncation_psi, batch, precision: as `sample_batches` takes them.

    Raises:
        ValueError, ImageError: as `sample_batches` raises them.
    """
    images = list(sample_batches(generator, seeds, truncation_psi, batch, precision))
    if not images:
        return generator.mean_latent.new_empty(0, 3, generator.size, generator.size)
    return torch.cat(images)


def check_images(images: Tensor) -> Tensor:
    """The same images; those that would be drawn black or as flat colour raise ImageError."""
    if images.numel():
        low, high = images.detach().aminmax()  # nan if there is one
        if not -BRIGHTEST < low <= high < BRIGHTEST:
            raise ImageError(
                "The pictures are not pictures any more: their numbers have no end. Choose a "
                "smaller strength or truncation, or another domain."
            )
    return images


def to_images(images: Tensor) -> list[Image.Image]:
    """[N, 3, H, W] in [-1, 1] (clamped) → N PIL images of W × H pixels.

    Raises:
        ImageError: they are not finite.
    """
    pixels = ((check_images(images).detach().float() + 1) * 127.5).round().clamp(0, 255)
    pixels = pixels.to("cpu", torch.uint8).permute(0, 2, 3, 1)  # [N, H, W, 3]
    return [Image.fromarray(image.numpy()) for image in pixels]


class Grid:
    """One image of many, filled row by row as they come; spare cells are white.

    Args:
        count: images to come.
        columns: images in a row.
        width, height: pixels of an image.

    Raises:
        ValueError: no image, less than one column, or more than MOST_PIXELS pixels.
    """

    def __init__(self, count: int, columns: int, width: int, height: int):
        if count < 1 or columns < 1:
            raise ValueError(
                f"A grid of {count} images in {columns} columns is empty; give 1 or more of both."
            )
        size = columns * width, -(-count // columns) * height
        if math.prod(size) > MOST_PIXELS:
            raise ValueError(
                f"A grid of {size[0]} × {size[1]} pixels is too large to look at; draw fewer "
                "images, or each into a file of its own (--folder)."
            )
        self.columns, self.filled = columns, 0
        self.image = Image.new("RGB", size, "white")

    def add(self, images: Tensor) -> None:
        """Fill the next cells with [N, 3, H, W] in [-1, 1]."""
        for image in to_images(images):
            row, column = divmod(self.filled, self.columns)
            self.image.paste(image, (column * image.width, row * image.height))
            self.filled += 1


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """[N, 3, H, W] in [-1, 1] → one image, row by row, `columns` wide; spare cells are white.

    Args:
        images: clamped to [-1, 1].
        columns: images in a row.

    Raises:
        ValueError: as `Grid` raises it.
    """
    n, _, height, width = images.shape
    grid = Grid(n, columns, width, height)
    grid.add(images)
    return grid.image
