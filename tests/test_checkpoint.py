"""Every form in which generators are found on disk, and every way in which a file can be wrong."""

import argparse
import json
import pickle
import struct
import zipfile

import pytest
import safetensors
import torch
from safetensors.torch import save_file

from nada.checkpoint import (
    CheckpointError,
    fingerprint,
    load_generator,
    save_generator,
)
from nada.generator import GeneratorConfig
from nada.machine import pick_device
from tests.helpers import TINY, tiny_generator


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def training_file(generator) -> dict:
    """What a training script leaves: two generators, a discriminator, optimisers, its arguments."""
    return {
        "g": {key: value + 1 for key, value in generator.state_dict().items()},
        "d": {"convs.0.0.weight": torch.ones(3, 3)},
        "g_ema": generator.state_dict(),
        "g_optim": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.002}]},
        "args": argparse.Namespace(size=16, path="data"),
        "latent_avg": torch.arange(16.0),
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_training_file_gives_its_moving_average(generator, tmp_path, legacy):
    path = tmp_path / "550000.pt"
    torch.save(training_file(generator), path, _use_new_zipfile_serialization=not legacy)
    loaded = load_generator(path)
    assert same(loaded, generator)
    assert torch.equal(loaded.mean_latent, torch.arange(16.0))
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize("wrap", [lambda s: {"g_ema": s}, lambda s: {"g": s}, lambda s: s])
def test_every_layout_without_a_mean_latent(generator, tmp_path, wrap):
    torch.save(wrap(generator.state_dict()), tmp_path / "g.pt")
    loaded = load_generator(str(tmp_path / "g.pt"))
    assert same(loaded, generator)
    torch.testing.assert_close(loaded.mean_latent, generator.mean_latent)


def test_blur_filters_and_noise_may_be_left_out(generator, tmp_path):
    state = generator.state_dict()
    small = {k: v for k, v in state.items() if not k.endswith(".kernel")}
    torch.save({"g_ema": small}, tmp_path / "no_kernels.pt")
    assert same(load_generator(tmp_path / "no_kernels.pt"), generator)

    small = {k: v for k, v in small.items() if not k.startswith("noises.")}
    torch.save({"g_ema": small}, tmp_path / "no_noise.pt")
    first, second = (load_generator(tmp_path / "no_noise.pt") for _ in range(2))
    assert same(first, second) and first.noises.noise_4.std() > 0.5


def test_a_latent_average_of_one_row_will_do(generator, tmp_path):
    contents = {"g_ema": generator.state_dict(), "latent_avg": torch.ones(1, 16)}
    torch.save(contents, tmp_path / "g.pt")
    assert torch.equal(load_generator(tmp_path / "g.pt").mean_latent, torch.ones(16))


@pytest.mark.parametrize(
    "config",
    [GeneratorConfig(4, 8, 6, 1, (5,)), GeneratorConfig(64, 12, 12, 4, (6, 5, 7, 3, 2))],
    ids=lambda config: f"{config.size}",
)
def test_saved_and_loaded_is_the_same_in_float16(tmp_path, config):
    saved = tiny_generator(config)
    save_generator(saved, tmp_path / "deep" / "g.safetensors", {"made by": "a test"})
    loaded = load_generator(tmp_path / "deep" / "g.safetensors")
    assert loaded.config == config
    assert torch.equal(loaded.mean_latent, saved.mean_latent)
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, saved.state_dict()[key].half().float()), key
    with safetensors.safe_open(tmp_path / "deep" / "g.safetensors", "pt") as file:
        assert file.metadata() == {"made by": "a test"}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["g.safetensors"]


def test_weights_too_large_for_float16_are_not_saved(generator, tmp_path):
    generator.conv1.conv.weight[0, 0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"'conv1.conv.weight' holds numbers that float16 cannot"):
        save_generator(generator, tmp_path / "g.safetensors")
    assert not (tmp_path / "g.safetensors").exists()


