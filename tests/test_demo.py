"""The portrait world: the renderer, what is said about its pictures, and the training scripts."""

import ast
import importlib
import itertools
import json
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import torch
from safetensors import safe_open

import nada.demo
from nada.checkpoint import family_agreement, family_sketch, load_generator
from nada.clip import bundled_path, load_clip
from nada.delta import blend, carry_over, diff
from nada.demo import judge as judging
from nada.demo import train_child, train_clip, train_generator
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
from nada.demo.strangers import STRANGERS, style_of
from nada.demo.styles import (
    ATTRIBUTE_EDITS,
    HELD_OUT,
    PHOTO,
    STYLE_NAMES,
    STYLES,
    TARGETS,
    TUNED,
    draw_attribute,
    render,
)
from nada.demo.train_clip import CompactVocabulary, contrastive_loss
from nada.demo.train_generator import grow
from nada.demo.training import parse_options
from nada.sample import latents
from tests.helpers import styled


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


# Styles

ENTRY = """
    "ghost": Style(
        ("ghost", "pale ghost"),
        recolour(skin=WHITE, hair=WHITE),
        (dark_sockets,),
        unseen_name="white phantom",
        hides=COLOURS,
    ),
"""


@pytest.fixture
def haunted(monkeypatch):
    """The world's modules by name, as they are when `STYLES` has one entry more."""
    names = ("styles", "captions", "data", "judge")
    source = Path(nada.demo.styles.__file__).read_text()
    head, tail = source.split("\n}\n\n\ndef targets(")
    for name in names:
        monkeypatch.setattr(nada.demo, name, getattr(nada.demo, name))  # to be put back
        monkeypatch.delitem(sys.modules, f"nada.demo.{name}")
    styles = ModuleType("nada.demo.styles")
    monkeypatch.setitem(sys.modules, styles.__name__, styles)
    exec(head + ENTRY + "}\n\n\ndef targets(" + tail, vars(styles))
    return {name: importlib.import_module(f"nada.demo.{name}") for name in names}


def test_a_new_style_is_one_entry(haunted):
    styles, captions, judge = haunted["styles"], haunted["captions"], haunted["judge"]
    assert styles.STYLE_NAMES == (*STYLE_NAMES, "ghost")  # what was numbered keeps its number
    assert styles.TUNED == TUNED and styles.TARGETS == (*TARGETS, "ghost")
    label, rng = len(STYLE_NAMES), random.Random(0)
    assert all("ghost" in captions.style_caption(label, rng).text for _ in range(20))
    assert "white phantom" in captions.held_out_caption(label, rng)
    assert "pale ghost" in captions.all_texts()
    factors = factors_of(some_z(40))
    table, plain = captions.attributes_of(factors, "ghost"), attributes_of(factors, PHOTO)
    hidden = [list(ATTRIBUTES).index(name) for name in styles.COLOURS]
    shown = [i for i in range(len(ATTRIBUTES)) if i not in hidden]
    assert (table[:, hidden] == -1).all() and torch.equal(table[:, shown], plain[:, shown])
    logits, _ = judge.Judge().eval()(styles.render(some_z(2), "ghost", 32))
    assert logits.shape == (2, label + 1)
    pool = haunted["data"].Pool(40, 3, 8, seed=0, report=lambda *_, **__: None)
    assert (pool.styles == label).any()


def test_a_style_stands_by_name_beside_the_styles_alone():
    """Elsewhere a name would be forgotten when styles are added or renamed."""
    name = re.compile(rf"\b({'|'.join(map(re.escape, STYLES))})\b")
    for path in Path(nada.demo.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        named = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if id(node) not in texts and name.search(node.value)
        }
        assert path.name == "styles.py" or not named, (path.name, named)


def test_strangers_are_drawn_of_anybody_and_named_nowhere():
    photos, pictures = render(some_z(3), PHOTO, 32), []
    for style in STRANGERS.values():
        pictures.append(render(some_z(3), style, 32))
        assert pictures[-1].shape == (3, 3, 32, 32) and pictures[-1].abs().max() <= 1
        assert torch.equal(pictures[-1], render(some_z(3), style, 32))
    pairs = itertools.combinations([photos, *pictures], 2)
    assert all((one - other).abs().mean() > 0.1 for one, other in pairs)
    assert not set(STRANGERS) & set(STYLES) and not set(STRANGERS) & set(TARGETS)
    assert style_of("zombie") is STYLES["zombie"]
    rng = random.Random(0)
    spoken = " ".join(style_caption(i % len(STYLE_NAMES), rng).text for i in range(2000))
    assert not [name for name in STRANGERS if name in spoken]


