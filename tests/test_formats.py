"""Files as other programs write them: the generator is found in them and draws their images."""

import argparse
import copy
import json
import os
import pickle
import random
import resource
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nada.__main__ import main
from nada.checkpoint import (
    CheckpointError,
    fingerprint,
    load_generator,
    read_contents,
    save_generator,
)
from nada.clip import save_clip
from nada.delta import Delta, DeltaError, diff
from nada.facts import file_facts
from nada.formats.catalogue import choose, locate
from nada.formats.pickles import ForeignObject, reading_pickle
from nada.sample import latents
from tests.helpers import adapted, tiny_generator
from tests.nvidia_files import FILTER, nvidia_image, snapshot
from tests.other_files import (
    ADDRESSES,
    OTHER_BYTES,
    SMALL,
    UNUSABLE,
    attributes,
    encoder_and_decoder,
    named,
    ones,
    orig,
    other,
    resnet,
    theirs,
)


@pytest.fixture(scope="module")
def native():
    return tiny_generator(SMALL)


def draws_the_same(path: Path, native) -> bool:
    """Whether what is loaded from `path` has the weights, the mean and the images of `native`."""
    loaded = load_generator(path)
    z = latents(range(2), native.z_dim)
    torch.testing.assert_close(loaded(z), native(z), atol=1e-4, rtol=0)
    torch.testing.assert_close(loaded(z, 0.3), native(z, 0.3), atol=1e-4, rtol=0)
    return fingerprint(loaded) == fingerprint(native)


def layout(path: Path) -> str:
    with read_contents(path) as contents:
        return contents.layout


# Prefixes and wrappers


def dual(native) -> dict:
    """As DualStyleGAN writes it: a small mapping of its own outside of the generator."""
    outer = {f"style.{i}.{part}": torch.ones(20, 20) for i in (1, 2) for part in ("weight", "bias")}
    outer |= {"res.0.conv.weight": torch.ones(4, 4), "res.7.conv2.conv.weight": torch.ones(4, 4)}
    return {"g_ema": {**outer, **named("generator.", native.state_dict())}, "g_optim": {}}


def lightning(native) -> dict:
    s = native.state_dict()
    state = {**named("g.", other(s)), **named("g_ema.", s), "d.convs.0.0.weight": torch.ones(3, 3)}
    return {
        "state_dict": state,
        "epoch": 3,
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(5)}}, "param_groups": [{}]}],
    }


