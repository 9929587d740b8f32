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
from nada.delta import FORMAT, Delta, DeltaError, Strength, blend, diff
from nada.generator import Generator, GeneratorConfig
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


# Strength by resolution


SIXTY_FOUR = GeneratorConfig(64, 8, 8, 2, (6, 6, 5, 4, 4))  # has all three bands


@pytest.mark.parametrize("weight", [-0.5, 0.0, 0.3, 1.0, 1.5])
def test_three_equal_bands_are_the_one_number_bit_for_bit(generator, sketch, zombie, weight):
    mapping = diff(generator, adapted(generator, "mapping", ("style.",)))
    one, two = diff(generator, sketch), diff(generator, zombie)
    even = Strength(weight, weight, weight)
    for parts in ([(one, weight)], [(one, weight), (two, 0.4)], [(mapping, weight), (two, weight)]):
        banded = [(delta, even if alpha == weight else alpha) for delta, alpha in parts]
        expected, got = blend(generator, parts), blend(generator, banded)
        assert same(got, expected) and torch.equal(got.mean_latent, expected.mean_latent)
    assert same(blend(generator, [(one, Strength(1, 1, 1))]), sketch)
    assert same(blend(generator, [(one, Strength(0, 0, 0))]), generator)


BAND_OF = {None: "coarse", **dict.fromkeys((4, 8), "coarse"), **dict.fromkeys((16, 32), "middle")}
LAYER_SIDES = {
    "style.1.weight": None, "input.input": 4, "conv1.conv.modulation.bias": 4, "to_rgb1.bias": 4,
    "convs.0.conv.weight": 8, "convs.1.noise.weight": 8, "to_rgbs.0.upsample.kernel": 8,
    "convs.4.conv.weight": 32, "to_rgbs.2.conv.weight": 32, "to_rgbs.3.bias": 64,
    "convs.6.conv.blur.kernel": 64, "convs.7.activate.bias": 64, "convs.9.conv.weight": 128,
    "noises.noise_0": 4, "noises.noise_1": 8, "noises.noise_10": 128,
}  # fmt: skip


@pytest.mark.parametrize("size", [128, 1024])
def test_each_tensor_is_of_the_resolution_of_its_layer_and_so_of_one_band(size):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig.standard(size))
    sides = {key: generator.resolution_of(key) for key in generator.state_dict()}
    assert {key: sides[key] for key in LAYER_SIDES} == LAYER_SIDES
    for key, value in generator.noises.named_buffers(prefix="noises"):
        assert sides[key] == value.shape[-1]
    assert {side for side in sides.values() if side} == {2**i for i in range(2, 11) if 2**i <= size}
    layers = {key.split(".")[0] for key, side in sides.items() if side is None}
    assert layers == {"style"}
    names = Strength("coarse", "middle", "fine")
    assert all(names.at(side) == BAND_OF.get(side, "fine") for side in sides.values())
    with pytest.raises(ValueError, match=r"no layer .* 'convs\.99\.conv\.weight'"):
        generator.resolution_of("convs.99.conv.weight")


def test_bands_mix_two_domains_as_the_formula_says():
    base = tiny_generator(SIXTY_FOUR)
    everything = ("style.", "input.", "conv1.", "to_rgb", "convs.", "noises.")
    others = [adapted(base, name, everything) for name in ("sketch", "zombie")]
    weights = Strength(1.0, 0.25, 0.0), Strength(-0.5, 0.5, 1.0)
    mixed = blend(base, [(diff(base, other), a) for other, a in zip(others, weights)])
    got, (one, two) = mixed.state_dict(), (other.state_dict() for other in others)
    for key, value in base.state_dict().items():
        side = LAYER_SIDES_64.get(key.split(".")[0]) or LAYER_SIDES_64[".".join(key.split(".")[:2])]
        a, b = (getattr(weight, side) for weight in weights)
        expected = value + a * (one[key] - value) + b * (two[key] - value)
        torch.testing.assert_close(got[key], expected, rtol=1e-5, atol=1e-5)
        assert side != "fine" or torch.allclose(got[key], two[key], atol=1e-5)