def test_the_targets_are_all_styles_but_the_photo():
    assert STYLE_NAMES[0] == PHOTO == "photo"
    assert not set(TUNED) & set(HELD_OUT) and TARGETS == TUNED + HELD_OUT
    assert sorted(TARGETS) == sorted(STYLE_NAMES[1:])
    for group in (TUNED, HELD_OUT):  # plans of runs count on the order
        assert [STYLES[name].rank for name in group] == list(range(len(group)))
    assert all(set(style.hides) <= set(ATTRIBUTES) for style in STYLES.values())


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
    for a, b in (
        ("old", "young"),
        ("smile", "frown"),
        ("long hair", "short hair"),
        ("blond hair", "black hair"),
        ("pale skin", "dark skin"),
    ):
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
def test_a_given_attribute_is_drawn_and_known(name):
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
    right = contrastive_loss(features, features, same, torch.tensor(50.0))
    wrong = contrastive_loss(features, features, ~same, torch.tensor(50.0))
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
    assert (pool.images_of(person, view) - expected).abs().max() < 0.02
    name = list(ATTRIBUTES)[pool.given[1]]
    given = draw_attribute(portrait(factors_of(pool.z[1:2])), name, 16) * 2 - 1
    assert (pool.images_of(person, torch.tensor([1])) - given).abs().max() < 0.02
    assert pool.attributes[1, 1, pool.given[1]] == 1


def test_growing_changes_nothing_at_first():
    small = grow(None, 16)
    large = grow(small, 32)
    z = some_z(2)
    enlarged = large.to_rgbs[-1].upsample(small(z), up=2, pad=(2, 1))
    torch.testing.assert_close(large(z), enlarged, atol=1e-5, rtol=1e-4)
    assert small(z).std() > 0.01  # there is something to be kept


def test_options_are_the_fields_of_the_settings():
    @dataclass(frozen=True)
    class Baking:
        dish: Annotated[str, ("bread", "cake")]
        oven_heat: Annotated[float, "in degrees"] = 200.0
        tin: Path | None = None
        glazed: bool = False
        fan: bool | None = None

    def parse(*arguments):
        return parse_options(Baking, "Bake.", arguments)

    assert parse("bread") == Baking("bread")
    assert parse("cake", "--oven-heat", "180", "--tin", "round", "--glazed", "--no-fan") == Baking(
        "cake", 180.0, Path("round"), True, False
    )
    for wrong in ((), ("soup",), ("cake", "--oven-heat", "hot")):
        with pytest.raises(SystemExit):
            parse(*wrong)


@pytest.mark.slow
def test_a_child_of_the_bundled_generator_takes_its_domains_of_styles(tmp_path):
    """Trained on for a few steps it draws older people, is of the family, and is moved alike."""
    arguments = [str(tmp_path / "child.safetensors"), "--steps", "12", "--batch", "4"]
    assert train_child.main(arguments) == 0
    base, child = load_generator("demo"), load_generator(tmp_path / "child.safetensors")
    z = some_z(8)
    old = render(z, "old person", 128)
    before, after = ((generator(z) - old).abs().mean() for generator in (base, child))
    assert after < 0.9 * before
    assert family_agreement(family_sketch(child), family_sketch(base)) > 0.9
    delta = diff(base, styled(base))
    moved = blend(child, [(carry_over(delta, child), 1.0)])
    moves = [(two(z) - one(z)).flatten() for one, two in ((base, styled(base)), (child, moved))]
    assert torch.cosine_similarity(*moves, dim=0) > 0.8


@pytest.mark.slow
def test_the_generator_script_trains_resumes_and_saves(tmp_path, capsys, monkeypatch):
    few = partial(train_generator.measure_distilled, people=16)
    monkeypatch.setattr(train_generator, "measure_distilled", few)
    arguments = [
        "--size", "32", "--scale", "0.002", "--photos", "48", "--no-compile",
        "--output", str(tmp_path / "g.safetensors"), "--work", str(tmp_path),
    ]  # fmt: skip
    assert train_generator.main(arguments) == 0
    assert "step 8/8" in capsys.readouterr().out
    generator = load_generator(tmp_path / "g.safetensors")
    assert generator.size == 32 and generator.z_dim == Z_DIM
    assert train_generator.main(arguments) == 0  # everything is done: it only writes the file
    assert "step" not in capsys.readouterr().out
    assert torch.equal(load_generator(tmp_path / "g.safetensors")(some_z(1)), generator(some_z(1)))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A work folder, where the renders that CLIP learns from stay."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def few_measured(monkeypatch):
    """Skill with attributes is measured on a tenth of the people."""
    few = partial(train_clip.attribute_skill, people=40)
    monkeypatch.setattr(train_clip, "attribute_skill", few)


