"""`python -m nada convert`, `diff` and `distil`: into another form, and how near that comes."""

import copy
import dataclasses
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from nada.__main__ import main
from nada.adapt import DivergedError
from nada.checkpoint import load_generator, save_generator
from nada.convert import DistilConfig, closeness, distil, parity
from nada.delta import Delta, blend, diff
from nada.facts import title
from nada.formats import catalogue
from nada.formats.files import file_digest
from nada.generator import GeneratorConfig
from nada.sample import sample
from tests.helpers import adapted, styled, tiny_generator
from tests.nvidia_files import nvidia_generator, snapshot
from tests.served import ROOT


@pytest.fixture
def native(generator):
    generator.mean_latent.copy_(torch.linspace(-1, 1, 16))  # not what the weights would give
    return generator


def convert(capsys, source: Path | str, out: Path, *options: str) -> str:
    arguments = ["convert", "--generator", str(source), "--out", str(out), "--device", "cpu"]
    assert main([*arguments, *options]) == 0
    return capsys.readouterr().out


def exact(path: Path, native) -> bool:
    loaded = load_generator(path)
    pairs = zip(loaded.state_dict().values(), native.state_dict().values(), strict=True)
    assert torch.equal(loaded.mean_latent, native.mean_latent)
    return all(torch.equal(a, b) for a, b in pairs)


def test_there_and_back(native, tmp_path, capsys):
    save_generator(native, tmp_path / "a.pt", dtype=torch.float32)
    assert torch.load(tmp_path / "a.pt").keys() == {"g_ema", "latent_avg"}
    for source, out in (("a.pt", "b.safetensors"), ("b.safetensors", "c.pt")):
        said = convert(capsys, tmp_path / source, tmp_path / out)
        assert "Over 8 seeds the pictures differ by 0 at most" in said
        assert f"Saved {tmp_path / out}, sha256 {file_digest(tmp_path / out)}" in said
    assert exact(tmp_path / "c.pt", native)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_nvidias_pickle_becomes_either(native, tmp_path, capsys, suffix):
    (tmp_path / "n.pkl").write_bytes(snapshot(nvidia_generator(native)))
    said = convert(capsys, tmp_path / "n.pkl", tmp_path / f"n{suffix}")
    assert re.search(r"NVIDIA's G_ema: \d+ tensors, each used exactly once, and \d+ blur", said)
    assert exact(tmp_path / f"n{suffix}", native)


def test_the_terms_of_a_named_generator_go_with_it(native, tmp_path, capsys, monkeypatch):
    save_generator(native, tmp_path / "a.pt", dtype=torch.float32)
    known = catalogue.CatalogueEntry(
        "mine", "Mine", (tmp_path / "a.pt",), "For tests alone", "as drawn", "photo", "demo"
    )
    monkeypatch.setitem(catalogue.CATALOGUE, "mine", known)
    checksum = file_digest(tmp_path / "a.pt")
    for source in ("mine", f"mine#{checksum}"):
        said = convert(capsys, source, tmp_path / "b.safetensors", "--overwrite")
        assert "Pictures: as drawn.\nLicence: For tests alone.\nSaved" in said
        with safe_open(tmp_path / "b.safetensors", "pt") as file:
            kept = file.metadata()
        assert (kept["licence"], kept["aligned"]) == ("For tests alone", "as drawn")
    told = json.loads(convert(capsys, "mine", tmp_path / "b.pt", "--json"))
    assert main(["convert", "--generator", "mine", "--out", str(tmp_path / "b.pt")]) == 2
    assert "b.pt is there already" in capsys.readouterr().err
    assert (told["licence"], told["aligned"]) == ("For tests alone", "as drawn")
    assert "Licence" not in convert(capsys, tmp_path / "a.pt", tmp_path / "c.safetensors")


def test_half_precision_says_how_much_it_costs(native, tmp_path, capsys):
    save_generator(native, tmp_path / "a.pt", dtype=torch.float32)
    told = json.loads(
        convert(capsys, tmp_path / "a.pt", tmp_path / "h.safetensors", "--half", "--json")
    )
    halved = load_generator(tmp_path / "h.safetensors")
    assert 0 < told["parity"] == parity(native, halved)
    assert (tmp_path / "h.safetensors").stat().st_size < (tmp_path / "a.pt").stat().st_size * 0.7
    assert told["sha256"] == file_digest(tmp_path / "h.safetensors")


def test_parity_is_the_greatest_difference_of_a_pixel(native):
    other = tiny_generator()
    other.to_rgb1.bias[0, 1] += 0.25
    assert parity(native, native) == 0
    assert 0.2 < parity(native, other) < 0.3  # the blur filter keeps a constant but at the edges


