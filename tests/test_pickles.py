"""Pickles of PyTorch's and NVIDIA's: the same numbers as by their own readers, and no code run."""

import io
import os
import pickle
import resource
import struct
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch

from nada.checkpoint import CheckpointError, load_generator, read_contents
from nada.convert import parity
from nada.formats.pickles import ForeignObject, reading_pickle
from nada.formats.slices import PickleError
from nada.generator import GeneratorConfig
from tests.helpers import tiny_generator
from tests.nvidia_files import FILTER, nvidia_generator, snapshot, stub

# weights of more than 64 kB are stored in another way than small ones: some of both
MIXED = GeneratorConfig(32, 40, 40, 3, (48, 40, 24, 8))


def tensors() -> dict:
    base = torch.randn(6, 8)
    return {
        "plain": torch.randn(3, 4),
        "turned": torch.randn(3, 4).T,
        "part": base[2:4, 1:7:2],
        "same storage": base[0],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "large": torch.randn(150, 150),
        **{str(d): torch.ones(3).to(d) for d in (torch.float16, torch.bfloat16, torch.float64)},
        **{str(d): torch.arange(3).to(d) for d in (torch.int64, torch.uint8, torch.bool)},
    }


def same_tensors(path: Path, expected: dict) -> bool:
    with reading_pickle(path) as contents:
        read = {key: contents[key].read() for key in expected}
        shapes = {key: (contents[key].shape, contents[key].dtype) for key in expected}
    assert shapes == {key: (tuple(t.shape), t.dtype) for key, t in expected.items()}
    return all(torch.equal(read[key], expected[key]) for key in expected)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "sequence"])
