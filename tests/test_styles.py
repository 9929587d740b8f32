"""Domains of styles: told from others, small, carried over within a family and to nobody else."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nada.__main__ import main
from nada.adapt import Progress
from nada.checkpoint import (
    family_agreement,
    family_sketch,
    fingerprint,
    load_generator,
    save_generator,
    sha256,
)
from nada.delta import SAME_FAMILY, Delta, DeltaError, blend, carry_over, diff
from nada.demo.train_generator import shape
from nada.facts import carried_note, run_facts
from nada.generator import Generator, GeneratorConfig
from nada.presets import PRESETS
from nada.sample import sample
from nada.serve.domains import KeptDomain
from nada.serve.view import cards
from tests.helpers import TINY, adapted, equal, styled, tiny_generator, trained_on

FACTS = {"source": "photo", "target": "zombie", "generator": {"name": "parent.pt"}}


@pytest.fixture
def child(generator):
    return trained_on(generator)


@pytest.fixture
def stranger():
    torch.manual_seed(5)
    return Generator(TINY).eval().requires_grad_(False)


@pytest.fixture
def delta(generator):
    return diff(generator, styled(generator), FACTS)


def saved(delta: Delta, path) -> Delta:
    delta.save(path)
    return Delta.load(path)


# Kinds


@pytest.mark.parametrize(
    "names, kind",
    [
        (["conv1.conv.modulation.bias", "to_rgbs.1.conv.modulation.bias"], "styles"),
        (["conv1.conv.modulation.bias", "conv1.conv.weight"], "weights"),
        (["conv1.conv.modulation.weight"], "weights"),
        (["convs.1.conv.modulation.bias", "convs.10.conv.weight"], "both"),
        (["convs.1.conv.modulation.bias", "style.1.weight"], "both"),
        (["convs.1.activate.bias", "to_rgb1.bias", "noises.noise_1"], "weights"),
        ([], "weights"),
    ],
)
def test_the_kind_is_read_off_the_names(names, kind):
    assert Delta("a" * 64, {name: torch.ones(3) for name in names}).kind == kind


def test_a_domain_of_styles_holds_an_offset_of_each_style_alone(generator, delta):
    assert delta.kind == "styles" and len(delta.layers) == 8 == len(delta.tensors)
    state = generator.state_dict()
    assert all(torch.equal(b, state[name].half()) for name, b in delta.base_styles.items())
    assert delta.metadata == {**FACTS, "family": family_sketch(generator)}


def test_other_domains_hold_nothing_of_their_base(generator):
    delta = diff(generator, adapted(generator, "zombie", ("convs.1.",)), FACTS)
    assert delta.kind == "weights" and not delta.base_styles and delta.metadata == FACTS


# Files


def test_saved_and_loaded_with_the_styles_of_the_base(generator, delta, tmp_path):
    loaded = saved(delta, tmp_path / "d.safetensors")
    assert equal(loaded.tensors, delta.tensors) and equal(loaded.base_styles, delta.base_styles)
    assert loaded.kind == "styles" and loaded.metadata == delta.metadata
    assert torch.equal(
        sample(blend(generator, [(loaded, 1.0)]), [1]), sample(styled(generator), [1])
    )


@pytest.mark.parametrize("size, numbers, most", [(128, 2672, 20_000), (1024, 9088, 60_000)])
def test_files_are_small(tmp_path, size, numbers, most):
    """With the metadata of a run, for the bundled generator's shape and for FFHQ's."""
    config = GeneratorConfig.standard(size)
    if size == 128:
        config = shape(128)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in Generator(config).state_dict().items()}
    styles = {k: torch.randn(s) for k, s in shapes.items() if k.endswith("modulation.bias")}
    base = {key: value.half() for key, value in styles.items()}

    progress = Progress(60, 60, 0.5, {}, tuple(f"convs.{i}" for i in range(6)), 0.1, 20.0, 0.0)
    facts = run_facts([], "an oil painting of a person", PRESETS["ffhq"], progress)
    facts |= {"clip": ["ViT-B/32", "ViT-B/16"], "quality": 0.3, "diversity": 0.2}
    Delta("a" * 64, styles, facts | {"family": "f" * 64}, base).save(tmp_path / "d.safetensors")
    assert sum(value.numel() for value in styles.values()) == numbers
    assert (tmp_path / "d.safetensors").stat().st_size <= most


def test_a_file_without_the_styles_of_its_base_is_read_as_before(generator, child, tmp_path):
    styles = diff(generator, styled(generator)).tensors
    loaded = saved(Delta(fingerprint(generator), styles, FACTS), tmp_path / "d.safetensors")
    assert loaded.base_styles == {} and loaded.kind == "styles"
    blend(generator, [(loaded, 1.0)])
    with pytest.raises(DeltaError, match=r"saved without the styles.*make it again"):
        carry_over(loaded, child)


SPOILT = {
    "too few": (lambda base: base[:-1], "do not belong to its tensors"),
    "not flat": (lambda base: base[None], "do not belong to its tensors"),
    "float32": (lambda base: base.float(), "torch.float32 .* float16 with one"),
    "nan": (lambda base: base * torch.nan, "nan or infinity"),
    "none": (lambda base: base[:0], "float16 with one"),
}


@pytest.mark.parametrize("spoil, complaint", SPOILT.values(), ids=SPOILT)
def test_wrong_styles_of_a_base_get_a_sentence(delta, tmp_path, spoil, complaint):
    path = tmp_path / "d.safetensors"
    delta.save(path)
    tensors = load_file(path)
    rewrite(path, {**tensors, "base": spoil(tensors["base"])})
    with pytest.raises(DeltaError, match=complaint):
        Delta.load(path)


def test_a_domain_of_weights_holds_no_styles_of_a_base(generator, tmp_path):
    path = tmp_path / "d.safetensors"
    diff(generator, adapted(generator, "w", ("convs.1.",))).save(path)
    rewrite(path, {**load_file(path), "base": torch.ones(7).half()})
    with pytest.raises(DeltaError, match="do not belong"):
        Delta.load(path)


def rewrite(path, tensors) -> None:
    """Other tensors under a checksum that fits them."""
    with safe_open(path, "pt") as file:
        header = file.metadata()
    digest = sha256(tensors, header["base"], header["metadata"])
    save_file(tensors, path, {**header, "sha256": digest})


# Families


def test_a_family_is_told_from_strangers(generator, child, stranger):
    own = family_sketch(generator)
    assert family_agreement(own, own) == 1 and len(own) == 64
    assert family_agreement(family_sketch(child), own) > 0.9
    torch.manual_seed(6)
    others = [family_sketch(Generator(TINY)) for _ in range(20)]
    agreements = [family_agreement(one, own) for one in others]
    assert max(agreements) < SAME_FAMILY - 0.05 and 0.45 < sum(agreements) / 20 < 0.55


@pytest.mark.parametrize(
    "text", [None, "", "z" * 64, "A" * 64, "1" * 63, "1" * 65, 7, {}, "-" * 64]
)
def test_what_is_no_sketch_says_nothing(generator, text):
    assert family_agreement(text, family_sketch(generator)) is None


def test_the_bundled_generators_sketch_stays(monkeypatch):
    """Domains that people keep say it: another sketch would make strangers of their bases."""
    assert family_sketch(load_generator("demo")) == SKETCH


SKETCH = "c11ee4802350c3cc8928fafc8396d10630a3c3fb7e08b2cabcca2f208d896f12"


# Carrying over


@pytest.mark.parametrize("weight", [-0.5, 0.7, 1.0, 1.5])
def test_carried_over_are_the_offsets(generator, child, delta, weight):
    moved = carry_over(delta, child)
    got, was, base = (g.state_dict() for g in (blend(child, [(moved, weight)]), child, generator))
    for key, value in got.items():
        if key not in delta.tensors:
            assert torch.equal(value, was[key])
        else:
            offset = delta.tensors[key] - base[key]
            torch.testing.assert_close(value, was[key] + weight * offset, rtol=0, atol=3e-3)


def test_the_right_base_changes_nothing(generator, delta):
    assert carry_over(delta, generator) is delta
    weights = diff(generator, adapted(generator, "zombie", ("convs.1.",)))
    assert carry_over(weights, generator) is weights


def test_one_that_was_carried_over_says_so_and_goes_on(generator, child, delta, tmp_path):
    moved = saved(carry_over(delta, child), tmp_path / "d.safetensors")
    assert moved.base_fingerprint == fingerprint(child) and moved.kind == "styles"
    told = moved.metadata["carried_from"]
    assert told["base"] == fingerprint(generator) and 0.9 < told["agreement"] <= 1
    assert told["name"] == "parent.pt" and "generator" not in moved.metadata
    assert "'zombie' is carried over from the generator parent.pt " in carried_note(moved)
    assert f"agree in {told['agreement']:.0%}" in carried_note(moved)
    assert carried_note(delta) is None
    back = carry_over(moved, generator)
    for key, value in back.tensors.items():
        torch.testing.assert_close(value, delta.tensors[key], rtol=0, atol=3e-3)


def test_without_a_sketch_the_family_is_unknown(child, delta):
    nameless = Delta(delta.base_fingerprint, delta.tensors, FACTS, delta.base_styles)
    moved = carry_over(nameless, child)
    assert moved.metadata["carried_from"] == {"base": delta.base_fingerprint, "name": "parent.pt"}
    assert "family is unknown" in carried_note(moved)


def test_strangers_other_shapes_and_weights_are_refused(generator, child, stranger, delta):
    with pytest.raises(DeltaError, match=r"another family.*agree in \d\d%"):
        carry_over(delta, stranger)
    with pytest.raises(DeltaError, match="does not fit the generator"):
        carry_over(delta, tiny_generator(GeneratorConfig(8, 8, 8, 2, (4, 4))))
    weights = diff(generator, adapted(generator, "zombie", ("convs.1.",)))
    with pytest.raises(DeltaError, match=r"changes weights.*`nada distil`"):
        carry_over(weights, child)


def test_a_refusal_mentions_carrying_over_where_that_could_be(generator, child, delta):
    with pytest.raises(DeltaError, match=r"made from another generator.*--carry-over.*tick"):
        blend(child, [(delta, 1.0)])
    weights = diff(generator, adapted(generator, "zombie", ("convs.1.",)))
    smaller = tiny_generator(GeneratorConfig(8, 8, 8, 2, (4, 4)))
    for one, base in ((weights, child), (delta, smaller)):
        with pytest.raises(DeltaError, match="made from another generator") as caught:
            blend(base, [(one, 1.0)])
        assert "carry" not in str(caught.value)


# The command line


@pytest.fixture
def files(generator, child, delta, tmp_path):
    """A child's file, as --generator, and a domain of its parent."""
    save_generator(child, tmp_path / "child.pt", dtype=torch.float32)
    delta.save(tmp_path / "zombie.safetensors")
    return ["--generator", str(tmp_path / "child.pt")], str(tmp_path / "zombie.safetensors")


