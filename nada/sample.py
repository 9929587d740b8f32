"""Images from seeds: tensors, PIL images, grids."""

import math
import re
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nada.compute import convolutions_in
from nada.generator import Generator

DASHES = "-‐‑‒–—−"  # as keyboards, word processors and other writing systems have them


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


@torch.no_grad()
def sample(
    generator: Generator,
    seeds: Iterable[int],
    truncation_psi: float = 0.7,
    batch: int = 8,
    precision: str = "fp32",
) -> Tensor:
    """The images of `seeds`, [N, 3, size, size] in [-1, 1] on the generator's device.

    Args:
        generator: any generator; its stored noise is used.
        seeds: whole numbers, one image each.
        truncation_psi: 1 for all the variety, 0 for the mean image.
        batch: how many to compute at once.
        precision: one of `nada.compute.PRECISIONS`.

    Raises:
        ValueError: a seed, truncation, batch size or precision that makes no sense.
    """
    if batch < 1:
        raise ValueError(f"batch is {batch}; at least 1 was expected.")
    if not math.isfinite(truncation_psi):
        raise ValueError(f"truncation_psi is {truncation_psi}; a number such as 0.7 was expected.")
    z = latents(seeds, generator.z_dim).to(generator.mean_latent.device)
    ws = generator.mapping(z, truncation_psi)
    with convolutions_in(precision, z.device):
        images = [generator.synthesis(part) for part in ws.split(batch) if len(part)]
    if not images:
        return z.new_empty(0, 3, generator.size, generator.size)
    return torch.cat(images).clamp(-1, 1)


def to_images(images: Tensor) -> list[Image.Image]:
    """[N, 3, H, W] in [-1, 1] (clamped) → N PIL images of W × H pixels."""
    pixels = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255)
    pixels = pixels.to("cpu", torch.uint8).permute(0, 2, 3, 1)  # [N, H, W, 3]
    return [Image.fromarray(image.numpy()) for image in pixels]


def image_grid(images: Tensor, columns: int) -> Image.Image:
    """[N, 3, H, W] in [-1, 1] → one image, row by row, `columns` wide; spare cells are white.

    Args:
        images: clamped to [-1, 1].
        columns: images in a row.

    Raises:
        ValueError: no image, or less than one column.
    """
    n, _, height, width = images.shape
    if n < 1 or columns < 1:
        raise ValueError(
            f"A grid of {n} images in {columns} columns is empty; give 1 or more of both."
        )
    rows = -(-n // columns)
    filled = F.pad(images, (0, 0, 0, 0, 0, 0, 0, rows * columns - n), value=1.0)
    cells = filled.view(rows, columns, 3, height, width).permute(2, 0, 3, 1, 4)
    return to_images(cells.reshape(1, 3, rows * height, columns * width))[0]
