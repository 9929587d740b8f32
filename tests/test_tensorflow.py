"""NVIDIA's TensorFlow pickles: read to the pixel, by each way in; what they cannot be is said."""

import json
import resource
import struct
import time
import warnings

import numpy as np
import pytest
import torch

from nada.__main__ import main
from nada.checkpoint import load_generator, read_contents
from nada.formats.files import CheckpointError
from tests.hub_client import HubWorker
from tests.hub_server import Repo, running_hub
from tests.tensorflow_files import (
    Network,
    OlderNetwork,
    Shape,
    drawn,
    dumped,
    mapped,
    network,
    networks,
    variables,
)

CONFIG_E = Shape(channels=(16, 16, 8, 4))
CONFIG_F = Shape(channels=(16, 16, 16, 8))
WAYS = [2, 3, 4, 5, "python 2", "frame"]
SHAPES = {
    "e": CONFIG_E,
    "f": CONFIG_F,
    "no noise": Shape(noise=False),
    "one layer": Shape(layers=1),
    "eight layers": Shape(layers=8, w_dim=24, z_dim=12),
    "another rate": Shape(rate=1.0),
    "colours from the last layer": Shape(rgb="orig"),
    "grown": Shape(rgb="grown"),
    "clamp": Shape(clamp=1.5),
    "wide": Shape(channels=(40, 40)),  # kernels of more than 64 kB
    "one resolution": Shape(channels=(8,)),
}


def written(tmp_path, thing, way=4):
    path = tmp_path / "network-final.pkl"
    path.write_bytes(dumped(thing, way))
    return path


