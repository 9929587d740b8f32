"""Domain files: exact where they say so, checked against plain arithmetic, closed to bad files."""

import copy
import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nada.checkpoint import fingerprint, sha256, write_safetensors
from nada.delta import FORMAT, Delta, DeltaError, blend, diff
from nada.generator import GeneratorConfig
from tests.helpers import adapted, tiny_generator


@pytest.fixture
def sketch(generator):
    return adapted(generator, "sketch", ("convs.1.conv.", "convs.2."))


@pytest.fixture
def zombie(generator):
    return adapted(generator, "zombie", ("conv1.", "convs.1.conv.weight"))


def same(a, b) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_a_delta_holds_what_changed_and_nothing_else(generator, sketch):
    delta = diff(generator, sketch, {"target": "pencil sketch"})
    assert delta.tensors.keys() == {
        "convs.1.conv.weight",
        "convs.1.conv.modulation.weight",
        "convs.1.conv.modulation.bias",
        "convs.2.conv.weight",
        "convs.2.conv.modulation.weight",
        "convs.2.conv.modulation.bias",
        "convs.2.conv.blur.kernel",
        "convs.2.noise.weight",
        "convs.2.activate.bias",
    }
    assert delta.base_fingerprint == fingerprint(generator)
    assert delta.metadata == {"target": "pencil sketch"}
    assert diff(generator, generator).tensors == {}


def test_a_delta_does_not_follow_later_training(generator, sketch):
    delta = diff(generator, sketch)
    before = delta.tensors["convs.1.conv.weight"].clone()
    sketch.convs[1].conv.weight += 1
    assert torch.equal(delta.tensors["convs.1.conv.weight"], before)


def test_saved_and_loaded_bit_for_bit(generator, sketch, tmp_path):
    metadata = {"target": "Зомби 🧟 {}", "steps": 80, "losses": [0.5, None], "nested": {"k": 6}}
    delta = diff(generator, sketch, metadata)
    delta.save(tmp_path / "sketch.safetensors")
    loaded = Delta.load(str(tmp_path / "sketch.safetensors"))
    assert loaded.metadata == metadata
    assert loaded.base_fingerprint == delta.base_fingerprint
    assert loaded.tensors.keys() == delta.tensors.keys()
    assert same(blend(generator, [(loaded, 1.0)]), sketch)


def test_a_delta_of_nothing_can_be_kept(generator, tmp_path):
    diff(generator, generator).save(tmp_path / "none.safetensors")
    assert same(blend(generator, [(Delta.load(tmp_path / "none.safetensors"), 1.0)]), generator)


def test_exact_at_0_and_at_1(generator, sketch, zombie):
    one, two = diff(generator, sketch), diff(generator, zombie)
    assert same(blend(generator, []), generator)
    assert same(blend(generator, [(one, 0.0)]), generator)
    assert same(blend(generator, [(one, 1.0)]), sketch)
    assert same(blend(generator, [(one, 1.0), (two, 0.0)]), sketch)
    assert same(blend(generator, [(one, 0), (two, 1)]), zombie)


@pytest.mark.parametrize("weights", [(0.7, 0.0), (0.25, 0.5), (1.0, 1.0), (-0.5, 1.5)])
def test_blending_is_a_weighted_sum_of_changes(generator, sketch, zombie, weights):
    parts = [diff(generator, sketch), diff(generator, zombie)]
    got = blend(generator, list(zip(parts, weights))).state_dict()
    others = sketch.state_dict(), zombie.state_dict()
    for key, base in generator.state_dict().items():
        base = base.double().numpy()
        changes = [a * (o[key].double().numpy() - base) for a, o in zip(weights, others)]
        np.testing.assert_allclose(got[key].numpy(), base + sum(changes), rtol=1e-5, atol=1e-5)


def test_blending_leaves_the_base_alone(generator, sketch):
    before = copy.deepcopy(generator)
    result = blend(generator, [(diff(generator, sketch), 0.5)])
    assert same(generator, before)
    assert not result.training and not any(p.requires_grad for p in result.parameters())
    assert torch.equal(result.mean_latent, generator.mean_latent)


def test_another_base_is_refused(generator, sketch):
    delta = diff(generator, sketch)
    with pytest.raises(DeltaError, match=r"made from another generator.*load the generator"):
        blend(sketch, [(delta, 1.0)])
    with pytest.raises(DeltaError, match="made from another generator"):
        blend(tiny_generator(GeneratorConfig(8, 8, 8, 2, (4, 4))), [(delta, 1.0)])


def test_another_architecture_cannot_be_compared(generator):
    with pytest.raises(DeltaError, match="one architecture"):
        diff(generator, tiny_generator(GeneratorConfig(8, 8, 8, 2, (4, 4))))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e300])
def test_a_weight_that_is_no_number_is_refused(generator, sketch, weight):
    with pytest.raises(DeltaError, match="give a number"):
        blend(generator, [(diff(generator, sketch), weight)])


def test_metadata_that_is_no_json_is_refused(generator, tmp_path):
    with pytest.raises(TypeError):
        diff(generator, generator, {"a": object()}).save(tmp_path / "d.safetensors")
    with pytest.raises(ValueError):
        diff(generator, generator, {"loss": float("nan")}).save(tmp_path / "d.safetensors")
    assert list(tmp_path.iterdir()) == []


# files that anyone could send