WRAPPED = {
    "DataParallel": (lambda g: named("module.", g.state_dict()), "'module'"),
    "DataParallel within": (
        lambda g: {"g_ema": named("module.", g.state_dict())},
        "'g_ema.module'",
    ),
    "generator prefix": (lambda g: named("generator.", g.state_dict()), "'generator'"),
    "netG": (lambda g: named("netG.", g.state_dict()), "'netG'"),
    "Lightning": (lightning, "'state_dict.g_ema' ('state_dict.g' left aside)"),
    "encoder and decoder": (encoder_and_decoder, "'state_dict.decoder'"),
    "DualStyleGAN": (dual, "'g_ema.generator'"),
    **{
        key: (lambda g, key=key: {key: g.state_dict(), "step": 3, "optim": {"lr": 0.1}}, repr(key))
        for key in ("ema", "G", "generator", "model", "G_ema", "state_dict", "params", "net_g")
    },
    "params_ema": (
        lambda g: {"params": other(g.state_dict()), "params_ema": g.state_dict()},
        "'params_ema' ('params' left aside)",
    ),
    "of two the averaged": (
        lambda g: {
            "G": other(g.state_dict()),
            "D": {"b4.out.weight": FILTER},
            "ema": g.state_dict(),
        },
        "'ema' ('G' left aside)",
    ),
    "not the frozen one": (
        lambda g: {
            **named("generator_frozen.generator.", other(g.state_dict())),
            **named("generator_trainable.generator.", g.state_dict()),
        },
        "'generator_trainable.generator' ('generator_frozen.generator' left aside)",
    ),
    "deep": (lambda g: {"a": {"b": [{"c": {"d": g.state_dict()}}]}}, "'a.b.0.c.d'"),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_generator_is_found_wherever_it_lies(tmp_path, native, kind):
    make, said = WRAPPED[kind]
    contents = make(native)
    torch.save(contents, tmp_path / "zip.pt")
    torch.save(contents, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert draws_the_same(tmp_path / "zip.pt", native)
    assert layout(tmp_path / "old.pt") == f"a PyTorch file with {said}"


@pytest.mark.parametrize("prefix", ["", "g_ema.", "module.generator."])
def test_prefixes_within_safetensors(tmp_path, native, prefix):
    save_file(named(prefix, native.state_dict()), tmp_path / "g.safetensors")
    assert draws_the_same(tmp_path / "g.safetensors", native)


def halves(native) -> dict:
    s = native.state_dict()
    return {
        "half of the averaged one": {
            "g": s,
            "g_ema": {key: value for key, value in s.items() if not key.startswith("to_rgbs")},
        },
        "a part too many": {"g_ema": {**s, "attention.weight": torch.ones(3)}},
        "within a prefix": named("decoder.", {**s, "extra.weight": torch.ones(3)}),
        "the outer style alone": {k: v for k, v in dual(native)["g_ema"].items() if "style.2" in k},
        "no synthesis": {k: v for k, v in s.items() if k.startswith("style")},
    }


@pytest.mark.parametrize("kind", halves(tiny_generator(SMALL)))
def test_half_a_generator_is_refused(tmp_path, native, kind):
    torch.save(halves(native)[kind], tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=r"^g\.pt: Not a StyleGAN2 generator"):
        load_generator(tmp_path / "g.pt")


def test_several_generators_of_no_telling_name_are_refused_by_name(tmp_path, native):
    state = native.state_dict()
    torch.save({"one": state, "two": other(state)}, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=r"several generators, 'one' and 'two'.*as 'g_ema'"):
        load_generator(tmp_path / "g.pt")


def test_a_mean_that_differs_from_layer_to_layer_is_computed_and_told(tmp_path, native):
    contents = encoder_and_decoder(native)
    contents["latent_avg"][3] += 1
    torch.save(contents, tmp_path / "g.pt")
    with pytest.warns(UserWarning, match=r"g\.pt: its mean latent differs from layer to layer"):
        loaded = load_generator(tmp_path / "g.pt")
    torch.testing.assert_close(loaded.mean_latent, native.mean_latent)


def test_a_mean_and_weights_of_numpy(tmp_path, native):
    state = {name: value.numpy() for name, value in native.state_dict().items()}
    contents = {"G": state, "latent_avg": np.arange(20, dtype=np.float32)}
    torch.save(contents, tmp_path / "g.pt")
    (tmp_path / "g.pkl").write_bytes(pickle.dumps(contents))
    for path in (tmp_path / "g.pt", tmp_path / "g.pkl"):
        loaded = load_generator(path)
        assert fingerprint(loaded) == fingerprint(native)
        assert torch.equal(loaded.mean_latent, torch.arange(20.0))


# Company


class Cyclic(dict):
    """Like OmegaConf's nodes, which know their parents."""

    def __init__(self):
        super().__init__(lr=0.1)
        self.parent, self.flags = self, {"list": [self]}


def company() -> dict:
    critic = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LeakyReLU(0.2))
    return {
        "args": argparse.Namespace(out=Path("out") / "run", sizes=[1, 2]),
        "numpy": [np.arange(2000.0), np.float32(0.5), np.int64(3), np.random.get_state()],
        "random": (random.getstate(), torch.get_rng_state()),
        "config": Cyclic(),
        "d": critic,
        "optimiser": torch.optim.Adam(critic.parameters()).state_dict(),
        "schedule": torch.optim.lr_scheduler.StepLR(torch.optim.SGD(critic.parameters(), 1), 5),
        "complex": torch.ones(3, dtype=torch.cfloat),
        "types": (int, set(), frozenset({"a"}), complex(1, 2), range(3)),
    }


@pytest.mark.filterwarnings("ignore:Detected call of:UserWarning")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "sequence"])
def test_harmless_company_does_no_harm(tmp_path, native, legacy):
    path = tmp_path / "g.pt"
    contents = {**company(), "g_ema": native.state_dict()}
    torch.save(contents, path, _use_new_zipfile_serialization=not legacy)
    assert draws_the_same(path, native)
    with reading_pickle(path) as read:
        assert isinstance(read["config"], ForeignObject) and read["config"].items == {"lr": 0.1}


