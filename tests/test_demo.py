"""The portrait world: the renderer, what is said about its pictures, and the training scripts."""

import json
import random
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from nada.checkpoint import load_generator
from nada.clip import load_clip
from nada.demo import judge as judging
from nada.demo.captions import (
    ATTRIBUTES,
    STYLE_NAMES,
    all_texts,
    attributes_of,
    caption,
    style_caption,
)
from nada.demo.data import Pool, distort
from nada.demo.render import FACTORS, PARTS, Z_DIM, draw, factors_of, portrait, render
from nada.demo.styles import STYLES
from nada.demo.train_clip import CompactVocabulary, contrastive
from nada.demo.train_generator import grow
from nada.evaluate import contact_sheet, distance_to_truth


def some_z(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, Z_DIM, generator=torch.Generator().manual_seed(seed))


# The renderer


def test_factors_are_uniform_and_independent():
    factors = factors_of(some_z(4000))
    assert factors.shape == (4000, len(FACTORS))
    quantiles = factors.sort(0).values[[1000, 2000, 3000]]
    expected = torch.tensor([0.25, 0.5, 0.75])[:, None]
    assert (quantiles - expected).abs().max() < 0.04
    correlation = torch.corrcoef(factors.T) - torch.eye(len(FACTORS))
    assert correlation.abs().max() < 0.08


def test_factors_depend_on_the_direction_of_z_alone():
    z = some_z(3)
    torch.testing.assert_close(factors_of(z), factors_of(7 * z), atol=1e-5, rtol=0)


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_of_each_style_is_in_range_and_repeats(style):
    pictures = render(some_z(2), style, 32)
    assert pictures.shape == (2, 3, 32, 32)
    assert pictures.isfinite().all() and pictures.abs().max() <= 1
    assert torch.equal(pictures, render(some_z(2), style, 32))
    assert (pictures[0] - pictures[1]).abs().mean() > 0.01  # two people


def test_parts_cover_each_pixel_once():
    parts = draw(portrait(factors_of(some_z(4))), 32).parts
    assert parts.shape == (4, len(PARTS), 32, 32)
    assert parts.min() > -1e-5
    torch.testing.assert_close(parts.sum(1), torch.ones(4, 32, 32), atol=1e-4, rtol=0)


def test_a_picture_has_the_same_content_at_any_size():
    small, large = render(some_z(4), "photo", 32), render(some_z(4), "photo", 128)
    shrunk = torch.nn.functional.avg_pool2d(large, 4)
    assert (small - shrunk).abs().mean() < 0.05


def test_styles_differ_from_the_photo_and_from_each_other():
    z = some_z(6)
    pictures = {name: render(z, name, 32) for name in STYLES}
    for a in STYLES:
        for b in STYLES:
            if a < b:
                assert (pictures[a] - pictures[b]).abs().mean() > 0.02, (a, b)


def test_a_factor_changes_the_picture_where_it_should():
    factors = factors_of(some_z(1)).repeat(2, 1)
    factors[:, FACTORS.index("hat")] = torch.tensor([0.1, 0.95])
    factors[:, FACTORS.index("glasses")] = 0.1
    scene = draw(portrait(factors), 64)
    assert scene.part("hat")[0].max() < 1e-3
    assert scene.part("hat")[1, 0, :32].mean() > 0.05  # the upper half has a hat
    assert scene.part("glasses").max() < 1e-3


# Words


def test_captions_are_true_of_their_picture():
    rng = random.Random(0)
    factors = factors_of(some_z(40))
    table = attributes_of(factors, "photo")
    assert table.shape == (40, len(ATTRIBUTES)) and set(table.unique().tolist()) <= {-1, 0, 1}
    said_something = 0
    for row in table:
        has = (row == 1).nonzero().flatten().tolist()
        spoken = caption(0, has, rng)
        assert spoken.style in (0, -1) and set(spoken.attributes) <= set(has)
        said_something += bool(spoken.attributes)
    assert said_something > 10


def test_attributes_exclude_each_other():
    table = attributes_of(factors_of(some_z(500)), "photo")
    column = {name: table[:, i] == 1 for i, name in enumerate(ATTRIBUTES)}
    for a, b in (("old", "young"), ("smile", "frown"), ("long hair", "short hair"),
                 ("blond hair", "black hair"), ("pale skin", "dark skin")):  # fmt: skip
        assert column[a].any() and column[b].any()
        assert not (column[a] & column[b]).any(), (a, b)


