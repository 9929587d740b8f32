"""The files in checkpoints/: what they are, how good they are, and that they adapt."""

import hashlib
import json
import re

import pytest

from nada.__main__ import main
from nada.checkpoint import CHECKPOINTS, load_generator
from nada.clip import load_clip, load_clips
from nada.demo import judge as judging
from nada.demo import train_clip, train_generator
from nada.demo.captions import all_texts
from nada.demo.styles import STYLES


@pytest.fixture(scope="module")
def clip():
    return load_clip("demo")


def test_every_weight_file_is_described_with_its_sha256():
    text = (CHECKPOINTS / "README.md").read_text()
    listed = dict(re.findall(r"`([\w.-]+\.safetensors)`[^\n]*`([0-9a-f]{64})`", text))
    files = {path.name: path for path in CHECKPOINTS.glob("*.safetensors")}
    assert set(listed) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
        assert path.stat().st_size < 12e6


def test_the_generator_draws_the_renderers_people():
    figures = train_generator.measure(load_generator("demo"), n=96)
    assert figures["l1"] < 0.02
    assert figures["gradient_energy"] > 0.8


def test_clip_names_styles_on_new_people_in_new_words_and_under_attack(clip):
    figures = train_clip.measure([clip], people=8, seed=4242)
    assert figures["style"] > 0.9 and figures["wording"] > 0.85, figures
    assert figures["pgd"] > 0.7, figures
    assert min(figures["hat"], figures["blond hair"], figures["old"]) > 0.9, figures


def test_clip_knows_the_words_of_its_captions(clip):
    for text in ("pencil sketch", "a photo of a zombie", "person with glasses", "white walker"):
        assert clip.unknown_words(text) == []
    assert clip.unknown_words("a xylophone in the rain") == ["xylophone", "rain"]
    spoken = {word for text in all_texts() for word in clip.spoken_words(text)}
    assert spoken <= clip.words
    names = [name for style in STYLES.values() for name in style.names]
    assert all(clip.unknown_words(name) == [] for name in names)


def test_the_demo_clip_is_every_bundled_one():
    files = list(CHECKPOINTS.glob("clip-*.safetensors"))
    assert len(load_clips("demo")) == len(files) >= 1


def test_the_judge_sees_through_attacks_on_new_people():
    figures = judging.measure(judging.load_judge(), people=8, seed=4343)
    assert figures["clean"] > 0.9 and figures["pgd"] > 0.8, figures


def test_evaluate_adapts_and_the_judge_agrees(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    command = ["evaluate", "--targets", "devil", "--samples", "48", "--sheet", str(sheet)]
    assert main([*command, "--json", "--device", "cpu"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["judged_before"] < 0.05
    assert row["judged"] >= 0.8
    assert row["lp"] < 0.7  # nearer to the true render of the same people
    assert row["seconds"] < 200
    assert sheet.read_bytes().startswith(b"\x89PNG")
