"""Generators in basicsr's names draw what its program does, or are refused by name."""

import time

import pytest
import torch

from nada.checkpoint import CheckpointError, fingerprint, load_generator, read_generator
from nada.generator import GeneratorConfig
from nada.sample import latents
from tests.basicsr_files import basicsr_image, basicsr_state, clean, module
from tests.helpers import tiny_generator
from tests.other_files import other

UNCLEAR = "ignore:.*enlarges bilinearly:UserWarning"


@pytest.fixture(scope="module")
def native():
    return tiny_generator(GeneratorConfig(16, 20, 20, 2, (12, 10, 8)))


WRAPPED = {
    "bare": lambda s: s,
    "params_ema": lambda s: {"params": other(s), "params_ema": s},
    "with a mean": lambda s: {"params_ema": s, "latent_avg": torch.ones(20)},
    "module": lambda s: {f"module.{name}": value for name, value in s.items()},
    "a module pickled whole": lambda s: {"net_g": module(s)},
}


@pytest.mark.filterwarnings(UNCLEAR)
@pytest.mark.parametrize("kind", WRAPPED)
def test_the_plain_generator_draws_what_basicsr_does(tmp_path, native, kind):
    state = basicsr_state(native)
    torch.save(WRAPPED[kind](state), tmp_path / "g.pth")
    loaded = load_generator(tmp_path / "g.pth")
    for z in latents(range(3), native.z_dim):
        expected = basicsr_image(state, z)
        torch.testing.assert_close(loaded(z[None])[0].double(), expected, atol=1e-4, rtol=0)
    assert fingerprint(loaded) == fingerprint(native)
    if kind == "with a mean":
        assert torch.equal(loaded.mean_latent, torch.ones(20))


def test_what_cannot_be_known_is_said(tmp_path, native):
    state = basicsr_state(native)
    torch.save({"params_ema": state}, tmp_path / "g.pth")
    with pytest.warns(UserWarning, match=r"g\.pth: a plain state dict .* enlarges bilinearly"):
        load_generator(tmp_path / "g.pth")
    (z,) = latents([1], native.z_dim)
    assert (basicsr_image(state, z, bilinear=True) - basicsr_image(state, z)).abs().max() > 0.1
    torch.save(module(state), tmp_path / "m.pth")
    assert read_generator(tmp_path / "m.pth")[1].doubts == ()
    used = read_generator(tmp_path / "g.pth")[1].facts()["used"]
    assert used == f"a PyTorch file with basicsr's params_ema: {len(state)} tensors, each used " + (
        "exactly once"
    )


REFUSED = {
    "clean": (clean, "enlarges bilinearly, as those of restorers"),
    "bilinear module": (lambda s: module(s, interpolation_mode="bilinear"), "enlarges bilinearly"),
    "GFPGAN": (
        lambda s: {"params_ema": {f"stylegan_decoder.{name}": value for name, value in s.items()}},
        "This is GFPGAN, which restores faces",
    ),
    "a part too many": (
        lambda s: {**s, "condition_scale.0.weight": torch.ones(3)},
        r"nothing here uses 'condition_scale\.0\.weight'",
    ),
    "a part too few": (
        lambda s: {name: v for name, v in s.items() if name != "style_convs.1.activate.bias"},
        r"'convs\.1\.activate\.bias' is missing",
    ),
    "our names among theirs": (
        lambda s: {**s, "style.1.weight": torch.ones(20, 20)},
        r"nothing here uses 'style\.1\.weight'",
    ),
    "another slope": (
        lambda s: module(s, negative_slope=0.1),
        "the generator' has the negative_slope 0.1",
    ),
    "half": (lambda s: {name: v for name, v in s.items() if "mlp" in name}, "is a part of a gen"),
    "numbers for tensors": (lambda s: dict.fromkeys(s, 1), "it holds no tensors"),
    "huge numbers of layers": (
        lambda s: {**s, **{f"style_mlp.{i}.weight": torch.ones(1) for i in range(9, 3000)}},
        "nothing here|numbered|a gap|instead of|does not belong|is missing",
    ),
}


@pytest.mark.filterwarnings(UNCLEAR)
@pytest.mark.parametrize("kind", REFUSED)
def test_others_are_refused_by_name_at_once(tmp_path, native, kind):
    change, sentence = REFUSED[kind]
    torch.save(change(basicsr_state(native)), tmp_path / "g.pth")
    start = time.process_time()
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_generator(tmp_path / "g.pth")
    said = str(caught.value)
    assert said.startswith("g.pth: ") and len(said) < 500 and time.process_time() - start < 10