LAYER_SIDES_64 = {
    **dict.fromkeys(("style", "input", "conv1", "to_rgb1", "convs.0", "convs.1"), "coarse"),
    **dict.fromkeys(("to_rgbs.0", *(f"noises.noise_{i}" for i in range(3))), "coarse"),
    **dict.fromkeys(("to_rgbs.1", "to_rgbs.2", *(f"convs.{i}" for i in range(2, 6))), "middle"),
    **dict.fromkeys((f"noises.noise_{i}" for i in range(3, 7)), "middle"),
    **dict.fromkeys(("to_rgbs.3", "convs.6", "convs.7"), "fine"),
    **dict.fromkeys(("noises.noise_7", "noises.noise_8"), "fine"),
}


def test_a_domain_swaps_layers_at_zeros_and_ones():
    base = tiny_generator(SIXTY_FOUR)
    other = adapted(base, "all", ("style.", "conv1.", "convs.", "to_rgb"))
    got = blend(base, [(diff(base, other), Strength(0, 0, 1))])
    assert torch.equal(got.mean_latent, base.mean_latent)
    for key, value in got.state_dict().items():
        fine = key.startswith(("convs.6.", "convs.7.", "to_rgbs.3."))
        assert torch.equal(value, (other if fine else base).state_dict()[key]), key


def test_strengths_calculate_by_band():
    strength = Strength(1.0, 0.5, 0.0)
    assert strength * 0.5 == 0.5 * strength == Strength(0.5, 0.25, 0.0)
    assert strength * Strength(2, 2, 3) == Strength(2, 1, 0)
    assert Strength.of(0.7) == Strength(0.7, 0.7, 0.7) and Strength.of(strength) is strength
    assert Strength.of(0.7).mean == 0.7 and strength.mean == 0.5
    assert strength.towards(Strength(0, 1, 1), 0.5) == Strength(0.5, 0.75, 0.5)
    assert Strength(0.4, 0.2, 0).scaled() == strength == (strength * -0.2).scaled()
    assert Strength.of(0.3).scaled() == Strength.of(0).scaled() == Strength(1, 1, 1)
    assert strength and Strength(0, 0, 0.1) and not Strength.of(0.0)
    assert str(strength) == "coarse 1, middle 0.5, fine 0" and str(Strength.of(0.7)) == "0.7"


def test_blending_leaves_the_base_alone(generator, sketch):
    before = copy.deepcopy(generator)
    result = blend(generator, [(diff(generator, sketch), 0.5)])
    assert same(generator, before)
    assert not result.training and not any(p.requires_grad for p in result.parameters())
    assert torch.equal(result.mean_latent, generator.mean_latent)


@pytest.mark.parametrize("prefixes", [("convs.1.conv.modulation.bias",), ("conv1.", "style.")])
def test_a_blend_shares_with_the_base_what_no_domain_changes(generator, prefixes):
    before, mean = copy.deepcopy(generator), generator.mean_latent.clone()
    delta = diff(generator, adapted(generator, "sketch", prefixes))
    mixed = blend(generator, [(delta, 0.5), (delta, Strength(0, 0, 0))])
    theirs = {value.data_ptr() for value in generator.state_dict().values()}
    own = {key for key, value in mixed.state_dict().items() if value.data_ptr() not in theirs}
    assert own == set(delta.tensors) and own
    moved = "style." in prefixes  # another mapping has another mean, the base its own still
    assert torch.equal(mixed.mean_latent, mean) != moved
    assert same(generator, before) and torch.equal(generator.mean_latent, mean)


def test_another_base_is_refused(generator, sketch):
    delta = diff(generator, sketch)
    with pytest.raises(DeltaError, match=r"made from another generator.*load the generator"):
        blend(sketch, [(delta, 1.0)])
    with pytest.raises(DeltaError, match="made from another generator"):
        blend(tiny_generator(GeneratorConfig(8, 8, 8, 2, (4, 4))), [(delta, 1.0)])


def test_another_architecture_cannot_be_compared(generator):
    with pytest.raises(DeltaError, match="one architecture"):
        diff(generator, tiny_generator(GeneratorConfig(8, 8, 8, 2, (4, 4))))


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e300, Strength(1, 1, 1e300)])
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
