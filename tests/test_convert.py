"""`python -m nada convert`: every format into both others, exact and said to be."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from nada.__main__ import main
from nada.checkpoint import load_generator, save_generator
from nada.convert import parity
from nada.formats import catalogue
from nada.formats.files import file_digest
from tests.helpers import tiny_generator
from tests.nvidia_files import nvidia_generator, snapshot


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