def test_every_caption_is_within_the_vocabulary():
    vocabulary, rng = CompactVocabulary(), random.Random(1)
    texts = [style_caption(i % len(STYLE_NAMES), rng).text for i in range(300)]
    texts += [caption(0, list(range(len(ATTRIBUTES))), rng).text for _ in range(300)]
    tokens = vocabulary.tokens(texts)  # KeyError for a token that is not in it
    assert (tokens.argmax(1) > 1).all()
    assert tokens.max() == len(vocabulary.ids) - 1
    assert len(all_texts()) > 100


# Learning


def test_the_contrastive_loss_accepts_every_right_answer():
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0], [1, 0.01], [0, 1]]), dim=1)
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    right = contrastive(features, features, same, torch.tensor(50.0))
    wrong = contrastive(features, features, ~same, torch.tensor(50.0))
    # two captions that fit cost log 2 in two rows of three, whatever the scale
    assert right.item() == pytest.approx(2 / 3 * torch.tensor(2.0).log().item(), abs=0.01)
    assert wrong > right + 10


def test_distortions_keep_shape_and_range():
    pictures = render(some_z(8), "photo", 32)
    changed = distort(pictures)
    assert changed.shape == pictures.shape and changed.abs().max() <= 1
    assert 0.02 < (changed - pictures).abs().mean() < 0.9


def test_a_pool_holds_the_photo_and_other_styles_of_each_person():
    pool = Pool(3, 4, 16, seed=5, report=lambda *_, **__: None)
    assert pool.images.shape == (3, 4, 3, 16, 16)
    assert (pool.styles[:, 0] == 0).all()
    assert all(len(set(row.tolist())) == 4 for row in pool.styles)
    person, view = torch.tensor([1]), torch.tensor([2])
    expected = render(pool.z[1:2], STYLE_NAMES[pool.styles[1, 2]], 16)
    assert (pool.pictures(person, view) - expected).abs().max() < 0.02


def test_growing_changes_nothing_at_first():
    small = grow(None, 16)
    large = grow(small, 32)
    z = some_z(2)
    upsampled = torch.nn.functional.interpolate(small(z), scale_factor=2, mode="bilinear")
    assert (large(z) - upsampled).abs().mean() < 0.3 * upsampled.abs().mean()


def run_module(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=280
    )


def test_the_generator_script_trains_resumes_and_saves(tmp_path):
    command = (
        "nada.demo.train_generator", "--size", "16", "--scale", "0.003",
        "--output", str(tmp_path / "g.safetensors"), "--work", str(tmp_path),
    )  # fmt: skip
    first = run_module(*command)
    assert first.returncode == 0, first.stderr
    generator = load_generator(tmp_path / "g.safetensors")
    assert generator.size == 16 and generator.z_dim == Z_DIM
    again = run_module(*command)  # everything is done: it only writes the file
    assert again.returncode == 0 and "step" not in again.stdout, again.stdout + again.stderr
    assert torch.equal(load_generator(tmp_path / "g.safetensors")(some_z(1)), generator(some_z(1)))


@pytest.mark.parametrize("member", ["resnet", "vit"])
def test_the_clip_script_trains_and_saves(tmp_path, member):
    out = tmp_path / "clip.safetensors"
    done = run_module(
        "nada.demo.train_clip", member, "--steps", "2", "--people", "48", "--views", "4",
        "--held-out", "3", "--output", str(out), "--work", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    clip = load_clip(out)
    assert clip.resolution == 64 and "zombie" in clip.words
    assert clip.encode_text(["a photo of a zombie"]).shape == (1, 128)
    with safe_open(out, "pt") as file:
        assert 0 <= float(file.metadata()["style"]) <= 1


def test_the_judge_script_trains_and_saves(tmp_path):
    out = tmp_path / "judge.safetensors"
    done = run_module(
        "nada.demo.judge", "--steps", "2", "--people", "40", "--held-out", "3",
        "--output", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout.splitlines()[-1])) == {"clean", "pgd"}
    judge = judging.load_judge(out)
    assert set(judging.verdicts(judge, render(some_z(3), "photo", 64))) <= set(STYLE_NAMES)
    with pytest.raises(FileNotFoundError, match=r"nada\.demo\.judge"):
        judging.load_judge(tmp_path / "none.safetensors")


# Measures of the evaluation


def test_distance_to_truth_ignores_what_lies_within_four_pixels():
    truth = torch.zeros(1, 3, 8, 8)
    shifted = truth.clone()
    shifted[..., 0, 0], shifted[..., 0, 1] = 1.0, -1.0
    assert distance_to_truth(shifted, truth) == 0
    assert distance_to_truth(truth + 0.5, truth) == pytest.approx(0.5)


def test_a_contact_sheet_has_a_row_for_each_label():
    rows = {name: torch.zeros(3, 3, 16, 16) for name in ("a", "b")}
    assert contact_sheet(rows, scale=2).size == (110 + 3 * 32, 2 * 32)
