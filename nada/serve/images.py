"""Tensors of images as a page shows them: one grid, or a JPEG data URL each."""

import base64
import io

import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nada.sample import image_grid, to_images

GRID_WIDTH = 880  # pixels, about how wide a page shows a grid
LARGE, SMALL = 384, 96  # sides in pixels of an image alone and of one on a card


def page_grid(images: Tensor, columns: int) -> Image.Image:
    """Images [N, 3, H, W] in [-1, 1] as one grid about GRID_WIDTH pixels wide."""
    scale = round(GRID_WIDTH / (columns * images.shape[-1]))
    if scale > 1:  # small ones one by one: smooth inside, sharp where two meet
        images = F.interpolate(images, scale_factor=scale, mode="bicubic")
    grid = image_grid(images, columns)
    if grid.width > GRID_WIDTH * 1.5:
        height = round(grid.height * GRID_WIDTH / grid.width)
        grid = grid.resize((GRID_WIDTH, height), reducing_gap=2.0)
    return grid


def shrunk(images: Tensor, side: int) -> Tensor:
    """Images [N, 3, H, W] of `side` pixels at most, as they are where they are smaller."""
    if images.shape[-1] <= side:
        return images
    return F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)


def columns_for(count: int) -> int:
    """Columns of a grid that is a little wider than high."""
    return next((n for n in (4, 5, 6) if count <= 2 * n), 6) if count > 4 else count


def data_urls(images: Tensor | None, side: int = LARGE) -> list[str] | None:
    """Images [N, 3, H, W] in [-1, 1] as N JPEG data URLs of `side` pixels; None for None."""
    if images is None:
        return None
    return [_data_url(image, side) for image in to_images(images)]


def _data_url(image: Image.Image, side: int) -> str:
    buffer = io.BytesIO()
    if image.width != side:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    image.save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
