"""The files in checkpoints/: what they are, how good they are, and that they adapt."""

import hashlib
import json
import re

import pytest
import torch

from nada.__main__ import main
from nada.checkpoint import CHECKPOINTS, load_generator
from nada.clip import load_clip, load_clips
from nada.demo import judge as judging
from nada.demo import train_clip, train_generator
from nada.demo.captions import all_texts
from nada.demo.styles import STYLES
from nada.sample import latents, sample


@pytest.fixture(scope="module")
def generator():
    return load_generator("demo")


@pytest.fixture(scope="module")
def judge():
    return judging.load_judge()


def test_a_judge_of_other_styles_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(judging, "STYLE_NAMES", (*judging.STYLE_NAMES, "a new one"))
    with pytest.raises(
        ValueError, match=r"other styles .* train it again with python -m nada\.demo"
    ):
        judging.load_judge()


def photos(judge, pictures) -> float:
    """Share of pictures that the judge takes for photos."""
    return judging.verdicts(judge, pictures).count("photo") / len(pictures)


def test_every_weight_file_is_described_with_its_sha256():
    text = (CHECKPOINTS / "README.md").read_text()
    listed = dict(re.findall(r"`([\w.-]+\.safetensors)`[^\n]*`([0-9a-f]{64})`", text))
    files = {path.name: path for path in CHECKPOINTS.glob("*.safetensors")}
    assert set(listed) == set(files)
    for name, path in files.items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == listed[name], name
    assert files["generator.safetensors"].stat().st_size < 8e6
    assert sum(path.stat().st_size for name, path in files.items() if "clip" in name) < 10e6


# The generator


@pytest.mark.slow
def test_the_generator_draws_the_renderers_people(generator):
    assert generator.size == 128
    figures = train_generator.measure_distilled(generator, people=96)
    assert figures["l1"] < 0.015
    assert figures["gradients"] > 0.92 and figures["gradient_energy"] > 0.86


def test_truncation_goes_from_one_face_to_everybody(generator):
    def spread(psi: float) -> float:
        return sample(generator, range(16), psi).std(0).mean().item()

    spreads = [spread(psi) for psi in (0.0, 0.35, 0.7, 1.0)]
    assert spreads[0] < 1e-5
    assert spreads == sorted(spreads) and spreads[3] > 1.3 * spreads[1]


def test_steps_between_two_people_are_small_and_stay_photos(generator, judge):
    first, last = generator.mapping(latents([1, 2], generator.z_dim)).split(1)
    path = torch.linspace(0, 1, 33)[:, None, None]
    pictures = generator.synthesis(torch.lerp(first, last, path))
    steps = (pictures[1:] - pictures[:-1]).abs().mean((1, 2, 3))
    assert steps.max() < 5 * steps.mean()
    assert photos(judge, pictures) > 0.9


@pytest.mark.slow
def test_mirrored_and_style_mixed_samples_are_photos(generator, judge):
    ws = generator.mapping(latents(range(64), generator.z_dim), 0.7)
    mixed = torch.cat([ws[:, :4], ws.roll(1, 0)[:, 4:]], 1)
    assert photos(judge, generator.synthesis(mixed)) > 0.9
    assert photos(judge, generator.synthesis(ws).flip(3)) > 0.95


# CLIP


@pytest.mark.slow
def test_clip_names_styles_on_new_people_and_in_new_words():
    figures = train_clip.measure_clips(load_clips("demo"), people=10, seed=4242)
    assert figures["style"] > 0.92 and figures["wording"] > 0.88, figures
    assert min(figures[name] for name in ("hair colour", "glasses", "hat", "beard")) > 0.9, figures


@pytest.mark.slow
def test_the_robust_member_withstands_an_attack_it_was_not_trained_with():
    figures = train_clip.measure_clips([load_clip("demo")], people=8, seed=4243)
    assert figures["style"] > 0.9 and figures["pgd"] > 0.75, figures


def test_clip_knows_the_words_of_its_captions():
    clip = load_clip("demo")
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


# Adaptation


@pytest.mark.slow
def test_the_judge_sees_through_attacks_on_new_people(judge):
    figures = judging.measure_rendered(judge, people=8, seed=4343)
    assert figures["clean"] > 0.96 and figures["pgd"] > 0.9, figures
    assert min(figures["glasses"], figures["hat"], figures["beard"]) > 0.93, figures


def test_the_judge_knows_the_factors_of_what_the_generator_draws(judge, generator):
    figures = judging.measure_generated(judge, generator, people=96, seed=4343)
    assert figures["photo"] > 0.97, figures
    assert min(figures["glasses"], figures["hat"], figures["beard"]) > 0.93, figures


@pytest.mark.slow
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