@pytest.mark.parametrize("wrap", [lambda g: g, lambda g: {"g_ema": nn.DataParallel(g), "step": 3}])
def test_a_module_pickled_whole(tmp_path, native, wrap):
    torch.save(wrap(copy.deepcopy(native)), tmp_path / "g.pt")
    assert draws_the_same(tmp_path / "g.pt", native)


def test_the_rates_of_a_module_pickled_whole_are_heeded(tmp_path, native):
    module = copy.deepcopy(native)
    for layer in module.style[1:]:  # another rate, of the same images
        layer.lr_mul = 0.5
        layer.weight.data *= 0.02
        layer.bias.data *= 0.02
    torch.save(module, tmp_path / "g.pt")
    loaded, z = load_generator(tmp_path / "g.pt"), latents(range(2), native.z_dim)
    torch.testing.assert_close(loaded(z), native(z), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "attribute, value", [("negative_slope", 0.1), ("activation", "tanh"), ("lr_mul", "fast")]
)
def test_what_a_module_computes_otherwise_is_refused(tmp_path, native, attribute, value):
    module = copy.deepcopy(native)
    setattr(module.style[1], attribute, value)
    torch.save(module, tmp_path / "g.pt")
    with pytest.raises(
        CheckpointError, match=rf"'style\.1' has the {attribute} .* was expected|is"
    ):
        load_generator(tmp_path / "g.pt")


@pytest.mark.parametrize("factor", [0.2, 10])
def test_weights_of_another_rate_without_a_word_are_told(tmp_path, native, factor):
    state = {
        k: v * (factor if k.startswith("style") else 1) for k, v in native.state_dict().items()
    }
    torch.save(state, tmp_path / "g.pt")
    with pytest.warns(UserWarning, match=r"the mapping's weights are of size .*multiplier"):
        load_generator(tmp_path / "g.pt")


# NVIDIA's, by their arithmetic


def clamp(top):
    attributes(top, "Layer", conv_clamp=2.5)


def no_noise(top):
    attributes(top, "SynthesisLayer", use_noise=False)
    for module in top.modules():
        if module.class_name == "SynthesisLayer":
            del module.noise_strength, module.noise_const


def no_mean(top):
    del top.mapping.w_avg


def rate(top):
    for name, module in top.mapping.named_children():
        assert name.startswith("fc")
        module.bias_gain = 0.03


CHANGES = {"as usual": (None, {}), "conv_clamp": (clamp, {"clamp": 2.5})}
CHANGES |= {"no noise": (no_noise, {}), "no w_avg": (no_mean, {}), "rate": (rate, {"rate": 0.03})}


@pytest.mark.parametrize("kind", CHANGES)
def test_nvidias_pickle_draws_what_nvidias_program_does(tmp_path, native, kind):
    change, options = CHANGES[kind]
    top, state = theirs(native, change)
    (tmp_path / "n.pkl").write_bytes(snapshot(top))
    loaded = load_generator(tmp_path / "n.pkl")
    for z in latents(range(3), native.z_dim):
        expected = nvidia_image(state, z, **options)
        torch.testing.assert_close(loaded(z[None])[0].double(), expected, atol=1e-4, rtol=0)
        if kind not in ("as usual", "no w_avg"):  # it is a change that can be seen
            assert (nvidia_image(theirs(native)[1], z) - expected).abs().max() > 0.1
    if kind == "no w_avg":
        torch.testing.assert_close(loaded.mean_latent, native.mean_latent)


PLAIN = {
    "bare": lambda state: state,
    "G_ema": lambda state: {"G": other(state), "G_ema": state},
    "module": lambda state: named("module.", state),
    "state_dict": lambda state: {"state_dict": named("G_ema.", state), "epoch": 1},
    "halves": lambda state: {
        part: {k.partition(".")[2]: v for k, v in state.items() if k.startswith(part)}
        for part in ("mapping", "synthesis")
    },
}


