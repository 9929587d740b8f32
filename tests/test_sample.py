"""Pictures from seeds: the same whatever else is asked for, and the right pixels."""

import numpy as np
import pytest
import torch

from nada.sample import (
    Grid,
    ImageError,
    image_grid,
    latents,
    parse_seeds,
    sample,
    sample_batches,
    to_images,
)


def test_a_seed_is_a_picture(generator):
    z = torch.randn(1, 16, generator=torch.Generator().manual_seed(7))
    expected = generator(z, 0.7).clamp(-1, 1)
    torch.testing.assert_close(sample(generator, [7]), expected)
    torch.testing.assert_close(sample(generator, range(9))[7:8], expected, rtol=0, atol=1e-5)


def test_pictures_do_not_depend_on_the_batch_size(generator):
    seeds = [3, 1, 4, 1, 5]
    whole = sample(generator, seeds, batch=5)
    assert whole.shape == (5, 3, 16, 16) and whole.abs().max() <= 1
    for batch in (1, 2, 100):
        torch.testing.assert_close(sample(generator, seeds, batch=batch), whole, rtol=0, atol=1e-5)
    assert torch.equal(whole[1], whole[3]) and not torch.equal(whole[0], whole[1])


def test_sampling_changes_no_randomness_and_keeps_no_graph(generator):
    generator.requires_grad_(True)
    before = torch.get_rng_state()
    images = sample(generator, [1, 2], truncation_psi=1.0)
    assert torch.equal(torch.get_rng_state(), before) and not images.requires_grad


def test_truncation_zero_is_one_picture(generator):
    images = sample(generator, [1, 2], truncation_psi=0.0)
    torch.testing.assert_close(images[0], images[1])


def test_no_seeds_no_pictures(generator):
    assert sample(generator, []).shape == (0, 3, 16, 16)
    assert to_images(sample(generator, [])) == []


@pytest.mark.parametrize("seed", [1.5, "7", True, None, 2**64, -(2**63) - 1])
def test_a_seed_that_is_none_gets_a_sentence(generator, seed):
    with pytest.raises(ValueError, match="whole number"):
        sample(generator, [1, seed])


def test_extreme_seeds_are_seeds():
    rows = latents([0, -1, 2**63, 2**64 - 1, -(2**63)], 4)
    assert rows.shape == (5, 4) and rows.isfinite().all()


def test_a_batch_of_none_gets_a_sentence(generator):
    with pytest.raises(ValueError, match="at least 1"):
        sample(generator, [1], batch=0)


def test_a_truncation_that_is_no_number_gets_a_sentence(generator):
    with pytest.raises(ValueError, match="truncation_psi is nan"):
        sample(generator, [1], truncation_psi=float("nan"))


@pytest.mark.parametrize(
    "text, seeds",
    [
        ("7", [7]),
        ("0-3", [0, 1, 2, 3]),
        (" 3, 7;20-22 1 ", [3, 7, 20, 21, 22, 1]),
        ("5-5", [5]),
        ("3 3", [3, 3]),
        ("1 - 4", [1, 2, 3, 4]),
        ("1–4", [1, 2, 3, 4]),
        ("1 — 2, 5‑6,\n7−8", [1, 2, 5, 6, 7, 8]),
        ("1,2,", [1, 2]),
        (" ; 1,, 2 ;", [1, 2]),
    ],
)
def test_seeds_can_be_typed(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("", "contain ''"),
        (",", "contain ''"),
        ("1 -", "contain '-'"),
        ("1-2-3", "contain '1-2-3'"),
        ("3 - 1", "3-1 run backwards"),
        ("a", "contain 'a'"),
        ("1-", "contain '1-'"),
        ("-1", "contain '-1'"),
        ("1.5", "contain '1.5'"),
        ("٣", "contain '٣'"),
        ("9" * 5000, "write 0-7"),
        ("9-1", "write 1-9"),
        ("1-6", "more than 5 seeds"),
        ("0-999999999999", "more than 5 seeds"),
        ("1-3 4-6", "more than 5 seeds"),
    ],
)
def test_seeds_that_are_none_get_a_sentence(text, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_seeds(text, most=5)
    assert len(str(caught.value)) < 120


def test_batches_are_drawn_one_by_one_and_make_up_the_sample(generator):
    drawn, synthesis = [], generator.synthesis
    generator.synthesis = lambda ws: drawn.append(len(ws)) or synthesis(ws)
    batches = sample_batches(generator, range(7), batch=3)
    assert drawn == []
    first = next(batches)
    assert drawn == [3] and torch.is_grad_enabled()
    whole = torch.cat([first, *batches])
    assert drawn == [3, 3, 1] and torch.equal(whole, sample(generator, range(7), batch=3))


def test_bad_input_is_told_before_the_first_batch(generator):
    for options in ({"batch": 0}, {"precision": "fp8"}, {"truncation_psi": float("inf")}):
        with pytest.raises(ValueError, match=r"batch is|precision is|truncation_psi is"):
            sample_batches(generator, [1], **options)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_images_that_are_none_get_a_sentence(generator, value):
    generator.to_rgbs[-1].bias[:] = value
    with pytest.raises(ImageError, match="smaller strength or truncation"):
        sample(generator, [1, 2])
    images = torch.zeros(2, 3, 4, 4)
    images[1, 2, 3, 3] = value
    with pytest.raises(ImageError):
        to_images(images)
    with pytest.raises(ImageError):
        image_grid(images, 2)


def test_pixels():
    levels = torch.tensor([-3.0, -1.0, -0.5, 0.0, 1.0, 2.0]).view(1, 1, 2, 3).expand(2, 3, 2, 3)
    images = to_images(levels)
    assert [image.size for image in images] == [(3, 2), (3, 2)]
    expected = np.array([[0, 0, 64], [128, 255, 255]])
    np.testing.assert_array_equal(np.asarray(images[1]), np.stack([expected] * 3, -1))


def test_channels_are_red_green_blue():
    red = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1)
    assert to_images(red)[0].getpixel((0, 0)) == (255, 0, 0)


def test_a_grid_reads_like_a_page():
    shades = torch.linspace(-1, 0, 5).view(5, 1, 1, 1).expand(5, 3, 2, 3)
    grid = np.asarray(image_grid(shades, columns=2))
    assert grid.shape == (6, 6, 3)
    corners = grid[::2, ::3, 0]
    singles = [np.asarray(image)[0, 0, 0] for image in to_images(shades)]
    np.testing.assert_array_equal(corners, np.array([*singles, 255]).reshape(3, 2))


def test_a_grid_too_large_to_look_at_gets_a_sentence():
    with pytest.raises(ValueError, match=r"8192 × 1281024 pixels is too large.*--folder"):
        Grid(10_001, 8, 1024, 1024)


@pytest.mark.parametrize("count, columns", [(0, 2), (2, 0)])
def test_an_impossible_grid_gets_a_sentence(count, columns):
    with pytest.raises(ValueError, match="columns is empty"):
        image_grid(torch.zeros(count, 3, 2, 2), columns)