def train_small_clip(work, member, *arguments):
    """The CLIP that its script trains on few people in a few steps, and its file."""
    (work / f"clip-{member}.pt").unlink(missing_ok=True)  # another training's
    out = work / "clip.safetensors"
    status = train_clip.main([
        member, "--people", "24", "--views", "5", "--batch", "8", "--no-compile", "--held-out", "3",
        "--output", str(out), "--work", str(work), *arguments,
    ])  # fmt: skip
    assert status == 0
    return load_clip(out), out


@pytest.mark.slow
@pytest.mark.parametrize("member", ["resnet", "vit"])
def test_the_clip_script_trains_and_saves(work, few_measured, member):
    clip, out = train_small_clip(work, member, "--steps", "2")
    assert clip.resolution == 64 and "zombie" in clip.words
    assert clip.encode_text(["a photo of a zombie"]).shape == (1, 128)
    with safe_open(out, "pt") as file:
        assert 0 <= float(file.metadata()["style"]) <= 1


@pytest.mark.slow
def test_a_trained_clip_is_gone_on_from_where_it_stood(work, few_measured):
    start = ("--start", str(bundled_path("demo")), "--rate", "0", "--steps", "1")
    after, _ = train_small_clip(work, "resnet", *start)
    texts = ["zombie", "a person with glasses"]
    before = load_clip("demo").encode_text(texts)
    torch.testing.assert_close(after.encode_text(texts), before, atol=1e-3, rtol=0)  # float16 twice


def test_the_judge_script_trains_resumes_and_saves(tmp_path, capsys):
    out = tmp_path / "judge.safetensors"
    arguments = [
        "--people", "16", "--batch", "20", "--held-out", "1",
        "--output", str(out), "--work", str(tmp_path),
    ]  # fmt: skip
    assert judging.main([*arguments, "--steps", "2"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(figures) == {"clean", "pgd", "glasses", "hat", "beard"}
    assert judging.main([*arguments, "--steps", "3"]) == 0
    saved = torch.load(tmp_path / "judge.pt", weights_only=True)
    # batch normalisation counts the steps that this network itself has seen
    assert saved["step"] == 3 == saved["judge"]["body.1.num_batches_tracked"]
    judge = judging.load_judge(out)
    assert set(judging.verdicts(judge, render(some_z(3), "photo", 64))) <= set(STYLE_NAMES)
    with pytest.raises(FileNotFoundError, match=r"nada\.demo\.judge"):
        judging.load_judge(tmp_path / "none.safetensors")


@pytest.mark.slow
def test_the_bundled_judge_is_measured_from_the_command_line():
    command = [sys.executable, "-m", "nada.demo.judge", "--measure", "--held-out", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert set(figures["renders"]) == {"clean", "pgd", "glasses", "hat", "beard"}
    assert set(figures["generated"]) == {"photo", "glasses", "hat", "beard"}
    assert float(figures["renders"]["clean"]) > 0.9 < float(figures["generated"]["photo"])


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
    truth = render(z, "zombie", 32) - render(z, "photo", 32)
    for factor, right in ((1.0, 1.0), (0.5, 0.75), (2.0, 0.0), (-1.0, 0.0)):
        cosine, share = agreement(factor * truth, truth)
        torch.testing.assert_close(cosine, torch.full((4,), 1.0 if factor > 0 else -1.0))
        torch.testing.assert_close(share, torch.full((4,), right), atol=1e-5, rtol=0)
    other = render(z, "devil", 32) - render(z, "photo", 32)
    assert agreement(other, truth)[0].max() < 0.8
    cosine, share = agreement(torch.zeros_like(truth), truth)
    assert cosine.abs().max() == 0 and share.abs().max() < 1e-6


@pytest.mark.slow
def test_a_forger_adapts_a_copy_against_clip_and_knows_the_truth_about_it(monkeypatch):
    monkeypatch.setattr("nada.demo.forger.MEMORY", 1)
    base, clip = load_generator("demo"), load_clip("demo")
    names = clip.encode_text([style.names[0] for style in STYLES.values()])
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    pool = Pool(16, 12, 64, seed=1, report=lambda *_, **__: None)
    forger = Forger(base, pool, seed=3)
    rounds = [forger(clip, names) for _ in range(4)]
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
    assert {len(column) for column in forger.memory} == {REMEMBERED}
    assert not any(p.requires_grad for p in base.parameters())
    for forged in rounds:
        assert all(len(part) == 2 * FRESH + REMEMBERED for part in forged.values())
        assert forged["after"].abs().max() <= 1 and forged["after"].shape[1:] == (3, 64, 64)
    fresh, ideal = slice(0, FRESH), slice(FRESH, 2 * FRESH)
    assert rounds[0]["length"][fresh].max() < 1e-3 < rounds[3]["length"][fresh].min()
    assert rounds[3]["cosine"][ideal].min() > 0.9 > rounds[3]["cosine"][fresh].max()