def assert_same_images(generator, made: dict, shape: Shape, psi: float = 0.7) -> None:
    z = np.random.RandomState(5).randn(3, shape.z_dim)
    ours = generator(torch.tensor(z, dtype=torch.float32), psi)
    theirs = drawn(made, shape, mapped(made, shape, z, psi))
    assert ours.shape == theirs.shape and np.abs(theirs).max() > 0.5
    assert np.abs(ours.numpy() - theirs).max() <= 1e-4


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_images_are_those_of_the_original_arithmetic(tmp_path, shape):
    made = variables(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing about it is in doubt
        generator = load_generator(written(tmp_path, networks(shape, made)))
    assert generator.config.channels == shape.channels
    assert generator.config.mapping_layers == shape.layers
    assert np.array_equal(generator.mean_latent.numpy(), made["dlatent_avg"])
    for psi in (1.0, 0.5, 0.0):
        assert_same_images(generator, made, shape, psi)


@pytest.mark.parametrize("way", WAYS)
def test_every_protocol_is_the_same_generator(tmp_path, way):
    shape = SHAPES["wide"]
    made = variables(shape)
    assert_same_images(load_generator(written(tmp_path, networks(shape, made), way)), made, shape)


def test_arrays_of_other_orders_and_types(tmp_path):
    made = variables(CONFIG_F)
    other = {
        name: np.asfortranarray(value) if "weight" in name else np.float64(value)
        for name, value in made.items()
    }
    assert_same_images(load_generator(written(tmp_path, network(CONFIG_F, other))), made, CONFIG_F)


def test_a_network_alone_in_a_list_or_by_name(tmp_path):
    made = variables(CONFIG_F)
    gs = network(CONFIG_F, made)
    for thing in (gs, [gs], {"Gs": gs, "G": network(CONFIG_F, variables(CONFIG_F, 1), "G")}):
        assert_same_images(load_generator(written(tmp_path, thing)), made, CONFIG_F)
    flat = [(f"G_{name}" if "/" in name else name, value) for name, value in made.items()]
    path = written(tmp_path, Network("Gs", "G_main", {}, flat))
    assert_same_images(load_generator(path), made, CONFIG_F)
    g = network(CONFIG_F, made, "G")
    path = written(tmp_path, (g, networks(CONFIG_F, made)[1]))
    assert_same_images(load_generator(path), made, CONFIG_F)
    with read_contents(path) as contents:
        assert "NVIDIA's G: " in contents.layout


@pytest.mark.parametrize("shape", [Shape(rgb="orig"), Shape(noise=False)], ids=["rgb", "noise"])
def test_what_is_zero_need_not_be_in_the_file(tmp_path, shape):
    gs = network(shape, made := variables(shape))
    for part in (gs, *gs.state["components"].values()):
        part.state["build_module_src"] = ""
    path = written(tmp_path, gs)
    assert_same_images(load_generator(path), made, shape)


def test_what_is_unusual_is_said(tmp_path):
    made = variables(Shape(noise=False))
    gs = network(Shape(noise=False), made, num_fp16_res=4, swirl=2)
    with read_contents(written(tmp_path, gs)) as contents:
        assert contents.layout.endswith(f"NVIDIA's Gs: {len(made)} variables, none left over")
        (noise,) = contents.notes
    assert "made without noise" in str(noise)
    with pytest.warns(UserWarning, match="nobody here knows its options 'swirl'"):
        load_generator(tmp_path / "network-final.pkl")


def test_by_the_command_line(tmp_path, capsys):
    made = variables(CONFIG_F)
    path = written(tmp_path, networks(CONFIG_F, made))
    out = tmp_path / "g.safetensors"
    convert = ["convert", "--generator", str(path), "--out", str(out), "--device", "cpu", "--json"]
    assert main(convert) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["parity"] == 0 and "NVIDIA's Gs" in report["used"]
    assert_same_images(load_generator(out), made, CONFIG_F)
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    assert "kind: generator\nused: a TensorFlow pickle with NVIDIA's Gs: " in said
    assert "beside: G; D\n" in said
    sample = ["sample", "--generator", str(path), "--seeds", "1", "--out", str(tmp_path / "s.png")]
    assert main([*sample, "--device", "cpu"]) == 0 and (tmp_path / "s.png").is_file()


@pytest.mark.slow
def test_from_the_hub(tmp_path):
    with running_hub() as hub:
        hub.repos["someone/cats"] = Repo({"cats.pkl": dumped(changed()), "README.md": b"# cats"})
        with HubWorker(tmp_path, hub.url) as worker:
            assert worker.call("load", source="someone/cats")["size"] == 32


# Others


def changed(shape: Shape = CONFIG_E, **options):
    return networks(shape, variables(shape), **options)


def with_variables(shape: Shape = CONFIG_E, **more):
    """Variables by their names with "/" for "__"; None takes one out."""
    made = variables(shape) | {name.replace("__", "/"): value for name, value in more.items()}
    return networks(shape, {name: value for name, value in made.items() if value is not None})


def of_function(function: str):
    gs = network(CONFIG_E, variables(CONFIG_E))
    gs.state["build_func_name"] = function
    return (gs,)


ONE = np.ones(3, np.float32)
OTHERS = {
    "conditional": (changed(label_size=10), r"conditional \(10 classes\)"),
    "conditional by numpy": (changed(label_size=np.int64(7)), r"conditional \(7 classes\)"),
    "labels": (with_variables(mapping__LabelConcat__weight=ONE), r"conditional \(several"),
    "stylegan": (of_function("G_style"), r"StyleGAN \(the first\).*stylegan2-ffhq-config-f"),
    "style mods": (
        with_variables(**{"synthesis__4x4__Conv__StyleMod__weight": ONE}),
        r"StyleGAN \(the first\)",
    ),
    "progressive": (OlderNetwork("Gs", "G_paper", {}, []), "progressive GAN"),
    "progressive anew": (of_function("G_paper"), "progressive GAN"),
    "grey": (changed(num_channels=1), "draws 1 channels"),
    "resnet": (changed(architecture="resnet"), "'resnet' architecture"),
    "not square": (with_variables(synthesis__8x6__Conv1__weight=ONE), "not square"),
    "activation": (changed(nonlinearity="swish"), "'nonlinearity' is 'swish'"),
    "mapping's activation": (changed(mapping_nonlinearity="relu"), "'mapping_nonlinearity' is"),
    "not normalised": (changed(normalize_latents=False), "'normalize_latents' is False"),
    "rate": (changed(mapping_lrmul="fast"), "'mapping_lrmul' is 'fast'"),
    "clamp": (changed(conv_clamp=-1), "'conv_clamp' is -1"),
    "box filter": (changed(resample_kernel=None), "another filter"),
    "another filter": (changed(resample_kernel=[1, 2, 1]), "another filter"),
    "filter of an array": (changed(resample_kernel=np.ones((4, 4))), "another filter"),
    "not grown": (with_variables(Shape(rgb="grown"), lod=np.float32(1.5)), "not grown"),
    "discriminator": (changed()[1], "a discriminator and no generator"),
    "leftover": (with_variables(synthesis__8x8__Skip__weight=ONE), "uses 'synthesis/8x8/Skip/weig"),
    "missing": (
        with_variables(synthesis__8x8__Conv1__mod_bias=None),
        "'synthesis/8x8/Conv1/mod_bias' is missing",
    ),
    "missing noise": (with_variables(synthesis__noise2=None), "'synthesis/noise2' is missing"),
    "no noise with a strength": (
        with_variables(**{f"synthesis__noise{n}": None for n in range(7)}),
        "'synthesis/noise0' is missing",
    ),
    "not all colours": (
        with_variables(synthesis__8x8__ToRGB__weight=None),
        "'synthesis/8x8/ToRGB/weight' is missing",
    ),
    "flat": (with_variables(synthesis__8x8__Conv1__weight=ONE), "'synthesis/8x8/Conv1/weight' is"),
    "another width": (
        with_variables(synthesis__8x8__Conv1__bias=ONE),
        r"'convs.1.activate.bias' is \[3\] instead of",
    ),
    "objects": (
        with_variables(synthesis__8x8__Conv1__bias=np.array([{}, None])),
        "'synthesis/8x8/Conv1/bias' is an array of 'O8', not of numbers",
    ),
    "whole numbers": (with_variables(mapping__Dense0__bias=np.arange(16)), "is of type int64"),
    "big-endian": (with_variables(dlatent_avg=np.ones(16, ">f4")), "big-endian"),
    "nan": (with_variables(mapping__Dense0__bias=np.full(16, np.nan)), "holds nan"),
    "empty": (Network("Gs", "G_main", {}, []), "is missing"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_refused_by_name(tmp_path, kind):
    thing, complaint = OTHERS[kind]
    with pytest.raises(CheckpointError, match=complaint) as caught:
        load_generator(written(tmp_path, thing))
    said = str(caught.value)
    assert said.startswith("network-final.pkl") and said.endswith(".") and "\n" not in said
    assert len(said) < 400


def test_a_usual_filter_is_known_in_any_scale(tmp_path):
    for taps in ([1, 3, 3, 1], (0.125, 0.375, 0.375, 0.125), np.float32([1, 3, 3, 1])):
        load_generator(written(tmp_path, changed(resample_kernel=taps)))


# Hostile ones


def twice(name: str):
    gs = network(CONFIG_E, variables(CONFIG_E))
    part = gs.state["components"]["mapping"]
    part.state["variables"].append((name, ONE))
    return gs


def cycle(width: int):
    gs = network(CONFIG_E, variables(CONFIG_E))
    gs.state["components"] = {str(i): gs for i in range(width)}
    return gs


def options_in_themselves():
    options = {"label_size": []}
    options["label_size"].append(options)
    options["resample_kernel"] = [options] * 4
    return Network("Gs", "G_main", options, [])


NAMED = b"cdnnlib.tflib.network\nNetwork\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def nested(depth: int) -> bytes:
    """Networks each of which is the only part of the one around it."""
    begin = NAMED + b")\x81}" + text("components") + b"}" + text("mapping")
    return b"\x80\x02" + begin * depth + b"N" + b"ssb" * depth + b"."


def lying(shape: tuple[int, ...], data: bytes = bytes(64), code: str = "f4") -> bytes:
    """A file whose one array is said to have the shape."""
    state = dumped((1, shape, np.dtype(code), False, data), 2)[2:-1]
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    variable = text("dlatent_avg") + array + state + b"b\x86"
    return b"\x80\x02" + NAMED + b")\x81}" + text("variables") + b"](" + variable + b"esb."


def many_names(count: int) -> bytes:
    pair = b"(" + text("a") + b"N" + b"tq\x00"
    variables = b"](" + pair + b"h\x00" * count + b"e"
    return b"\x80\x02" + NAMED + b")\x81}" + text("variables") + variables + b"sb."


def many_resolutions(count: int) -> Network:
    names = (f"synthesis/{i}x{i}/Conv0_up/weight" for i in range(count))
    return Network("Gs", "G_main", {}, [(name, ONE) for name in names])


def many_parts(count: int) -> bytes:
    """Networks that share all of their variables."""
    variables = text("variables") + b"](" + (text("a") + b"N\x86") * 1000 + b"eq\x00"
    first = NAMED + b"q\x01)\x81}" + variables + b"sb"
    others = (b"h\x01)\x81}" + text("variables") + b"h\x00sb") * count
    parts = b"}(" + text("0") + first
    parts += b"".join(text(str(i + 1)) + others[: len(others) // count] for i in range(count))
    return b"\x80\x02" + NAMED + b")\x81}" + text("components") + parts + b"usb."


def many_networks(count: int) -> bytes:
    return b"\x80\x02](" + NAMED + b")\x81q\x00" + b"h\x00" * count + b"e."


HOSTILE = {
    "a name twice": twice("Dense0/weight"),
    "a cycle": cycle(1),
    "many cycles": cycle(1000),
    "a thousand deep": nested(1000),
    "much deeper": nested(20_000),
    "options in themselves": options_in_themselves(),
    "many variables": many_names(200_000),
    "many resolutions": many_resolutions(20_000),
    "many parts": many_parts(20_000),
    "many networks": many_networks(100_000),
    "huge": lying((1 << 40,)),
    "huge in many dimensions": lying((1 << 62,) * 8),
    "too many dimensions": lying((1,) * 9),
    "negative": lying((-4, -4)),
    "longer": lying((17,)),
    "shorter": lying((15,)),
    "long text": lying((1025,), bytes(range(250)) * 20),
    "void": lying((4,), code="V16"),
    "no numbers": lying((16,), code="S4"),
    "a shape of texts": lying(("a",)),
    "data of another kind": lying((16,), [1, 2]),
    "characters for bytes": lying((2000,), "\u0416" * 8000),
    "no state": b"\x80\x02" + NAMED + b")\x81.",
    "a state of text": b"\x80\x02" + NAMED + b")\x81" + text("a") + b"b.",
    "a placeholder that is called": b"\x80\x02" + NAMED + b")\x81" + text("a") + b"\x85R.",
    "the class called": b"\x80\x02" + NAMED + text("a") + b"\x85R.",
    "its code called": b"\x80\x02cdnnlib.tflib.network\nNetwork.run\n" + text("a") + b"\x85R.",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_end_in_a_sentence_at_once(tmp_path, kind):
    thing = HOSTILE[kind]
    path = tmp_path / "network-final.pkl"
    path.write_bytes(thing if isinstance(thing, bytes) else dumped(thing))
    begin, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"^network-final\.pkl") as caught:
        load_generator(path)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert time.process_time() - begin < 5 and grown < 200, f"{grown:.0f} MiB"
    said = str(caught.value)
    assert len(said) < 400 and said.endswith(".") and "\n" not in said


def test_a_file_that_is_cut_off_says_so(tmp_path):
    data = dumped(networks(SHAPES["wide"], variables(SHAPES["wide"])), "frame")
    path = tmp_path / "network-final.pkl"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="is cut off or damaged"):
        load_generator(path)