def header_of(path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header: dict, body: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def truncate_in_the_header(path):
    path.write_bytes(path.read_bytes()[:40])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def edit_metadata(path):
    header, body = header_of(path)
    header["__metadata__"]["metadata"] = '{"target": "something else"}'
    write(path, header, body)


def edit_base(path):
    header, body = header_of(path)
    header["__metadata__"]["base"] = "0" * 64
    write(path, header, body)


def drop_metadata(path):
    save_file(load_file(path), path)


def replace(**changes):
    """Tensors of the file replaced, checksum left as it was."""

    def change(path):
        header, _ = header_of(path)
        tensors = load_file(path)
        tensors.update({key.replace("__", "."): value for key, value in changes.items()})
        save_file(tensors, path, header["__metadata__"])

    return change


def set_header_length(length):
    def change(path):
        path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])

    return change


def duplicate_offsets(path):
    header, body = header_of(path)
    first, second = [key for key in header if key != "__metadata__"][:2]
    header[second] = header[first]
    write(path, header, body)


def set_bytes(contents):
    return lambda path: path.write_bytes(contents)


WRONG = {
    "cut off": (truncate, "not a domain file, or is cut off"),
    "cut in the header": (truncate_in_the_header, "not a domain file, or is cut off"),
    "a bit flipped": (flip_a_bit, "changed after it was saved|nan or infinity"),
    "metadata edited": (edit_metadata, "changed after it was saved"),
    "base edited": (edit_base, "changed after it was saved"),
    "no metadata": (drop_metadata, "not a domain file of this program"),
    "tensor edited": (replace(convs__2__activate__bias=torch.ones(6)), "changed after it was"),
    "other shape": (replace(convs__2__activate__bias=torch.ones(7)), "changed after it was"),
    "nan": (replace(convs__2__activate__bias=torch.full((6,), torch.nan)), "holds nan"),
    "float64": (replace(convs__2__activate__bias=torch.ones(6).double()), "torch.float64"),
    "integers": (replace(convs__2__activate__bias=torch.ones(6).long()), "torch.int64"),
    "scalar": (replace(convs__2__activate__bias=torch.tensor(1.0)), "one to five dimensions"),
    "foreign name": (replace(layer4__weight=torch.ones(2)), "'layer4.weight', which is not"),
    "huge header": (set_header_length(2**62), "not a domain file, or is cut off"),
    "long header": (set_header_length(2**21), "not a domain file, or is cut off"),
    "no header": (set_header_length(0), "not a domain file, or is cut off"),
    "overlap": (duplicate_offsets, "not a domain file, or is cut off"),
    "empty": (set_bytes(b""), "not a domain file, or is cut off"),
    "three bytes": (set_bytes(b"abc"), "not a domain file, or is cut off"),
    "pickle": (set_bytes(pickle.dumps({"a": 1})), "is a file of PyTorch or a pickle"),
    "web page": (set_bytes(b"<!DOCTYPE html>" * 9), "not a domain file, or is cut off"),
    "picture": (set_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "not a domain file, or is cut off"),
}


@pytest.mark.parametrize("spoil, complaint", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_file_gets_a_sentence(generator, sketch, tmp_path, spoil, complaint):
    path = tmp_path / "domain.safetensors"
    diff(generator, sketch, {"target": "pencil sketch"}).save(path)
    Delta.load(path)
    spoil(path)
    with pytest.raises(DeltaError, match=complaint) as caught:
        Delta.load(path)
    message = str(caught.value)
    assert "domain.safetensors" in message and "\n" not in message and message.endswith(".")


def test_an_honest_checksum_over_a_shape_that_does_not_fit(generator, sketch, tmp_path):
    """Whoever can compute the checksum still gets nothing past the generator's own shapes."""
    delta = diff(generator, sketch)
    for key, value in {"convs.2.activate.bias": torch.ones(7), "convs.9.a": torch.ones(1)}.items():
        Delta(delta.base_fingerprint, {key: value}).save(tmp_path / "d.safetensors")
        loaded = Delta.load(tmp_path / "d.safetensors")
        with pytest.raises(DeltaError, match=f"'{key}'.*does not fit"):
            blend(generator, [(loaded, 1.0)])


def test_metadata_of_the_wrong_kind_under_an_honest_checksum(tmp_path):
    path = tmp_path / "d.safetensors"
    for text in ("[1, 2]", "null", '"zombie"'):
        header = {"format": FORMAT, "base": "a" * 64, "metadata": text}
        write_safetensors({}, path, {**header, "sha256": sha256({}, "a" * 64, text)})
        with pytest.raises(DeltaError, match="not a JSON object"):
            Delta.load(path)


def test_another_mapping_network_gets_its_own_mean_latent(generator):
    other = adapted(generator, "mapping", ("style.",))
    other.update_mean_latent()
    blended = blend(generator, [(diff(generator, other), 1.0)])
    assert torch.equal(blended.mean_latent, other.mean_latent)
    assert not torch.equal(blended.mean_latent, generator.mean_latent)


def test_too_large_a_file_is_refused_unread(tmp_path):
    with (tmp_path / "d.safetensors").open("wb") as file:
        file.truncate(200 * 2**20)  # sparse: takes no room
    with pytest.raises(DeltaError, match="has 200 MB; a domain file has 160 MB at most"):
        Delta.load(tmp_path / "d.safetensors")


def test_a_missing_file_gets_a_sentence(tmp_path):
    with pytest.raises(DeltaError, match="no domain file 'none"):
        Delta.load(tmp_path / "none.safetensors")