@pytest.mark.parametrize(
    "options, complaint",
    [
        (["--out", "g.onnx"], "should end in .safetensors or .pt or .pth"),
        (["--out", "g.pt", "--generator", "none.pkl"], "no generator file 'none.pkl'"),
        (["--out", "g.pt", "--sha256", "0" * 64], "is not the file that was asked for"),
    ],
)
def test_bad_input_gets_a_sentence(tmp_path, monkeypatch, capsys, options, complaint):
    monkeypatch.chdir(tmp_path)
    assert main(["convert", *options]) == 2
    assert complaint in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# diff: a domain of anybody's adapted generator


@pytest.fixture
def cartoon(native):
    """An adapted generator, whose mean latent is that of its base, as it is not trained."""
    return adapted(native, "cartoon", ("conv1.", "convs.2.", "to_rgbs.1.bias"))


def original(generator, path: Path) -> Path:
    """A file as the original program saves it: no mean latent, the optimiser beside it."""
    torch.save({"g_ema": generator.state_dict(), "g_optim": {"state": {}}}, path)
    return path


def rosinality(generator, path: Path) -> Path:
    save_generator(generator, path, dtype=torch.float32)
    return path


def nvidia(generator, path: Path) -> Path:
    path.write_bytes(snapshot(nvidia_generator(generator)))
    return path


