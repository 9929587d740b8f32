"""Pictures from people: all usual kinds look as they should, and none that is bad passes."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from nada.__main__ import main
from nada.checkpoint import load_generator
from nada.delta import Delta, blend
from nada.formats.pictures import MOST, SIDE, PictureError, read_picture, read_pictures
from nada.sample import sample

RED, WHITE = (1.0, -1.0, -1.0), (1.0, 1.0, 1.0)


def colour(image: torch.Tensor) -> tuple[float, ...]:
    """The mean of the middle."""
    middle = image[:, SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]
    return tuple(round(x, 2) + 0.0 for x in middle.mean(dim=(1, 2)).tolist())


def read(tmp_path, picture, name, **options) -> torch.Tensor:
    picture.save(tmp_path / name, **options)
    return read_picture(tmp_path / name)[0]


red = Image.new("RGB", (60, 40), "red")


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif", "a.bmp", "a.tiff", "a.jpg"])
def test_every_usual_format_is_read(tmp_path, name):
    image = read(tmp_path, red, name)
    assert image.shape == (3, SIDE, SIDE)
    assert colour(image) == pytest.approx(RED, abs=0.03)


def test_the_name_does_not_matter(tmp_path):
    red.save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "photo.jpg")
    assert colour(read_picture(tmp_path / "photo.jpg")[0]) == RED


def test_what_is_transparent_lies_on_white(tmp_path):
    clear = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    assert colour(read(tmp_path, clear, "a.png")) == WHITE
    half = Image.new("RGBA", (40, 40), (255, 0, 0, 128))
    assert colour(read(tmp_path, half, "b.png")) == pytest.approx((1, 0, 0), abs=0.02)
    palette = Image.new("P", (40, 40), 3)
    palette.putpalette([0, 0, 0] * 3 + [255, 0, 0])
    assert colour(read(tmp_path, palette, "c.gif")) == RED
    assert colour(read(tmp_path, palette, "d.png", transparency=3)) == WHITE
    grey = Image.merge("LA", [Image.new("L", (40, 40), 0), Image.new("L", (40, 40), 0)])
    assert colour(read(tmp_path, grey, "e.png")) == WHITE


def test_sixteen_bits_keep_their_brightness(tmp_path):
    half = Image.fromarray(np.full((40, 40), 32896, dtype=np.uint16))
    assert colour(read(tmp_path, half, "a.png")) == pytest.approx((0, 0, 0), abs=0.01)


def test_cmyk_keeps_its_colours(tmp_path):
    for name in ("a.jpg", "a.tiff"):
        assert colour(read(tmp_path, red.convert("CMYK"), name)) == pytest.approx(RED, abs=0.05)


def test_a_photo_stands_as_its_exif_says(tmp_path):
    """Red above, blue below, stored lying on its side."""
    picture = Image.new("RGB", (40, 40), "blue")
    picture.paste((255, 0, 0), (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    image = read(tmp_path, picture.rotate(90), "a.png", exif=exif)
    assert image[0, SIDE // 4].mean() > 0.9 and image[0, -SIDE // 4].mean() < -0.9


def test_of_a_moving_picture_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (40, 40), name) for name in ("red", "blue", "green")]
    for name in ("a.gif", "a.webp", "a.png"):
        image = read(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
        assert colour(image) == pytest.approx(RED, abs=0.03)


def test_of_a_long_picture_the_middle_counts(tmp_path):
    picture = Image.new("RGB", (300, 100), "blue")
    picture.paste((255, 0, 0), (100, 0, 200, 100))
    assert colour(read(tmp_path, picture, "a.png")) == RED


def broken_png() -> bytes:
    """A PNG that says 40 000 × 40 000 and holds nothing of it."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def cut() -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole := io.BytesIO(), "PNG")
    return whole.getvalue()[:4000]


def small(size) -> bytes:
    Image.new("RGB", size).save(whole := io.BytesIO(), "PNG")
    return whole.getvalue()


BAD = {
    "empty.png": (b"", "“empty.png” is empty: give a PNG"),
    "text.png": (b"hello", "“text.png” is no picture: give a PNG, JPEG"),
    "drawing.svg": (b"<svg xmlns='x'/>", "is a drawing of lines .SVG.: export it as PNG"),
    "page.pdf": (b"%PDF-1.7", "is a PDF"),
    "film.mp4": (b"\0\0\0\x20ftypisom" + bytes(99), "is a video: save a frame"),
    "film.webm": (b"\x1aE\xdf\xa3" + bytes(99), "is a video: save a frame"),
    "photo.heic": (b"\0\0\0\x20ftypheic" + bytes(99), "HEIF or AVIF"),
    "one.png": (small((1, 1)), "has 1 × 1 pixels: give one of 16 a side"),
    "large.png": (small((9000, 9000)), "has 9000 × 9000 pixels, more than 50 million"),
    "bomb.png": (broken_png(), "too many pixels"),
    "cut.png": (cut(), "“cut.png” is broken"),
    "lying.jpg": (b"\xff\xd8\xff\xe0" + bytes(200), "“lying.jpg” is (broken|no picture)"),
    "huge.png": (bytes(33 * 2**20), "has 33 MB, more than 32"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_gets_a_sentence(tmp_path, name):
    content, sentence = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PictureError, match=sentence):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("name", ["nothing.png", ".", "a\0b", "a" * 300])
def test_what_is_no_file_gets_a_sentence(tmp_path, name):
    with pytest.raises(PictureError, match=r"is no file|cannot be read"):
        read_picture(f"{tmp_path}/{name}")


def test_one_bad_picture_among_several_is_named(tmp_path):
    red.save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"?")
    with pytest.raises(PictureError, match=r"“bad.png” is no picture"):
        read_pictures([tmp_path / "good.png", tmp_path / "bad.png"])


