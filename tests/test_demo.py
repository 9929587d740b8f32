"""The portrait world: the renderer, what is said about its pictures, and the training scripts."""

import json
import random
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from nada.checkpoint import load_generator
from nada.clip import bundled_path, load_clip
from nada.demo import judge as judging
from nada.demo.captions import (
    ATTRIBUTES,
    all_texts,
    attribute_texts,
    attributes_of,
    caption,
    held_out_caption,
    style_caption,
    with_attribute,
)
from nada.demo.data import Pool, distort
from nada.demo.forger import FRESH, REMEMBERED, Forger, agreement, bands
from nada.demo.render import FACTORS, PARTS, Z_DIM, draw, factors_of, portrait
from nada.demo.styles import ATTRIBUTE_EDITS, STYLE_NAMES, STYLES, draw_attribute, render
from nada.demo.train_clip import CompactVocabulary, contrastive
from nada.demo.train_generator import grow
from nada.sample import latents


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


def test_a_head_whose_hairline_passes_through_zero_is_drawn():
    z = latents([20_353], Z_DIM)  # one of 512 had a pixel just there
    assert render(z, "photo", 128).isfinite().all()


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
        spoken = caption(0, row.tolist(), rng)
        assert spoken.style in (0, -1)
        assert all(row[attribute] == value for attribute, value in spoken.claims)
        said_something += bool(spoken.claims)
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
    for value in (0, 1):
        texts += [caption(0, [value] * len(ATTRIBUTES), rng).text for _ in range(300)]
    for _ in range(20):
        having, lacking, alone = attribute_texts(rng)
        texts += [*having, *lacking, alone]
    tokens = vocabulary.tokens(texts)  # KeyError for a token that is not in it
    assert (tokens.argmax(1) > 1).all()
    assert tokens.max() == len(vocabulary.ids) - 1
    assert len(all_texts()) > 100


def test_held_out_sentences_are_not_in_training():
    rng = random.Random(2)
    trained = {style_caption(i % len(STYLE_NAMES), rng).text for i in range(20_000)}
    held_out = {held_out_caption(i % len(STYLE_NAMES), rng) for i in range(500)}
    assert len(held_out) > 200 and not held_out & trained


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_a_given_attribute_is_drawn_and_told(name):
    assert list(ATTRIBUTE_EDITS) == list(ATTRIBUTES)
    factors = factors_of(some_z(64))
    table = attributes_of(factors, "photo")
    column = list(ATTRIBUTES).index(name)
    lacking = (table[:, column] == 0).nonzero()[:, 0]
    people = factors[lacking]
    given = draw_attribute(portrait(people), name, 32)
    before = render(some_z(64)[lacking], "photo", 32) / 2 + 0.5
    assert ((given - before).abs().mean((1, 2, 3)) > 2e-4).float().mean() > 0.75
    assert (with_attribute(table, name)[:, column] == 1).all()


def test_giving_an_attribute_takes_away_what_it_excludes():
    table = attributes_of(factors_of(some_z(8)), "photo")
    blond = with_attribute(with_attribute(table, "bald"), "blond hair")
    names = list(ATTRIBUTES)
    assert (blond[:, names.index("bald")] == 0).all()
    assert (blond[:, names.index("black hair")] == 0).all()
    assert (with_attribute(blond, "bald")[:, names.index("blond hair")] == 0).all()


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


def test_a_pool_holds_the_photo_an_attribute_and_other_styles_of_each_person():
    pool = Pool(3, 5, 16, seed=5, report=lambda *_, **__: None)
    assert pool.images.shape == (3, 5, 3, 16, 16)
    assert (pool.styles[:, :2] == 0).all()
    assert all(len(set(row[1:].tolist())) == 4 for row in pool.styles)
    person, view = torch.tensor([1]), torch.tensor([3])
    expected = render(pool.z[1:2], STYLE_NAMES[pool.styles[1, 3]], 16)
    assert (pool.pictures(person, view) - expected).abs().max() < 0.02
    name = list(ATTRIBUTES)[pool.given[1]]
    given = draw_attribute(portrait(factors_of(pool.z[1:2])), name, 16) * 2 - 1
    assert (pool.pictures(person, torch.tensor([1])) - given).abs().max() < 0.02
    assert pool.attributes[1, 1, pool.given[1]] == 1


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
        "nada.demo.train_generator", "--size", "32", "--scale", "0.002", "--photos", "48",
        "--no-compile",
        "--output", str(tmp_path / "g.safetensors"), "--work", str(tmp_path),
    )  # fmt: skip
    first = run_module(*command)
    assert first.returncode == 0, first.stderr
    generator = load_generator(tmp_path / "g.safetensors")
    assert generator.size == 32 and generator.z_dim == Z_DIM
    again = run_module(*command)  # everything is done: it only writes the file
    assert again.returncode == 0 and "step" not in again.stdout, again.stdout + again.stderr
    assert torch.equal(load_generator(tmp_path / "g.safetensors")(some_z(1)), generator(some_z(1)))