def test_tensors_are_what_pytorch_reads(tmp_path, legacy):
    torch.save(tensors(), tmp_path / "t.pt", _use_new_zipfile_serialization=not legacy)
    assert same_tensors(tmp_path / "t.pt", torch.load(tmp_path / "t.pt"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_a_bare_pickle(tmp_path, protocol):
    expected = tensors()
    contents = {key: torch.nn.Parameter(t, t.is_floating_point()) for key, t in expected.items()}
    (tmp_path / "t.pkl").write_bytes(pickle.dumps(contents, protocol))
    assert same_tensors(tmp_path / "t.pkl", expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_module_is_its_attributes(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.jit.script(module).save(tmp_path / "m.pt")
    with reading_pickle(tmp_path / "m.pt") as root:
        assert isinstance(root, ForeignObject)
        linear = root.state["0"].state
        assert torch.equal(linear["weight"].read(), module[0].weight)


# NVIDIA's


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_nvidia_pickle_is_the_same_generator(tmp_path, protocol):
    native = tiny_generator(MIXED)
    path = tmp_path / "network-snapshot.pkl"
    path.write_bytes(snapshot(nvidia_generator(native), protocol))
    loaded = load_generator(path)
    assert loaded.config == MIXED
    assert torch.equal(loaded.mean_latent, native.mean_latent)
    assert all(torch.equal(t, native.state_dict()[key]) for key, t in loaded.state_dict().items())
    assert parity(native, loaded) == 0


def test_every_tensor_of_an_nvidia_pickle_is_used_once_and_that_is_said(tmp_path):
    native = tiny_generator(MIXED)
    path = tmp_path / "n.pkl"
    path.write_bytes(snapshot(nvidia_generator(native)))
    with read_contents(path) as contents:
        count = sum(not key.endswith(".kernel") for key in native.state_dict()) + 1
        assert len(contents.state) + 1 == count
        assert f"{count} tensors, each used exactly once, and 11 blur filters" in contents.layout


def change(make) -> bytes:
    top = nvidia_generator(tiny_generator(MIXED))
    make(top)
    return snapshot(top)


def conditional(top):
    top.c_dim = 10
    top.mapping.embed = stub("FullyConnectedLayer", {"weight": torch.ones(40, 10)})


def stylegan3(top):
    top.synthesis = stub("SynthesisNetwork", {})
    top.synthesis.input = stub("SynthesisInput", {"weight": torch.ones(8, 8)})
    top.synthesis.L0_36_512 = stub("SynthesisLayer", {"weight": torch.ones(8, 8, 3, 3)})


def resnet(top):
    top.synthesis.b8.skip = stub("Conv2dLayer", {"weight": torch.ones(40, 48, 1, 1)})


def without_torgb(top):
    del top.synthesis.b8.torgb


def shared(top):
    top.synthesis.b16 = top.synthesis.b8


def another_filter(top):
    top.synthesis.b8.conv0.resample_filter = FILTER.roll(1, 0)


def activation(top):
    top.synthesis.b8.conv1.activation = "swish"


def endless(top):
    inner = top
    for _ in range(50):
        inner.deeper = stub("Deep", {})
        inner = inner.deeper


OTHERS = {
    conditional: r"conditional \(10 classes\)",
    stylegan3: "StyleGAN3",
    resnet: r"is of the 'resnet' architecture",
    without_torgb: r"'synthesis\.b8\.torgb\.weight' is missing",
    shared: r"'synthesis\.b16\.conv0\.weight' is missing",
    another_filter: "another filter",
    activation: "has the activation 'swish'; 'lrelu' was expected",
    endless: "nested deeper than those of any generator",
}


@pytest.mark.parametrize("make", OTHERS, ids=lambda make: make.__name__)
def test_other_architectures_of_nvidia_are_refused(tmp_path, make):
    (tmp_path / "n.pkl").write_bytes(change(make))
    with pytest.raises(CheckpointError, match=OTHERS[make]) as caught:
        load_generator(tmp_path / "n.pkl")
    assert str(caught.value).startswith("n.pkl") and "\n" not in str(caught.value)


# Hostile ones


class Evil:
    """Calls what it is given when an ordinary reader meets it."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def marks(tmp_path) -> tuple[str, Path]:
    mark = tmp_path / "it ran"
    return f"touch '{mark}'", mark


WAYS = {
    "torch zip": lambda evil, path: torch.save({"g_ema": evil}, path),
    "torch sequence": lambda evil, path: torch.save(
        {"g_ema": evil}, path, _use_new_zipfile_serialization=False
    ),
    "pickle 0": lambda evil, path: path.write_bytes(pickle.dumps(evil, 0)),
    "pickle 2": lambda evil, path: path.write_bytes(pickle.dumps({"G_ema": evil}, 2)),
    "pickle 4": lambda evil, path: path.write_bytes(pickle.dumps({"G_ema": evil}, 4)),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_in_a_pickle_is_run(tmp_path, way):
    command, mark = marks(tmp_path)
    path = tmp_path / "evil.pt"
    calls = [(os.system, command), (eval, f"__import__('os').system({command!r})")]
    for function, argument in calls:
        WAYS[way](Evil(function, argument), path)
        with pytest.raises(PickleError, match=r"evil\.pt (asks for|is no PyTorch)"):
            load_generator(path)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(os.system, command)))
    assert mark.exists(), "the command would have left a mark"


def archive(pickled: bytes, records: dict | None = None, compressed: bool = False) -> bytes:
    out = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w", kind) as file:
        file.writestr("a/data.pkl", pickled)
        for name, data in (records or {}).items():
            file.writestr(f"a/{name}", data)
    return out.getvalue()


def tensor_of(length: int, size: tuple, stride: tuple, offset: int = 0) -> bytes:
    """A pickle of {"style.1.weight": tensor} whose storage is said to have `length` numbers."""

    class FakeStorage:
        pass

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (FakeStorage(), offset, size, stride, False, {})

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if isinstance(thing, FakeStorage):
                return ("storage", torch.FloatStorage, "0", "cpu", length)
            return None

    out = io.BytesIO()
    Pickler(out, 2).dump({"style.1.weight": Tensor()})
    return out.getvalue()


def nested_tuples() -> bytes:
    # each tuple holds the one before twice: its hash would take 2^60 steps
    return b"\x80\x02)" + b"q\x00h\x00\x86" * 60 + b"q\x01}h\x01K\x01s."


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def called_often(name: bytes, argument: bytes, *more: bytes) -> bytes:
    """One argument, written once and handed to a function a hundred thousand times."""
    call = b"h\x01h\x00" + (more[0] + b"\x86R" if more else b"\x85R")
    return b"\x80\x02" + argument + b"q\x00" + name + b"q\x01](" + call * 100_000 + b"e."


def framed(body: bytes) -> bytes:
    return b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body


FROM_BYTES = named("torch.storage", "_load_from_bytes")


def pickles_in_pickles(depth: int) -> bytes:
    """Each is read twice by the one around it."""
    data = b"\x80\x04N."
    for _ in range(depth):
        inner = b"B" + struct.pack("<I", len(data)) + data + b"q\x00"
        data = framed(inner + FROM_BYTES + b"q\x01" + b"h\x01h\x00\x85R" * 2 + b".")
    return data


def stored_bytes(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def nvidia_with(attribute: str) -> bytes:
    """An NVIDIA module with an attribute whose text would have no end."""
    meta = b"}(" + text("class_name") + NEST + text("state") + b"}" + text(attribute) + NEST + b"su"
    rebuild = named("torch_utils.persistence", "_reconstruct_persistent_obj")
    return b"\x80\x02}" + text("G_ema") + rebuild + meta + b"\x85Rs."


NEST = b")" + b"q\x00h\x00\x86" * 60  # a tuple that holds another one twice, which holds …
G, T = 1 << 30, 1 << 40
HOSTILE = {
    "bytes of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", T) + b"x.",
    "text of a terabyte": b"\x80\x04\x8d" + struct.pack("<Q", T) + b"x.",
    "bytearray of a terabyte": b"\x80\x05\x96" + struct.pack("<Q", T) + b"x.",
    "frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", T) + b"x.",
    "memo of four billion": b"\x80\x02]r\xff\xff\xff\xff.",
    "number of two gigabytes": b"\x80\x02\x8b\xff\xff\xff\x7fx.",
    "many marks": b"\x80\x02" + b"(" * (16 << 20) + b".",
    "hash for ever": nested_tuples(),
    "copies of a dict": called_often(
        named("collections", "OrderedDict"),
        b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(1 << 16)) + b"u",
    ),
    "copies of a list": called_often(named("builtins", "set"), b"(" + b"N" * 500_000 + b"l"),
    "copies of a text": called_often(
        named("_codecs", "encode"), text("a" * 1_000_000), text("latin1")
    ),
    "copies of a pickle": framed(
        called_often(FROM_BYTES, stored_bytes(b"\x80\x02(" + b"]" * 400_000 + b"t."))[2:]
    ),
    "pickles in pickles": pickles_in_pickles(60),
    "endless text of an offset": b"\x80\x02"
    + named("torch._utils", "_rebuild_tensor_v2")
    + b"(N"
    + NEST
    + b"))tR.",
    "endless text of an activation": nvidia_with("activation"),
    "endless text of classes": nvidia_with("c_dim"),
    "endless text of a length": archive(
        b"\x80\x02("
        + text("storage")
        + named("torch", "FloatStorage")
        + text("0")
        + text("cpu")
        + NEST
        + b"tQ.",
        {"data/0": b"x" * 64},
    ),
    "endless hash of a key": b"".join(
        pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}, {})
    )
    + b"\x80\x02]"
    + NEST
    + b"a.",
    "an extension": b"\x80\x02\x82\x01.",
    "an instance by the old way": b"(ios\nsystem\n.",
    "dotted name": b"\x80\x04\x8c\x0bcollections\x8c\x1dOrderedDict.__init__.__call__\x93.",
    "attributes of a dict": b"\x80\x02}X\x01\x00\x00\x00a}b.",
    "storage of a terabyte": archive(tensor_of(T // 4, (T // 4,), (1,)), {"data/0": b"x" * 64}),
    "stretched tensor": archive(tensor_of(16, (T,), (0,)), {"data/0": b"x" * 64}),
    "negative stride": archive(tensor_of(16, (4,), (-1,), 3), {"data/0": b"x" * 64}),
    "beyond its storage": archive(tensor_of(16, (4,), (1,), 13), {"data/0": b"x" * 64}),
    "no such storage": archive(tensor_of(16, (4,), (1,))),
    "zip bomb": archive(
        tensor_of(G // 4, (G // 4,), (1,)), {"data/0": bytes(G // 8)}, compressed=True
    ),
    "pickle bomb": archive(b"\x80\x02" + b"]" * (16 << 20) + b".", compressed=True),
    "many records": archive(b"\x80\x02}.", {f"data/{i}" + "x" * 200: b"" for i in range(30_000)}),
    "big-endian": archive(tensor_of(16, (4,), (1,)), {"byteorder": b"big", "data/0": b"x" * 64}),
    "truncated zip": archive(tensor_of(16, (4,), (1,)), {"data/0": b"x" * 64})[:-40],
    "middle cut out of a zip": (lambda data: data[:300] + data[400:])(
        archive(tensor_of(16, (4,), (1,)), {"data/0": b"x" * 600})
    ),
}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(data, id=name, marks=[pytest.mark.slow] if name == "many marks" else [])
        for name, data in HOSTILE.items()
    ],
)
def test_hostile_files_end_in_a_sentence_at_once(tmp_path, data):
    path = tmp_path / "g.pt"
    path.write_bytes(data)
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"^g\.pt") as caught:
        load_generator(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.process_time() - start < 60
    assert grown < 600, f"{grown:.0f} MiB"
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


def test_a_storage_that_many_tensors_share_is_not_multiplied(tmp_path, generator):
    state = dict(generator.state_dict())
    wide = torch.zeros(1 << 20)
    state.update({f"style.{i}.bias": wide[: 1 << 20] for i in range(1, 3)})
    state.update({f"extra.{i}": wide for i in range(50)})
    torch.save(state, tmp_path / "g.pt")
    with pytest.raises(CheckpointError, match=r"tensors claim \d+ bytes, and the whole file has"):
        load_generator(tmp_path / "g.pt")


def test_reading_imports_nothing_that_a_file_names(tmp_path):
    (tmp_path / "g.pkl").write_bytes(b"\x80\x02cantigravity\nfly\n.")
    with pytest.raises(CheckpointError, match=r"^g\.pkl"):
        load_generator(tmp_path / "g.pkl")
    assert "antigravity" not in sys.modules