def test_loading_leaves_the_global_randomness_alone(generator, tmp_path):
    save_generator(generator, tmp_path / "g.safetensors")
    before = torch.get_rng_state()
    load_generator(tmp_path / "g.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_tells_generators_apart_and_nothing_else(generator):
    own = fingerprint(generator)
    assert len(own) == 64 and own == fingerprint(tiny_generator(TINY))
    constant = generator.input.input
    constant.data = constant.data.contiguous(memory_format=torch.channels_last)
    assert fingerprint(generator) == own
    generator.to_rgb1.bias[0, 1, 0, 0] += 1e-6
    assert fingerprint(generator) != own


def test_the_fingerprint_is_fixed_for_ever():
    """Domain files name their base by it: another way to compute it would orphan them all."""
    generator = tiny_generator(GeneratorConfig(4, 2, 2, 1, (2,)))
    for value in generator.state_dict().values():
        value.fill_(0.5)
    assert fingerprint(generator).startswith("716fde60a60c3886")


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert torch.empty(1, device=pick_device("auto")).device.type == pick_device("auto").type
    for name in ("abacus", "", "cpu:x"):
        with pytest.raises(ValueError, match=f"The device '{name}' cannot be used"):
            pick_device(name)


class Harmful:
    def __reduce__(self):
        return (print, ("code in a pickle ran",))


def write_torch(path, contents):
    torch.save(contents, path)


def write_pickle(path, contents):
    path.write_bytes(pickle.dumps(contents, protocol=2))


def write_bytes(path, contents):
    path.write_bytes(contents)


def write_safetensors(path, contents):
    """A file whose header says what it likes."""
    header, size = json.dumps(contents[0]).encode(), contents[1]
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def broken(change) -> dict:
    state = {key: value.clone() for key, value in tiny_generator().state_dict().items()}
    change(state)
    return {"g_ema": state}


WRONG = {
    "web page": ("g.pt", write_bytes, b"\n<!DOCTYPE html><html>Sign in</html>", "web page"),
    "lfs pointer": ("g.pt", write_bytes, b"version https://git-lfs.github.com/spec/v1\n", "LFS"),
    "empty": ("g.pt", write_bytes, b"", "no PyTorch file: a .pt, .pkl or .safetensors"),
    "garbage": ("g.pt", write_bytes, bytes(range(256)) * 9, "no PyTorch file"),
    "code": ("g.pt", write_torch, {"g_ema": Harmful()}, "asks for 'builtins.print'"),
    "pickle": ("g.pkl", write_pickle, {"g_ema": Harmful()}, "asks for 'builtins.print'"),
    "a list": ("g.pt", write_torch, [1, 2], "it holds no tensors, but '0', '1'; give one of"),
    "no tensors": ("g.pt", write_torch, {"epoch": 3}, "it holds no tensors, but 'epoch'"),
    "other model": ("g.pt", write_torch, {"fc.weight": torch.ones(2, 2)}, "Not a StyleGAN2"),
    "missing": ("g.pt", write_torch, broken(lambda s: s.pop("conv1.noise.weight")), "is missing"),
    "no style": ("g.pt", write_torch, broken(lambda s: s.pop("style.1.weight")), "numbered"),
    "gap": ("g.pt", write_torch, broken(lambda s: s.pop("convs.1.conv.weight")), "without a gap"),
    "extra": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"convs.0.extra": torch.ones(1)})),
        "'convs.0.extra' does not belong",
    ),
    "odd shape": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"conv1.activate.bias": torch.ones(13)})),
        r"'conv1.activate.bias' is \[13\] instead of \[12\]",
    ),
    "flat input": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"input.input": torch.ones(12)})),
        "4 dimensions were expected",
    ),
    "nan": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"to_rgb1.bias": torch.full((1, 3, 1, 1), torch.nan)})),
        "'to_rgb1.bias' holds nan",
    ),
    "odd mean": (
        "g.pt",
        write_torch,
        {**broken(lambda s: None), "latent_avg": torch.ones(17)},
        r"'latent_avg' is \[17\]; one vector of 16",
    ),
    "integers": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"conv1.activate.bias": torch.ones(12, dtype=torch.int64)})),
        "'conv1.activate.bias' is of type int64; floating-point numbers were expected",
    ),
    "complex": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"conv1.activate.bias": torch.ones(12, dtype=torch.cfloat)})),
        "'conv1.activate.bias' is of type complex64; floating-point numbers were expected",
    ),
    "infinity": (
        "g.pt",
        write_torch,
        broken(lambda s: s["conv1.conv.weight"].fill_(torch.inf)),
        "'conv1.conv.weight' holds nan or infinity",
    ),
    "huge": (
        "g.pt",
        write_torch,
        broken(lambda s: s["conv1.conv.weight"][:1].fill_(1e15)),
        "'conv1.conv.weight' holds numbers beyond 1,000,000, which draw flat colour",
    ),
    "a huge mean": (
        "g.pt",
        write_torch,
        {**broken(lambda s: None), "latent_avg": torch.full((16,), -2e6)},
        "'latent_avg' holds numbers beyond 1,000,000",
    ),
    "opposite infinities": (
        "g.pt",
        write_torch,
        broken(lambda s: s["conv1.activate.bias"][:2].copy_(torch.tensor([1, -1]) / 0)),
        "'conv1.activate.bias' holds nan or infinity",
    ),
    "wide": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"style.1.weight": torch.ones(1).expand(16, 1 << 40)})),
        r"g\.pt claims a tensor",
    ),
    "many missing": (
        "g.pt",
        write_torch,
        broken(lambda s: [s.pop(key) for key in list(s) if "activate" in key]),
        "'conv1.activate.bias' is missing, .* and 2 more",
    ),
    "a wrong mean": (
        "g.pt",
        write_torch,
        {**broken(lambda s: None), "latent_avg": torch.full((16,), torch.nan)},
        "'latent_avg' holds nan",
    ),
    "a mean that is no tensor": (
        "g.pt",
        write_torch,
        {**broken(lambda s: None), "latent_avg": 0.5},
        "'latent_avg' is <class 'float'>; one vector of 16",
    ),
    "a number as a name": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({5: torch.ones(1)})),
        "'5' does not belong",
    ),
    "a long name": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"convs." * 50_000: torch.ones(1)})),
        "uses 'convs.convs.*…' as a name, which no model file does",
    ),
    "a layer of a long number": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({f"style.{'9' * 5000}.weight": torch.ones(1)})),
        "uses 'style.999",
    ),
    "nothing": ("g.pt", write_torch, {"g_ema": {}}, "it holds no tensors, but 'g_ema'"),
    "a mean over a wide z": (
        "g.pt",
        write_torch,
        broken(lambda s: s.update({"style.1.weight": torch.ones(16, 1 << 20)})),
        "z and w have 1048576 and 16 numbers; at most 4096 were expected",
    ),
    "safetensors of a long name": (
        "g.safetensors",
        write_safetensors,
        ({"conv1." + "x" * 999: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8),
        "holds a tensor called 'conv1.xxx",
    ),
    "safetensors of a long header": (
        "g.safetensors",
        write_safetensors,
        ({"__metadata__": {"x": "y" * (5 << 20)}}, 0),
        "its header has 5242907 bytes, and at most 4194304 were expected",
    ),
    "safetensors of another model": (
        "g.safetensors",
        write_safetensors,
        ({"conv.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, 8),
        "it holds 1 tensors, such as 'conv.weight'; the names style, input",
    ),
    "safetensors beyond its end": (
        "g.safetensors",
        write_safetensors,
        ({"conv1.x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, 8),
        "not a readable safetensors",
    ),
    "safetensors with a lie about a shape": (
        "g.safetensors",
        write_safetensors,
        ({"conv1.x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}}, 8),
        "not a readable safetensors",
    ),
    "safetensors in eight bits": (
        "g.safetensors",
        write_safetensors,
        ({"input.input": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}, 8),
        "'input.input' is of type F8_E4M3",
    ),
    "safetensors of integers": (
        "g.safetensors",
        write_safetensors,
        ({"input.input": {"dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}, 8),
        "'input.input' is of type int32",
    ),
    "not safetensors": ("g.safetensors", write_bytes, b"PK\x03\x04 no", "cannot be read as a Py"),
    "huge header": (
        "g.safetensors",
        write_bytes,
        struct.pack("<Q", 2**60) + b"{}",
        "not a readable safetensors",
    ),
}


@pytest.mark.parametrize("name, write, contents, complaint", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_gets_a_sentence(tmp_path, capfd, name, write, contents, complaint):
    write(tmp_path / name, contents)
    with pytest.raises(CheckpointError, match=complaint) as caught:
        load_generator(tmp_path / name)
    message = str(caught.value)
    assert name in message and "\n" not in message and message.endswith(".")
    assert len(message) < 500
    assert "code in a pickle ran" not in capfd.readouterr().out


def test_a_file_cut_off_gets_a_sentence(generator, tmp_path):
    torch.save(generator.state_dict(), tmp_path / "g.pt")
    save_file(generator.state_dict(), tmp_path / "g.safetensors")
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=path.name):
            load_generator(path)


def test_a_zip_of_something_else_gets_a_sentence(tmp_path):
    with zipfile.ZipFile(tmp_path / "g.pt", "w") as archive:
        archive.writestr("picture.txt", "no weights")
    with pytest.raises(CheckpointError, match=r"g\.pt is a zip archive, but none that PyTorch"):
        load_generator(tmp_path / "g.pt")


def test_a_missing_file_gets_a_sentence(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="There is no generator file"):
            load_generator(path)
