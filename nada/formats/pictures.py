"""Pictures from people, read as data: bounded before they are decoded, and made alike.

Whatever Pillow's own readers of the usual formats can read becomes a square of colours: the first
frame of a moving picture, upright as its EXIF says, whatever is transparent on white, the middle of
a long one.
"""

import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nada.formats.messages import quote

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MOST = 16  # pictures of one target
MOST_BYTES = 32 * 2**20  # of one file
MOST_PIXELS = 50_000_000  # of one picture: 200 MB while it is read
LEAST_SIDE = 16
SIDE = 448  # pixels a side of what is kept: what the largest usual CLIP looks at
HINT = "give a PNG, JPEG, WebP, GIF, BMP or TIFF picture"
# how files begin that people take for pictures
OTHERS = {
    b"<svg": "a drawing of lines (SVG): export it as PNG",
    b"<?xml": "a drawing of lines (SVG) or another text: export it as PNG",
    b"%PDF": "a PDF: export its page as PNG",
    b"\x1aE\xdf\xa3": "a video: save a frame of it as PNG",
}
VIDEO, HEIF = (b"ftyp",), (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avif", b"avis")


class PictureError(ValueError):
    """A picture that cannot be used; the message is a sentence for whoever gave it."""


class Pictures(NamedTuple):
    """Pictures of the wanted domain.

    Attributes:
        images: [N, 3, SIDE, SIDE] in [-1, 1].
        digests: sha256 of each file, all that a domain file says of them.
    """

    images: Tensor
    digests: tuple[str, ...]


def read_pictures(files: Sequence[str | Path]) -> Pictures:
    """Read 1 to MOST pictures.

    Raises:
        PictureError: too few or too many, or one that cannot be used, which is named.
    """
    if not 1 <= len(files) <= MOST:
        raise PictureError(f"Got {len(files)} pictures: give 1 to {MOST}.")
    images, digests = zip(*map(read_picture, files), strict=True)
    return Pictures(torch.stack(images), digests)


def read_picture(file: str | Path) -> tuple[Tensor, str]:
    """A picture as [3, SIDE, SIDE] in [-1, 1], and the sha256 of its file.

    Raises:
        PictureError: it is missing, no picture that is known here, broken, too large or too small.
    """
    path = Path(file)
    name = quote(path.name)
    data = _bytes(path, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on files that are a little out of order
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_size(picture, name)
                square = _square(picture)
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} {_what_else(data)}") from error
    except PictureError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise PictureError(f"{name} has too many pixels: make it smaller.") from error
    except Exception as error:  # whatever a reader says of a file that breaks off or lies
        raise PictureError(
            f"{name} is broken ({str(error)[:80] or type(error).__name__}): save it again."
        ) from error
    return _tensor(square), hashlib.sha256(data).hexdigest()


def _bytes(path: Path, name: str) -> bytes:
    try:
        size = os.stat(path).st_size
        if not path.is_file():
            raise PictureError(f"{name} is no file: {HINT}.")
        if not size:
            raise PictureError(f"{name} is empty: {HINT}.")
        if size > MOST_BYTES:
            raise PictureError(
                f"{name} has {size / 2**20:.0f} MB, more than {MOST_BYTES // 2**20}: "
                "make the picture smaller."
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(f"{name} cannot be read: {HINT}.") from error


def _check_size(picture: Image.Image, name: str) -> None:
    """Before anything is decoded."""
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise PictureError(
            f"{name} has {width} × {height} pixels, more than {MOST_PIXELS // 10**6} million: "
            "make it smaller."
        )
    if min(width, height) < LEAST_SIDE:
        raise PictureError(
            f"{name} has {width} × {height} pixels: give one of {LEAST_SIDE} a side or more."
        )


def _square(picture: Image.Image) -> Image.Image:
    """The middle of a picture's first frame in colours, SIDE pixels a side."""
    picture.draft("RGB", (SIDE, SIDE))  # a large JPEG is decoded at a fraction of its size
    picture.load()
    upright = ImageOps.exif_transpose(picture)
    return ImageOps.fit(_coloured(upright), (SIDE, SIDE), Image.Resampling.LANCZOS)


def _coloured(picture: Image.Image) -> Image.Image:
    """RGB of any mode: 16 bits a channel become 8, what is transparent lies on white."""
    if picture.mode.startswith("I"):  # 16 bits, and 32 that hold 16
        picture = picture.convert("I").point(lambda value: value / 257).convert("L")
    if picture.mode == "F":
        low, high = cast(tuple[float, float], picture.getextrema())
        scale = 255 / ((high - low) or 1)
        picture = picture.point(lambda value: value * scale - low * scale).convert("L")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def _tensor(picture: Image.Image) -> Tensor:
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(SIDE, SIDE, 3).permute(2, 0, 1).float() / 127.5 - 1


def _what_else(data: bytes) -> str:
    """What a file is that is no picture, and what to do."""
    start = data[:256].lstrip().lower()
    for beginning, what in OTHERS.items():
        if start.startswith(beginning.lower()):
            return f"is {what}."
    if data[4:8] in VIDEO:
        if data[8:12] in HEIF:
            return f"is a photo in HEIF or AVIF: {HINT}."
        return "is a video: save a frame of it as PNG."
    return f"is no picture: {HINT}."
