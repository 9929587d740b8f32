"""Films: the frames against plain sampling, the file against a decoder."""

import copy

import av
import numpy as np
import pytest
import torch

from nada.checkpoint import fingerprint
from nada.delta import Strength, blend, diff
from nada.film import FPS, Key, frames, visits, write_mp4
from nada.sample import ImageError, latents, sample, to_images
from tests.helpers import adapted


@pytest.fixture
def domain(generator):
    return diff(generator, adapted(generator, "sketch", ("convs.1.conv.",)))


def test_the_keys_are_the_pictures_themselves(generator, domain):
    keys = [Key(3, 0.0), Key(3, 1.0), Key(5, 0.5)]
    film = torch.stack(list(frames(generator, [(domain, 1.0)], keys, between=4)))
    assert film.shape == (8, 3, 16, 16) and film.abs().max() <= 1
    half = blend(generator, [(domain, 1.0)])
    torch.testing.assert_close(film[:1], sample(generator, [3]), rtol=0, atol=1e-5)
    torch.testing.assert_close(film[4:5], sample(half, [3]), rtol=0, atol=1e-5)


def test_the_way_is_short_steps_that_are_slow_at_the_ends(generator, domain):
    film = torch.stack(
        list(frames(generator, [(domain, 1.0)], [Key(3, 0.0), Key(3, 1.0)], between=16))
    )
    steps = (film[1:] - film[:-1]).flatten(1).norm(dim=1)
    whole = (film[-1] - film[0]).norm()
    assert steps.max() < whole / 4
    assert steps[0] < steps[8] / 2 > steps[-1]
    half = sample(blend(generator, [(domain, 0.5)]), [3])
    torch.testing.assert_close(film[8:9], half, rtol=0, atol=1e-5)


def test_each_frame_is_the_blend_at_its_strength(generator, domain):
    other = diff(generator, adapted(generator, "zombie", ("convs.1.", "style.")))
    parts = [(domain, 0.5), (other, 0.3)]
    film = list(frames(generator, parts, [Key(3, -0.5), Key(3, 1.5)], between=4))
    for image, ease in zip(film, (1 - np.cos(np.linspace(0, np.pi, 5))) / 2):
        at = [(delta, weight * (2 * ease - 0.5)) for delta, weight in parts]
        w = generator.mapping(latents([3], 16), 0.7)
        expected = blend(generator, at).synthesis(w).clamp(-1, 1)[0]
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)


def test_strengths_by_resolution_move_on_a_line_in_each_band(generator, domain):
    whole = diff(generator, adapted(generator, "zombie", ("conv1.", "convs.")))
    keys = [Key(3, Strength(0, 1, 0)), Key(3, Strength(1, -0.5, 0))]
    film = list(frames(generator, [(domain, 0.5), (whole, Strength(1, 0.5, 0))], keys, between=4))
    w = generator.mapping(latents([3], 16), 0.7)
    for image, ease in zip(film, (1 - np.cos(np.linspace(0, np.pi, 5))) / 2):
        coarse, middle = ease, 1 - 1.5 * ease
        at = [
            (domain, Strength(0.5 * coarse, 0.5 * middle, 0)),
            (whole, Strength(coarse, 0.5 * middle, 0)),
        ]
        expected = blend(generator, at).synthesis(w).clamp(-1, 1)[0]
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-4)


def test_frames_are_drawn_one_by_one_from_one_blend(generator, domain, monkeypatch, tmp_path):
    hashed = []
    monkeypatch.setattr("nada.delta.fingerprint", lambda g: hashed.append(g) or fingerprint(g))
    film = frames(generator, [(domain, 1.0)], visits(range(3), 1.0), between=1000)
    for _ in range(30):
        image = next(film)
    assert image.shape == (3, 16, 16) and len(hashed) == 1 and torch.is_grad_enabled()
    write_mp4((image for _ in range(3)), tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as written:
        assert written.streams.video[0].frames == 3


def test_a_film_leaves_its_generator_alone(generator):
    domain = diff(generator, adapted(generator, "sketch", ("convs.1.", "style.")))
    before = copy.deepcopy(generator)
    list(frames(generator, [(domain, 1.0)], visits([1, 2], 1.5), between=4))
    assert fingerprint(generator) == fingerprint(before)
    assert torch.equal(generator.mean_latent, before.mean_latent)


def test_frames_that_are_none_get_a_sentence(generator, tmp_path):
    blinding = copy.deepcopy(generator)
    for to_rgb in blinding.to_rgbs:  # each within the bounds of a domain file
        to_rgb.bias += 9e5
    film = frames(generator, [(diff(generator, blinding), 1.0)], visits([1], 1.0))
    with pytest.raises(ImageError, match="not pictures any more"):
        write_mp4(film, tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


def test_visits_go_to_the_domain_and_come_home():
    assert visits([1, 2], 0.7) == [Key(1, 0), Key(1, 0.7), Key(2, 0), Key(2, 0.7), Key(1, 0)]


@pytest.mark.parametrize("keys, between", [([], 4), ([Key(1, 0)], 4), ([Key(1, 0)] * 2, 1)])
def test_a_film_of_nothing_gets_a_sentence(generator, keys, between):
    with pytest.raises(ValueError, match="is empty"):
        frames(generator, [], keys, between)


def test_the_file_shows_the_pictures(tmp_path, generator):
    pictures = sample(generator, range(3), 0.7).repeat_interleave(4, dim=0)
    write_mp4(pictures, tmp_path / "film.mp4")
    with av.open(str(tmp_path / "film.mp4")) as film:
        (stream,) = film.streams
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == (
            "h264",
            "yuv420p",
            FPS,
        )
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
    assert len(decoded) == 12 and decoded[0].shape == (256, 256, 3)
    big = torch.nn.functional.interpolate(pictures, scale_factor=16, mode="bicubic")
    for i in (1, 5, 9):
        expected = np.asarray(to_images(big[i : i + 1])[0], float)
        assert np.abs(decoded[i] - expected).mean() < 12  # colour is stored at half the width
        others = [
            np.abs(decoded[i] - np.asarray(to_images(big[j : j + 1])[0], float)).mean()
            for j in (1, 5, 9)
            if j != i
        ]
        assert min(others) > np.abs(decoded[i] - expected).mean()


def test_odd_sides_and_no_pictures(tmp_path):
    write_mp4(torch.zeros(2, 3, 301, 301), tmp_path / "odd.mp4")
    assert (tmp_path / "odd.mp4").stat().st_size > 500
    with pytest.raises(ValueError, match="no images"):
        write_mp4(torch.zeros(0, 3, 16, 16), tmp_path / "none.mp4")