def test_commands_carry_over_when_asked(files, child, delta, tmp_path, capsys):
    options, domain = files
    out, mixed = tmp_path / "out.png", tmp_path / "mix.safetensors"
    look = ["sample", *options, "--domain", domain, "0.7", "--seeds", "1", "--out", str(out)]
    assert main(look) == 2 and "--carry-over" in capsys.readouterr().err
    assert main([*look, "--carry-over"]) == 0 and out.exists()
    assert "is carried over from the generator" in capsys.readouterr().err
    film = ["film", *options, "--domain", domain, "--seeds", "1", "--between", "2"]
    assert main([*film, "--carry-over", "--out", str(tmp_path / "film.mp4")]) == 0
    mix = ["blend", *options, "--domain", domain, "0.7", "--carry-over"]
    assert main([*mix, "--out", str(mixed)]) == 0
    kept, moved = Delta.load(mixed), carry_over(delta, child)
    expected = sample(blend(child, [(moved, 0.7)]), [1])
    torch.testing.assert_close(sample(blend(child, [(kept, 1.0)]), [1]), expected)
    assert kept.metadata["blend"][0]["carried_from"]["base"] == delta.base_fingerprint


def test_the_command_domain_tells_kind_and_size(files, delta, capsys):
    options, domain = files
    assert main(["domain", *options, domain]) == 0
    text = capsys.readouterr().out
    assert "kind: styles\nchanged_layers: 8\nbytes: " in text and "fits: False" in text
    assert main(["domain", *options, domain, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] > 1000 and told["family"] == delta.metadata["family"]
    assert main(["info", domain]) == 0
    assert "changes: styles" in capsys.readouterr().out


def test_a_card_says_what_the_file_holds(child, delta, tmp_path):
    moved = saved(carry_over(delta, child), path := tmp_path / "d.safetensors")
    (card,) = json.loads(cards([KeptDomain.of("1", path, moved, ())], []))
    assert card["holds"] == {"size": "2 KB", "kind": "styles", "layers": 8}
    assert card["facts"]["carried_from"] == f"parent.pt {delta.base_fingerprint[:12]}"
    assert card["facts"]["family"].endswith("%")
    nameless = Delta(delta.base_fingerprint, delta.tensors, FACTS, delta.base_styles)
    (card,) = json.loads(cards([KeptDomain.of("1", path, carry_over(nameless, child), ())], []))
    assert card["facts"]["family"] == "?"