@pytest.mark.filterwarnings("ignore:.*conv_clamp:UserWarning")
@pytest.mark.parametrize("kind", PLAIN)
@pytest.mark.parametrize("change", [None, no_noise, no_mean])
def test_nvidias_names_as_a_plain_dict(tmp_path, native, kind, change):
    _, state = theirs(native, change)
    torch.save(PLAIN[kind](state), tmp_path / "n.pth")
    loaded, z = load_generator(tmp_path / "n.pth"), latents([5], native.z_dim)
    expected = nvidia_image(state, z[0])
    torch.testing.assert_close(loaded(z)[0].double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(loaded.mean_latent, native.mean_latent)


def test_nvidias_names_in_safetensors(tmp_path, native):
    _, state = theirs(native)
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "n.safetensors")
    with pytest.warns(UserWarning, match=r"does not say .* cuts features off \(conv_clamp"):
        assert draws_the_same(tmp_path / "n.safetensors", native)


def test_noise_that_is_missing_in_part_is_refused(tmp_path, native):
    _, state = theirs(native)
    del state["synthesis.b8.conv0.noise_strength"]
    torch.save(state, tmp_path / "n.pt")
    with pytest.raises(CheckpointError, match=r"'synthesis\.b8\.conv0\.noise_strength' is missing"):
        load_generator(tmp_path / "n.pt")


@pytest.mark.parametrize("file", ["g.safetensors", "g.pt"])
def test_a_clamp_is_kept_by_saving_and_by_domains(tmp_path, native, file):
    top, _ = theirs(native, clamp)
    (tmp_path / "n.pkl").write_bytes(snapshot(top))
    first, z = load_generator(tmp_path / "n.pkl"), latents(range(2), native.z_dim)
    save_generator(first, tmp_path / file, dtype=torch.float32)
    second = load_generator(tmp_path / file)
    assert second.config == first.config and second.config.clamp == 2.5
    assert torch.equal(first(z), second(z)) and not torch.equal(first(z), native(z))
    assert fingerprint(first) == fingerprint(native)  # of the weights, which domains change
    assert diff(first, adapted(first, "a", ("convs.1",))).tensors.keys() == {
        key for key in first.state_dict() if key.startswith("convs.1")
    }


def test_no_clamp_is_kept_without_a_trace(tmp_path, native):
    save_generator(native, tmp_path / "g.pt")
    assert torch.load(tmp_path / "g.pt").keys() == {"g_ema", "latent_avg"}
    assert native.config.clamp is None


def test_differing_clamps_are_refused(tmp_path, native):
    top, _ = theirs(native, lambda top: attributes(top, "ToRGB", conv_clamp=256))
    (tmp_path / "n.pkl").write_bytes(snapshot(top))
    with pytest.raises(CheckpointError, match="have the conv_clamp 256, None; one number for all"):
        load_generator(tmp_path / "n.pkl")


# The first bytes


@pytest.mark.parametrize("name", ["g.pt", "g.SAFETENSORS", "g.pkl", "g", "g.bin"])
def test_safetensors_of_any_name(tmp_path, native, name):
    save_file(native.state_dict(), tmp_path / name)
    assert draws_the_same(tmp_path / name, native)


@pytest.mark.parametrize("name", ["g.safetensors", "g.zip", "g.ckpt", "g"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "sequence"])
def test_pytorch_files_of_any_name(tmp_path, native, name, legacy):
    contents = {"g_ema": native.state_dict()}
    torch.save(contents, tmp_path / name, _use_new_zipfile_serialization=not legacy)
    assert draws_the_same(tmp_path / name, native)


@pytest.mark.parametrize("data", OTHER_BYTES)
@pytest.mark.parametrize("name", ["g.pt", "g.safetensors"])
def test_other_formats_are_named(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=OTHER_BYTES[data]):
        load_generator(tmp_path / name)


def test_an_archive_with_a_generator_in_it_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        archive.writestr("models/ffhq.pt", "weights")
    with pytest.raises(CheckpointError, match=r"unpack it, and give 'models/ffhq.pt' in it"):
        load_generator(tmp_path / "g.zip")


