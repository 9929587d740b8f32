"""How far a CLIP reaches: measured, kept beside its weights, read again, and used by a run."""

import json
import shutil

import pytest
import torch
import torch.nn.functional as F

from nada.__main__ import main
from nada.checkpoint import fingerprint, load_generator
from nada.clip import bundled_path, load_clip, load_clips, reach_of
from nada.clip.reach import Reach, read_reach, write_reach
from nada.delta import Delta, blend
from nada.demo.styles import TUNED, render
from nada.experiments.calibrate import Pair, move_of, share_of, true_pairs
from nada.experiments.measure import people, shown
from nada.guidance import text_move


def test_the_share_is_the_slope_through_zero(clip_tiny):
    """Against a line of NumPy's kind, with images that the test makes."""
    pairs = [
        Pair("photo", target, torch.randn(3, 3, 16, 16), torch.randn(3, 3, 16, 16))
        for target in ("sketch", "an old robot", "zombie")
    ]
    moves = [move_of(clip_tiny, pair) for pair in pairs]
    for pair, move in zip(pairs, moves):
        words = text_move(clip_tiny, "photo", pair.target, ("{}",))
        moved = clip_tiny.encode_image(pair.after) - clip_tiny.encode_image(pair.before)
        assert move.length == pytest.approx(words.norm().item())
        assert move.way == pytest.approx(
            (moved @ F.normalize(words, dim=0)).mean().item(), abs=1e-6
        )
    lengths, ways = (torch.tensor([getattr(m, n) for m in moves]) for n in ("length", "way"))
    slope = torch.linalg.lstsq(lengths[:, None], ways[:, None]).solution.item()
    assert share_of(moves) == pytest.approx(slope, rel=1e-4)


def test_the_bundled_models_know_their_reach():
    """What lies beside the weights is what eight true renders of each tuned style say."""
    generator = load_generator("demo")
    z = people(generator, 8)
    pairs = [Pair("photo", s, render(z, "photo", 128), render(z, s, 128)) for s in TUNED[::4]]
    for clip in load_clips("demo"):
        again = share_of([move_of(clip, pair) for pair in pairs])
        assert reach_of(clip) == pytest.approx(again, rel=0.15)
        assert "true renders of tuned styles: 16" in read_reach(bundled_path(clip.name)).measured
    assert next(true_pairs(generator, 2)).target == TUNED[0]


@pytest.fixture
def own(tmp_path):
    """A copy of a bundled CLIP of which nothing is known."""
    return shutil.copy(bundled_path("demo-vit"), tmp_path / "own.safetensors")


@pytest.fixture
def domains(tmp_path):
    """Two domain files with their prompts."""
    generator = load_generator("demo")
    for number, target in enumerate(("zombie", "pencil sketch")):
        tensors = {"to_rgbs.4.bias": torch.full((1, 3, 1, 1), 0.3 * (1 + number))}
        delta = Delta(fingerprint(generator), tensors, {"source": "photo", "target": target})
        delta.save(tmp_path / f"{number}.safetensors")
    return [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]


def calibrate(capsys, *arguments) -> tuple[int, str, str]:
    status = main(["calibrate", "--device", "cpu", *map(str, arguments)])
    return status, *capsys.readouterr()


def test_domains_that_people_find_right_calibrate_any_clip(own, domains, capsys):
    assert reach_of(load_clip(own)) is None
    told = ["--clip", own, "--people", 4, "--domain", *domains, "--write", "--json"]
    status, out, _ = calibrate(capsys, *told)
    assert status == 0
    found = json.loads(out)
    clip, generator = load_clip(own), load_generator("demo")
    before = shown(generator, 4)
    moves = []
    for path in domains:
        delta = Delta.load(path)
        after = shown(blend(generator, [(delta, 1.0)]), 4)
        moves.append(move_of(clip, Pair("photo", delta.metadata["target"], before, after)))
    assert found["share"] == pytest.approx(share_of(moves), abs=1e-4) == reach_of(clip)
    assert "given domains: 2, 4 people each" in read_reach(own).measured


def test_what_cannot_be_measured_gets_a_sentence(own, domains, capsys, tmp_path):
    status, _, error = calibrate(capsys, "--clip", own, "--domain", domains[0])
    assert status and "give 2 or more with --domain" in error
    delta = Delta.load(domains[0])
    Delta(delta.base_fingerprint, delta.tensors, {}).save(tmp_path / "bare.safetensors")
    bare = [domains[0], tmp_path / "bare.safetensors"]
    status, _, error = calibrate(capsys, "--clip", own, "--people", 2, "--domain", *bare)
    assert status and "bare.safetensors does not say from which prompt" in error
    status, _, error = calibrate(capsys, "--people", 1)
    assert status and "--people is 1" in error
    assert read_reach(own) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"share": "1", "measured": ""}', '{"share": NaN, "measured": ""}',
             '{"share": 90, "measured": ""}', '{"share": true, "measured": ""}', "[" * 9000,
             '{"share": 0.8, "measured": "' + "x" * 20_000 + '"}'],
)  # fmt: skip
def test_a_broken_file_of_a_reach_gets_a_sentence(own, tmp_path, text):
    (tmp_path / "own.safetensors.reach.json").write_text(text)
    with pytest.raises(ValueError, match=r"own\.safetensors\.reach\.json.*measure it again"):
        load_clip(own)


def test_a_reach_out_of_reason_is_not_kept(own):
    with pytest.raises(ValueError, match=r"share from 0\.05 to 5\.0 was expected"):
        write_reach(own, Reach(-0.2, "by mistake"))
    assert read_reach(own) is None