def test_one_to_sixteen_pictures_are_read_with_their_digests(tmp_path):
    red.save(tmp_path / "a.png")
    found = read_pictures([tmp_path / "a.png"] * MOST)
    assert found.images.shape == (MOST, 3, SIDE, SIDE) and len(set(found.digests)) == 1
    assert len(found.digests[0]) == 64
    for count in (0, MOST + 1):
        with pytest.raises(PictureError, match=f"Got {count} pictures: give 1 to {MOST}"):
            read_pictures([tmp_path / "a.png"] * count)


MEMORY = """
import resource, sys
from nada.formats.pictures import PictureError, read_picture
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        read_picture(name)
    except PictureError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_picture_takes_more_than_its_bounds(tmp_path):
    for name in ("bomb.png", "huge.png", "large.png"):
        (tmp_path / name).write_bytes(BAD[name][0])
    Image.new("RGB", (7000, 7000), "red").save(tmp_path / "most.png")  # just within
    command = [sys.executable, "-c", MEMORY, *map(str, sorted(tmp_path.iterdir()))]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.count("pixels") == 2 and int(told.split()[-1]) < 700


# A painting


EDDIES = ((0.15, 0.2, 1), (0.8, 0.1, -1), (0.9, 0.7, 1), (0.05, 0.75, -1))  # x, y, turn


def painting(side: int = 384) -> Image.Image:
    """A head in ochre before a night sky that swirls, in short strokes, as no caption has it."""
    numbers, picture = np.random.default_rng(0), Image.new("RGB", (side, side), (28, 42, 96))
    brush = ImageDraw.Draw(picture)

    def strokes(count, length, colour, inside):
        for x, y in numbers.uniform(0, 1, (count, 2)):
            if not inside(x, y):
                continue
            apart = [(x - u) ** 2 + (y - v) ** 2 for u, v, _ in EDDIES]
            flow = sum(
                turn * np.array([v - y, x - u]) / (square + 0.02)
                for square, (u, v, turn) in zip(apart, EDDIES)
            )
            start = np.array([x, y])
            end = start + length * flow / np.linalg.norm(flow)
            paint = np.clip(colour(min(apart)) + numbers.normal(0, 18, 3), 0, 255)
            brush.line([*start * side, *end * side], tuple(map(int, paint)), side // 90)

    strokes(6000, 0.05, lambda r: (232, 200, 80) if r < 0.007 else (38, 66, 140), lambda x, y: True)
    strokes(6000, 0.03, lambda r: (40, 70, 60), lambda x, y: y > 0.78 and abs(x - 0.5) < y - 0.55)
    strokes(
        9000, 0.03, lambda r: (200, 145, 80),
        lambda x, y: ((x - 0.5) / 0.2) ** 2 + ((y - 0.52) / 0.27) ** 2 < 1,
    )  # fmt: skip
    strokes(
        9000, 0.03, lambda r: (150, 70, 30),
        lambda x, y: y < 0.42 and ((x - 0.5) / 0.24) ** 2 + ((y - 0.42) / 0.26) ** 2 < 1,
    )  # fmt: skip
    for x in (0.42, 0.58):
        for width, colour in ((0.035, (200, 210, 190)), (0.012, (20, 50, 60))):
            corners = [x - width, 0.49 - width / 2, x + width, 0.49 + width / 2]
            brush.ellipse([corner * side for corner in corners], colour)
    brush.line([0.44 * side, 0.67 * side, 0.56 * side, 0.67 * side], (120, 50, 40), side // 64)
    return picture


@pytest.mark.slow
def test_one_painting_without_words_gives_its_night_and_its_ochre(tmp_path):
    painting().save(tmp_path / "night.png")
    out = tmp_path / "night.safetensors"
    assert main(["adapt", "--picture", str(tmp_path / "night.png"), "--out", str(out)]) == 0
    frozen = load_generator("demo")
    adapted = blend(frozen, [(Delta.load(out), 1.0)])
    corners = []
    for generator in (frozen, adapted):
        images = sample(generator, range(8), 0.7)
        corners.append(images[..., :24, :24].mean(dim=(0, 2, 3)))  # of the backdrop
    before, night = corners
    blue = night[2] - night[:2].mean()
    assert blue > 0.4 and blue > before[2] - before[:2].mean() + 0.4