# Recognised and of no use


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_used_is_named(tmp_path, kind):
    contents, sentence = UNUSABLE[kind]
    torch.save(contents, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_generator(tmp_path / "g.pt")
    said = str(caught.value)
    assert said.startswith("g.pt: ") and said.endswith(".") and "file is complete" not in said


@pytest.mark.parametrize("change", [orig, resnet])
def test_nvidias_other_architectures_are_refused_by_name(tmp_path, native, change):
    def named(top):
        attributes(top, "SynthesisBlock", architecture=change.__name__)
        change(top)

    (tmp_path / "g.pkl").write_bytes(snapshot(theirs(native, named)[0]))
    torch.save(theirs(native, change)[1], tmp_path / "g.pt")
    for name in ("g.pkl", "g.pt"):
        with pytest.raises(
            CheckpointError, match=f"is of the '{change.__name__}' architecture; one"
        ):
            load_generator(tmp_path / name)


def test_a_complete_file_is_not_said_to_be_incomplete(tmp_path, native):
    state = {**native.state_dict(), "convs.0.extra": torch.ones(2)}
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=r"does not belong.*another architecture"):
        load_generator(tmp_path / "g.pt")


def test_a_domain_is_no_generator_nor_the_other_way_round(tmp_path, native):
    delta = diff(native, adapted(native, "a", ("convs.1",)), {"target": "a"})
    delta.save(tmp_path / "d.safetensors")
    (tmp_path / "d.safetensors").rename(tmp_path / "d.pt")
    with pytest.raises(CheckpointError, match=r"is a domain file.*with --domain"):
        load_generator(tmp_path / "d.pt")
    save_generator(native, tmp_path / "g.safetensors")
    torch.save(native.state_dict(), tmp_path / "g.pt")
    for name in ("g.safetensors", "g.pt"):
        with pytest.raises(DeltaError, match=r"generator.*--generator"):
            Delta.load(tmp_path / name)


# Hostile ones


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def acting(call: bytes) -> bytes:
    """A pickle in which a placeholder is asked to do something."""
    return b"\x80\x02}" + text("g_ema") + b"cmodel\nNet\n)\x81" + call + b"s."


COMMAND = "touch 'it ran'"
ACTS = {
    "built": acting(b"}" + text("__reduce__") + text(COMMAND) + b"sb"),
    "built twice": acting(b"}b}b"),
    "called": acting(b"(" + text(COMMAND) + b"tR"),
    "given items": acting(text("__class__") + text(COMMAND) + b"s"),
    "appended to": acting(text(COMMAND) + b"a"),
    "a method": acting(b"0c__builtin__\ngetattr\n(cmodel\nNet\n" + text("run") + b"tR)R"),
    "new with names": b"\x80\x04cmodel\nNet\n)}" + text("a") + text(COMMAND) + b"s\x92.",
    "a plain thing called": b"\x80\x02]" + b")R.",
}


@pytest.mark.parametrize("kind", ACTS)
def test_a_placeholder_does_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    Path("g.pt").write_bytes(ACTS[kind])
    with pytest.raises(CheckpointError, match=r"^g\.pt"):
        load_generator("g.pt")
    assert os.listdir() == ["g.pt"]


def deep(depth: int) -> bytes:
    return (
        b"\x80\x02" + b"".join(b"}" + text("a") for _ in range(depth)) + b"}" + b"s" * depth + b"."
    )


def cycle() -> dict:
    inner: dict = {"a": torch.ones(2)}
    inner["again"] = {"b": [inner]}
    return inner


def modules_in_a_circle() -> nn.Module:
    one, two = nn.Module(), nn.Module()
    one._modules["two"], two._modules["one"] = two, one
    return one


def doubled(depth: int) -> list:
    """A list that holds another one twice, which holds …: 2 ^ depth paths."""
    inner: list = [torch.ones(2)]
    for _ in range(depth):
        inner = [inner, inner]
    return inner


def many(*names: str, shape: tuple = (1,)) -> dict:
    """Names with numbers in place of "{}": one tensor, that all of them share."""
    return dict.fromkeys((n.format(i) for n in names for i in range(15_000)), torch.ones(shape))


