"""Hints before a run: there when they should be, absent when not, on the bundled CLIP."""

import itertools
from types import SimpleNamespace

import pytest

from nada.checkpoint import load_generator
from nada.clip import load_clips
from nada.formats.catalogue import CATALOGUE
from nada.presets import PRESETS, examples, suggestion
from nada.prompts import (
    NEARLY_SAME,
    WEAK,
    direction_length,
    language_hint,
    nearest,
    unknown_words,
)
from nada.serve.hints import hints
from nada.serve.models import ServedModels
from nada.serve.validate import BadInput, check_prompt
from tests.helpers import make_clip

DEMO = PRESETS["demo"]


@pytest.fixture(scope="module")
def models():
    return ServedModels(load_generator("demo"), load_clips("demo"))


def hint(models, source, target, base="demo", **settings):
    asked = {"source": source, "target": target, "steps": 60, "k": 0, **settings}
    return hints(models, base, PRESETS[base], asked)


def test_the_examples_need_no_hint(models):
    for entry in examples("demo"):
        assert hint(models, entry["source"], entry["target"]) == []


@pytest.mark.parametrize("weight", ["cap", "point"])
def test_what_a_clip_without_reach_leaves_off_is_said(models, clip_tiny, weight):
    assert hint(models, "photo", "zombie", **{weight: 1.0}) == []
    strange = ServedModels(models.generator, [clip_tiny])
    without, said = (hint(strange, "photo", "zombie", **{weight: w}) for w in (0.0, 1.0))
    (more,) = set(said) - set(without)
    assert more.startswith("Cap and point loss are off for “tiny”: how far words reach")


@pytest.mark.parametrize("one, other", [("photo", "photo of a face"), ("zombie", "a zombie")])
def test_nearly_parallel_prompts_are_named(models, one, other):
    (said,) = hint(models, one, other)
    assert "nearly parallel" in said and f"“{other}”" in said


def test_a_weak_direction_is_named(models):
    (said,) = hint(models, "blond hair", "person with blond hair")
    assert "hardly tells “blond hair” from “person with blond hair”" in said


def test_directions_of_the_examples_are_far_from_the_bounds(models):
    """NEARLY_SAME and WEAK: paraphrases on one side, all pairs of targets on the other."""
    targets = [entry["target"] for entry in examples("demo")]
    for one, other in itertools.combinations(["photo", *targets], 2):
        assert direction_length(models.clips, one, other, ("{}",)) > WEAK
    for target in targets:
        assert direction_length(models.clips, target, f"the {target}", ("{}",)) < NEARLY_SAME


def test_unknown_words_and_the_known_ones_like_them(models):
    (said,) = hint(models, "photo", "pencil scetch")
    assert "never shown “scetch”" in said and "It knows “sketch”" in said
    assert nearest(models.clips[0], "zombies") == ["zombie"]
    assert unknown_words(models.clips[0], ("photo", "zombie")) == ""


def test_fillers_are_no_unknown_words_unless_they_are_all_there_is():
    clip = SimpleNamespace(words={"zombie"}, unknown_words=str.split)
    assert "never shown “gorblax” and" in unknown_words(clip, ("a gorblax", "with"))
    assert "never shown “a”, “with” and" in unknown_words(clip, ("a", "with"))


READ = SimpleNamespace(name="ViT-B/32", english=True)


@pytest.mark.parametrize(
    "prompt", ["эскиз карандашом", "僵尸", "ゾンビ", "σκίτσο", "зомби 3D", "رسم"]
)
def test_prompts_in_another_writing_are_told_that_clip_reads_english(prompt):
    said = language_hint([READ, SimpleNamespace(name="b", words=None, english=True)], ("a", prompt))
    assert said.startswith(f"CLIP (ViT-B/32 and b) learnt to read English and may take “{prompt}”")
    assert ("по-английски" in said) == any("а" <= c <= "я" for c in prompt)


@pytest.mark.parametrize("prompt", ["sketch", "café", "a π pie", "🧟", "…", "Tschüß", "x² + 3"])
def test_prompts_that_english_may_have_are_not(prompt):
    assert language_hint([READ], ("photo", prompt)) == ""


def test_no_word_of_english_to_models_of_other_languages_or_of_a_few_words():
    many = SimpleNamespace(name="xlm-roberta", english=False)
    small = SimpleNamespace(name="demo", words=frozenset({"эскиз"}), english=True)
    for clip in (many, small, SimpleNamespace(name="of one's own")):
        assert language_hint([clip], ("photo", "эскиз")) == ""


def test_the_language_is_hinted_at_before_a_run(generator):
    clip = make_clip("o", 16, 16, 1, 64, 8, 77, 49408, 64, 1, 1)
    said = hint(ServedModels(generator, [clip]), "photo", "эскиз")
    assert sum("learnt to read English" in text for text in said) == 1


def test_steps_and_k_of_the_preset_are_suggested(models):
    assert suggestion("ffhq", " the  JOKER ") == {"steps": 250, "k": 12}
    assert suggestion("ffhq", "nobody") == {}
    (said,) = hint(models, "photo", "shrek", base="ffhq", steps=60, k=0)
    assert said == "For “shrek”, 150 steps and k 3 would suit."
    assert hint(models, "photo", "shrek", base="ffhq", steps=150, k=3) == []
    (said,) = hint(models, "photo", "zombie", steps=2000)
    assert said == f"For “zombie”, {DEMO.config.steps} steps would suit."


def test_what_cannot_run_is_refused_and_not_hinted_at(models):
    for prompt in ("", "gorblax", 7):
        with pytest.raises(BadInput):
            hint(models, "photo", prompt)
        with pytest.raises(BadInput):
            check_prompt(models.clips, "target", prompt)


def test_presets_are_data_that_can_run(models):
    for base in {entry.preset for entry in CATALOGUE.values()}:
        preset = PRESETS[base]
        for entry in examples(base):
            assert set(entry) <= {"source", "target", "steps", "k"} and entry["target"]
            assert 0 <= entry.get("k", 0) <= 26 and entry.get("steps", preset.config.steps) > 0
    wanted = {"sketch", "anime painting", "Pixar cartoon", "zombie", "Shrek"}
    assert wanted <= {entry["target"] for entry in examples("ffhq")}