@pytest.mark.parametrize("member", ["resnet", "vit"])
def test_the_clip_script_trains_and_saves(tmp_path, member):
    out = tmp_path / "clip.safetensors"
    done = run_module(
        "nada.demo.train_clip", member, "--steps", "2", "--people", "48", "--views", "5",
        "--no-compile", "--held-out", "3", "--output", str(out), "--work", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    clip = load_clip(out)
    assert clip.resolution == 64 and "zombie" in clip.words
    assert clip.encode_text(["a photo of a zombie"]).shape == (1, 128)
    with safe_open(out, "pt") as file:
        assert 0 <= float(file.metadata()["style"]) <= 1


def test_a_trained_clip_is_gone_on_from_where_it_stood(tmp_path):
    out = tmp_path / "clip.safetensors"
    done = run_module(
        "nada.demo.train_clip", "resnet", "--start", str(bundled_path("demo")), "--rate", "0",
        "--steps", "1", "--people", "48", "--views", "5", "--no-compile", "--held-out", "3",
        "--output", str(out), "--work", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    texts = ["zombie", "a person with glasses"]
    before, after = (load_clip(name).encode_text(texts) for name in ("demo", out))
    torch.testing.assert_close(after, before, atol=1e-3, rtol=0)  # float16 twice


def test_the_judge_script_trains_and_saves(tmp_path):
    out = tmp_path / "judge.safetensors"
    done = run_module(
        "nada.demo.judge", "--steps", "2", "--people", "40", "--held-out", "3",
        "--output", str(out), "--work", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"clean", "pgd", "glasses", "hat", "beard"}
    done = run_module("nada.demo.judge", "--measure", "--held-out", "3", "--output", str(out))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["renders"].keys() == figures.keys()
    assert set(told["generated"]) == {"photo", "glasses", "hat", "beard"}
    judge = judging.load_judge(out)
    assert set(judging.verdicts(judge, render(some_z(3), "photo", 64))) <= set(STYLE_NAMES)
    with pytest.raises(FileNotFoundError, match=r"nada\.demo\.judge"):
        judging.load_judge(tmp_path / "none.safetensors")


# What fools CLIP


def test_bands_part_a_change_without_losing_any_of_it():
    change = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    places, parts, edges = bands(change)
    assert [x.shape[1] for x in (places, parts, edges)] == [3 * 4, 3 * 64, 3 * 256]
    flat = bands(torch.full((1, 3, 16, 16), 0.5))
    assert flat[0].abs().min() > 0 and flat[1].abs().max() == flat[2].abs().max() == 0
    stripes = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 3, 16, 16)
    assert [x.abs().max() > 0 for x in bands(stripes)] == [False, False, True]


def test_agreement_is_the_direction_and_the_share_of_the_true_change():
    z = some_z(4)
    wanted = render(z, "zombie", 32) - render(z, "photo", 32)
    for factor, right in ((1.0, 1.0), (0.5, 0.75), (2.0, 0.0), (-1.0, 0.0)):
        cosine, share = agreement(factor * wanted, wanted)
        torch.testing.assert_close(cosine, torch.full((4,), 1.0 if factor > 0 else -1.0))
        torch.testing.assert_close(share, torch.full((4,), right), atol=1e-5, rtol=0)
    other = render(z, "devil", 32) - render(z, "photo", 32)
    assert agreement(other, wanted)[0].max() < 0.8
    cosine, share = agreement(torch.zeros_like(wanted), wanted)
    assert cosine.abs().max() == 0 and share.abs().max() < 1e-6


def test_a_forger_adapts_a_copy_against_clip_and_tells_the_truth_about_it(monkeypatch):
    monkeypatch.setattr("nada.demo.forger.MEMORY", 1)
    base, clip = load_generator("demo"), load_clip("demo")
    names = clip.encode_text([style.names[0] for style in STYLES.values()])
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    pool = Pool(40, 12, 64, seed=1)
    forger = Forger(base, pool, seed=3)
    rounds = [forger(clip, names) for _ in range(4)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert {len(column) for column in forger.kept} == {REMEMBERED}
    assert not any(p.requires_grad for p in base.parameters())
    for forged in rounds:
        assert all(len(part) == 2 * FRESH + REMEMBERED for part in forged.values())
        assert forged["after"].abs().max() <= 1 and forged["after"].shape[1:] == (3, 64, 64)
    fresh, ideal = slice(0, FRESH), slice(FRESH, 2 * FRESH)
    assert rounds[0]["length"][fresh].max() < 1e-3 < rounds[3]["length"][fresh].min()
    assert rounds[3]["cosine"][ideal].min() > 0.9 > rounds[3]["cosine"][fresh].max()