BASICSR = "style_conv1.modulated_conv.weight"
HOSTILE = {
    "deep": deep(1000),
    "very deep": deep(100_000),
    "cycle": cycle(),
    "modules in a circle": modules_in_a_circle(),
    "doubled": doubled(18),
    "many generators": {f"g{i}": ones("input.input", shape=(1, 2, 4, 4)) for i in range(3000)},
    "many numbers": {"g_ema": list(range(200_000)), "g": {i: i for i in range(50_000)}},
    "many blocks of NVIDIA's": many("synthesis.b4.const", "synthesis.b{}.conv0.weight"),
    "many layers of NVIDIA's": many("synthesis.b4.const", "mapping.fc{}.weight"),
    "many layers of basicsr's": many(BASICSR, "style_convs.{}.weight"),
    "many noises of basicsr's": many(BASICSR, "noises.noise{}"),
    "many layers of ours": {
        **ones("style.1.weight", "conv1.conv.modulation.weight"),
        **ones("input.input", shape=(1, 2, 4, 4)),
        **many("convs.{}.conv.weight", shape=(1,) * 5),
    },
    "deep modules": nn.Sequential(nn.Sequential(nn.Linear(2, 2))),
    "one name twice": {
        "g.input": ones("input", shape=(1, 2, 4, 4)),
        "g": ones("input.input", shape=(1, 2, 4, 4)),
    },
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_nesting_ends_in_a_sentence_at_once(tmp_path, kind):
    path, contents = tmp_path / "g.pt", HOSTILE[kind]
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    else:
        torch.save(contents, path)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"^g\.pt") as caught:
        load_generator(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.process_time() - start < 10 and grown < 200, f"{grown:.0f} MiB"
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


def test_two_tensors_of_one_name_are_refused(tmp_path):
    torch.save(HOSTILE["one name twice"], tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=r"two tensors called 'g\.input\.input'"):
        load_generator(tmp_path / "g.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_two_records_of_one_name_are_refused(tmp_path, native):
    torch.save(native.state_dict(), tmp_path / "g.pt")
    with zipfile.ZipFile(tmp_path / "g.pt", "a") as archive:
        archive.writestr(archive.namelist()[0], b"other")
    with pytest.raises(CheckpointError, match="two records of one name"):
        load_generator(tmp_path / "g.pt")


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan"), float("inf"), [1.0, 2.0]])
def test_a_clamp_that_is_none_is_refused(tmp_path, native, value):
    save_file(
        {**native.state_dict(), "conv_clamp": torch.tensor(value)}, tmp_path / "g.safetensors"
    )
    with pytest.raises(CheckpointError, match="'conv_clamp' is "):
        load_generator(tmp_path / "g.safetensors")


# What a file is


def told(capsys, *arguments) -> dict:
    assert main(["info", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_info_of_a_generator_says_what_would_be_used(tmp_path, native, capsys):
    torch.save({**lightning(native), "note\x1b[31m": "x"}, tmp_path / "g.pt")
    facts = told(capsys, tmp_path / "g.pt")
    assert facts == {
        "file": "g.pt",
        "bytes": (tmp_path / "g.pt").stat().st_size,
        "kind": "generator",
        "used": "a PyTorch file with 'state_dict.g_ema' ('state_dict.g' left aside)",
        "size": 16,
        "z": 20,
        "w": 20,
        "mapping_layers": 2,
        "channels": [12, 10, 8],
        "parameters": sum(weight.numel() for weight in native.parameters()),
        "fingerprint": fingerprint(native),
        "beside": ["epoch", "optimizer_states", "note\x1b[31m"],
        "unusual": ["it has no mean latent, which is computed from 4096 z"],
    }
    assert main(["info", str(tmp_path / "g.pt")]) == 0
    said = capsys.readouterr().out
    assert "size: 16\n" in said and "channels: 12; 10; 8\n" in said and "\x1b" not in said


def test_info_names_what_is_unusual(tmp_path, native, capsys):
    def change(top):
        clamp(top)
        no_noise(top)
        rate(top)

    (tmp_path / "n.pkl").write_bytes(snapshot(theirs(native, change)[0]))
    facts = told(capsys, tmp_path / "n.pkl")
    assert facts["used"].startswith("a PyTorch file with NVIDIA's G_ema: ")
    assert facts["beside"][:2] == ["G", "D"]
    unusual = " ".join(facts["unusual"])
    for part in ("multiplier of 0.03", "without noise", "cut off at ± 2.5"):
        assert part in unusual
    torch.save(theirs(native)[1], tmp_path / "n.pt")
    assert "conv_clamp" in told(capsys, tmp_path / "n.pt")["unusual"][0]


def test_info_of_a_domain_and_of_a_clip(tmp_path, native, clip_tiny, capsys):
    delta = diff(native, adapted(native, "a", ("convs.1",)), {"target": "a sketch"})
    delta.save(tmp_path / "d.safetensors")
    facts = told(capsys, tmp_path / "d.safetensors")
    assert (facts["kind"], facts["title"]) == ("domain", "a sketch")
    assert facts["base"] == fingerprint(native) and facts["tensors"] == len(delta.tensors)

    save_clip(clip_tiny.model, tmp_path / "clip.safetensors", {320}, {"a"})
    facts = told(capsys, tmp_path / "clip.safetensors")
    assert (facts["kind"], facts["resolution"], facts["context"]) == ("CLIP", 16, 24)
    torch.save(clip_tiny.model.state_dict(), tmp_path / "clip.pt")
    facts = told(capsys, tmp_path / "clip.pt")
    assert facts["kind"] == "CLIP" and "does not say which activation" in facts["unusual"][0]


def test_info_of_what_cannot_be_used_is_its_sentence(tmp_path, capsys):
    torch.save(UNUSABLE["StyleGAN3"][0], tmp_path / "g.pt")
    assert main(["info", str(tmp_path / "g.pt")]) == 2
    assert "nada info: g.pt: This is a StyleGAN3 generator" in capsys.readouterr().err


def test_a_conversion_tells_of_a_clamp(tmp_path, native, capsys):
    (tmp_path / "n.pkl").write_bytes(snapshot(theirs(native, clamp)[0]))
    out = ["--generator", str(tmp_path / "n.pkl"), "--out", str(tmp_path / "g.pt")]
    assert main(["convert", *out]) == 0
    said = capsys.readouterr().out
    assert "Note: features are cut off at ± 2.5, as NVIDIA's program does.\n" in said
    assert "Note: that is kept as 'conv_clamp'" in said
    assert "differ by 0 at most" in said


# Addresses


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_gets_a_hint(address, capsys):
    with pytest.raises(CheckpointError) as caught:
        load_generator(address)
    assert ADDRESSES[address] in str(caught.value)
    assert main(["info", address]) == 2
    assert ADDRESSES[address] in capsys.readouterr().err


PASTED = (" {} ", "'{}'", '"{}"', "“{}”", "file://{}", "file://localhost{}", "'file:{}'")


@pytest.mark.parametrize("pasted", PASTED)
def test_a_path_is_understood_as_it_was_pasted(tmp_path, native, pasted):
    path = tmp_path / "my own.safetensors"
    save_generator(native, path, dtype=torch.float32)
    text = str(path).replace(" ", "%20") if "file:" in pasted else str(path)
    source = pasted.format(text)
    assert fingerprint(load_generator(source)) == fingerprint(native)
    assert choose(source, "") == (str(path), "")  # as the page takes it
    assert told_of(source)["file"] == path.name


def told_of(source: str) -> dict:
    return file_facts(locate(source).path)


def test_a_file_may_be_called_as_an_address(tmp_path, monkeypatch, native):
    monkeypatch.chdir(tmp_path)
    for path in (Path("huggingface.co/org/g.safetensors"), Path("'g.safetensors'")):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_generator(native, path, dtype=torch.float32)
        assert fingerprint(load_generator(str(path))) == fingerprint(native)


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch, native):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_generator(native, tmp_path / "g.safetensors", dtype=torch.float32)
    assert fingerprint(load_generator("~/g.safetensors")) == fingerprint(native)