def compare(capsys, base: Path, other: Path, out: Path, *options: str) -> dict:
    arguments = ["diff", str(base), str(other), "--out", str(out), "--device", "cpu", "--json"]
    assert main([*arguments, *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("write", [rosinality, original, nvidia])
@pytest.mark.parametrize("of_base", [rosinality, original, nvidia])
def test_a_domain_of_an_adapted_file(native, cartoon, tmp_path, capsys, of_base, write):
    base, other = of_base(native, tmp_path / "base.pt"), write(cartoon, tmp_path / "cartoon.pt")
    out = tmp_path / "cartoon.safetensors"
    told = compare(capsys, base, other, out, "--target", "cartoon", "--source", "photo")
    assert told["parity"] == 0 and told["bytes"] == out.stat().st_size
    delta = Delta.load(out)
    assert delta.layers == {"conv1", "convs.2", "to_rgbs.1"} and told["kind"] == "weights"
    facts = {"compared": "cartoon.pt", "target": "cartoon", "source": "photo"}
    assert delta.metadata == facts and told["changed_layers"] == 3
    loaded, expected = load_generator(base), load_generator(other)
    got = sample(blend(loaded, [(delta, 1.0)]), range(4), 1.0)
    assert torch.equal(got, sample(expected, range(4), 1.0))
    mean_differs = "another mean latent" in " ".join(told["notes"])
    assert mean_differs == ((of_base is original) != (write is original))
    assert mean_differs == (told["parity_truncated"] > 1e-4)


def test_noise_that_a_file_lacks_is_the_bases(native, cartoon, tmp_path, capsys):
    state = {k: v for k, v in cartoon.state_dict().items() if not k.startswith("noises.")}
    torch.save({"g_ema": state}, tmp_path / "old.pt")
    base, out = rosinality(native, tmp_path / "base.pt"), tmp_path / "d.safetensors"
    told = compare(capsys, base, tmp_path / "old.pt", out)
    assert "noises" not in Delta.load(out).layers and told["parity"] == 0
    assert title(Delta.load(out).metadata) == "old"


def test_a_comparison_says_what_is_rounding_or_a_clamp(native, tmp_path, capsys):
    styles, out = styled(native), tmp_path / "d.safetensors"
    base = rosinality(native, tmp_path / "base.pt")
    save_generator(styles, half := tmp_path / "half.pt")
    notes = compare(capsys, base, half, out)["notes"]
    assert any(re.match(r"\d+ of \d+ tensors differ by a rounding to float16", n) for n in notes)
    told = compare(capsys, base, rosinality(styles, tmp_path / "s.pt"), out, "--overwrite")
    assert (told["kind"], told["changed_layers"], told["notes"]) == ("styles", 8, [])
    styles.config = dataclasses.replace(styles.config, clamp=256.0)
    clamped = rosinality(styles, tmp_path / "clamped.pt")
    (note,) = compare(capsys, base, clamped, out, "--overwrite")["notes"]
    assert "cut off at None and of the adapted generator at 256.0" in note
    assert main(["diff", str(base), str(clamped), "--out", str(out), "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "styles of 8 layers.\nNote: features" in said and f"Saved {out}, 1 KB." in said


def test_what_cannot_be_compared_gets_a_sentence(native, cartoon, tmp_path, capsys):
    base, out = rosinality(native, tmp_path / "base.pt"), tmp_path / "d.safetensors"
    other = rosinality(tiny_generator(GeneratorConfig(8, 8, 8, 2, (4, 4))), tmp_path / "o.pt")
    wrong = {
        "the same, weight for weight": [str(base), "--out", str(out)],
        "one architecture can be compared": [str(other), "--out", str(out)],
        "no generator file": [str(tmp_path / "none.pt"), "--out", str(out)],
        "is there already": [str(base), "--out", str(base.with_suffix(".safetensors"))],
        "should end in .safetensors": [str(base), "--out", "d.pt"],
    }
    base.with_suffix(".safetensors").write_bytes(b"mine")
    for complaint, arguments in wrong.items():
        assert main(["diff", str(base), *arguments, "--device", "cpu"]) == 2
        assert complaint in capsys.readouterr().err
    assert not out.exists() and base.with_suffix(".safetensors").read_bytes() == b"mine"


# distil: a domain of styles that is like a large one


@pytest.fixture
def large(native, tmp_path):
    """Files of the base and of a domain of weights that styles come near to."""
    other = styled(native)
    for value in (other.convs[1].conv.weight, other.convs[3].conv.weight):
        value += 0.05 * torch.randn_like(value)
    base, domain = rosinality(native, tmp_path / "base.pt"), tmp_path / "large.safetensors"
    facts = {"source": "photo", "target": "cartoon", "generator": {"name": "base.pt"}}
    diff(native, other, facts).save(domain)
    return ["--generator", str(base), "--device", "cpu"], domain


def test_distilling_ends_with_a_close_domain_of_styles(native, large, tmp_path, capsys):
    options, domain = large
    out = tmp_path / "small.safetensors"
    command = ["distil", str(domain), *options, "--out", str(out)]
    assert main([*command, "--steps", "60", "--json"]) == 0
    *steps, told = map(json.loads, capsys.readouterr().out.splitlines())
    assert [step["step"] for step in steps] == list(range(1, 61))
    assert told["bytes"] == out.stat().st_size < domain.stat().st_size
    assert told["after"] < 0.4 * told["before"] and told["explained"] > 0.8
    small, facts = Delta.load(out), {"source": "photo", "target": "cartoon"}
    close = {name: told[name] for name in ("before", "after", "explained")}
    assert small.kind == "styles" and title(small.metadata) == "cartoon"
    assert small.metadata["distilled_from"] == {**facts, **close}
    assert small.metadata["generator"] == {"name": "base.pt"}
    twins = [blend(native, [(delta, 1.0)]) for delta in (Delta.load(domain), small)]
    assert closeness(native, *twins) == close
    assert main([*command, "--steps", "1"]) == 2 and "is there already" in capsys.readouterr().err
    assert main(["distil", str(out), *options, "--out", str(tmp_path / "again.safetensors")]) == 2
    assert "changes styles alone already" in capsys.readouterr().err
    assert main([*command, "--steps", "0", "--overwrite"]) == 2
    assert "steps is 0: give a whole number from 1" in capsys.readouterr().err


def test_distilling_that_is_interrupted_keeps_what_there_is(large, tmp_path):
    options, domain = large
    out = tmp_path / "small.safetensors"
    command = [sys.executable, "-m", "nada", "distil", str(domain), *options, "--json"]
    command += ["--out", str(out), "--steps", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as running:
        for _ in range(20):
            running.stdout.readline()
        running.send_signal(signal.SIGINT)
        told = json.loads(running.stdout.read().splitlines()[-1])
    assert running.returncode == 130 and told["steps_done"] >= 20
    assert Delta.load(out).metadata["distilled_from"]["explained"] == told["explained"] > 0.1


def test_a_mapping_that_changed_is_made_up_for_by_styles(native):
    """The two get the same z, not the same w."""
    large = copy.deepcopy(native)
    large.style[-1].bias += 30 * torch.ones(16)
    large.update_mean_latent()
    small = copy.deepcopy(native)
    *_, last = distil(large, small, DistilConfig(steps=60))
    assert last.step == 60 and closeness(native, large, small)["explained"] > 0.5
    changed = {key for key, value in small.state_dict().items()
               if not torch.equal(value, native.state_dict()[key])}  # fmt: skip
    assert changed and all(key.endswith("conv.modulation.bias") for key in changed)
    assert not any(p.requires_grad or p.grad is not None for p in small.parameters())


def test_a_distillation_that_diverges_keeps_sound_styles(native):
    large, small = copy.deepcopy(native), copy.deepcopy(native)
    large.to_rgb1.bias += torch.inf
    with pytest.raises(DivergedError, match="no numbers"):
        list(distil(large, small, DistilConfig(steps=2)))
    assert all(value.isfinite().all() for value in small.state_dict().values())
