"""Pickles as NVIDIA's TensorFlow programs wrote them, and what their generators draw, in NumPy.

Random numbers take the place of weights. A `Network` here pickles the state that theirs pickles;
its source, which theirs runs when it is loaded, would end the process.
"""

import io
import pickle
import struct
import sys
import types
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar
from unittest.mock import patch

import numpy as np

SOURCE = "import os\nos._exit(77)  # whoever runs a pickle's source ends here\n" + "#" * 60_000


class Network:
    """`dnnlib.tflib.network.Network`, of which only the state matters."""

    def __init__(self, name, function, options, variables, components=None):
        self.state = {
            "version": 4,
            "name": name,
            "static_kwargs": options,
            "components": components or {},
            "build_module_src": SOURCE,
            "build_func_name": function,
            "variables": variables,
        }

    def __getstate__(self):
        return self.state


class OlderNetwork(Network):
    """`tfutil.Network` of the progressive GAN."""


def _reconstruct(*_):
    raise AssertionError("a reader called this")


def scalar(*_):
    raise AssertionError("a reader called this")


PLACES = {
    "dnnlib.tflib.network": [(Network, "Network")],
    "tfutil": [(OlderNetwork, "Network")],
    "numpy.core.multiarray": [(_reconstruct, "_reconstruct"), (scalar, "scalar")],
}  # where they lie there, and what they are called; NumPy 2 says numpy._core


def _modules() -> dict[str, types.ModuleType]:
    modules = {name: types.ModuleType(name) for name in (*PLACES, "dnnlib", "dnnlib.tflib")}
    for place, things in PLACES.items():
        for thing, name in things:
            thing.__module__, thing.__qualname__, thing.__name__ = place, name, name
            setattr(modules[place], name, thing)
    return modules


class Pickler(pickle._Pickler):
    """Arrays and numbers as NumPy before 2 reduced them."""

    def reducer_override(self, thing):
        if isinstance(thing, np.ndarray) and thing.dtype != object:
            fortran = not thing.flags.c_contiguous
            data = thing.tobytes("F" if fortran else "C")
            return (
                _reconstruct,
                (np.ndarray, (0,), b"b"),
                (1, thing.shape, thing.dtype, fortran, data),
            )
        if isinstance(thing, np.generic):
            return scalar, (thing.dtype, thing.tobytes())
        return NotImplemented


class OlderPickler(Pickler):
    """Python 2's: texts and bytes are of one type."""

    def save_string(self, thing):
        data = thing if isinstance(thing, bytes) else thing.encode("latin1")
        short = len(data) < 256
        length = bytes([len(data)]) if short else struct.pack("<i", len(data))
        self.write((b"U" if short else b"T") + length + data)
        self.memoize(thing)

    dispatch: ClassVar = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}


def dumped(thing, way: int | str = 4) -> bytes:
    """A pickle of the protocol `way`; "python 2" for one of Python 2, "frame" for one of Python
    3.6, which put everything into one frame."""
    out = io.BytesIO()
    kind, protocol = {"python 2": (OlderPickler, 2), "frame": (Pickler, 3)}.get(way, (Pickler, way))
    with patch.dict(sys.modules, _modules()):
        kind(out, protocol).dump(thing)
    data = out.getvalue()
    if way == "frame":
        return b"\x80\x04\x95" + struct.pack("<Q", len(data) - 2) + data[2:]
    return data


@dataclass(frozen=True)
class Shape:
    """A generator's widths, and which of the programs' options it was built with."""

    channels: tuple[int, ...] = (16, 12, 8)
    w_dim: int = 16
    z_dim: int = 16
    layers: int = 2
    rate: float = 0.01
    noise: bool = True
    clamp: float | None = None
    rgb: str = "skip"  # or "orig": from the last layer alone; "grown": configurations b to d

    @property
    def sides(self) -> list[int]:
        return [4 * 2**i for i in range(len(self.channels))]


def variables(shape: Shape, seed: int = 0) -> dict[str, np.ndarray]:
    """All of a generator's by their full names, as float32; no number of them is 0 but "lod"."""
    rng = np.random.RandomState(seed)
    made = {"lod": np.float32(0), "dlatent_avg": rng.randn(shape.w_dim)}
    widths = [shape.z_dim] + [shape.w_dim] * shape.layers
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        made[f"mapping/Dense{i}/weight"] = rng.randn(inputs, outputs) / shape.rate
        made[f"mapping/Dense{i}/bias"] = rng.randn(outputs) / shape.rate / 10

    def layer(name: str, kernel: int, inputs: int, outputs: int) -> None:
        made[f"{name}/weight"] = rng.randn(kernel, kernel, inputs, outputs)
        made[f"{name}/mod_weight"] = rng.randn(shape.w_dim, inputs)
        made[f"{name}/mod_bias"] = rng.randn(inputs) / 10
        made[f"{name}/bias"] = rng.randn(outputs) / 10
        if kernel == 3 and shape.noise:
            made[f"{name}/noise_strength"] = np.float32(rng.randn() / 10)

    made["synthesis/4x4/Const/const"] = rng.randn(1, shape.channels[0], 4, 4)
    before = shape.channels[0]
    for level, (side, width) in enumerate(zip(shape.sides, shape.channels)):
        at = f"synthesis/{side}x{side}"
        if side > 4:
            layer(f"{at}/Conv0_up", 3, before, width)
        layer(f"{at}/Conv1" if side > 4 else f"{at}/Conv", 3, width, width)
        if shape.rgb == "grown":
            layer(f"synthesis/ToRGB_lod{len(shape.sides) - 1 - level}", 1, width, 3)
        elif shape.rgb == "skip" or side == shape.sides[-1]:
            layer(f"{at}/ToRGB", 1, width, 3)
        before = width
    if shape.rgb == "grown":
        made["synthesis/lod"] = np.float32(0)
    sides = [4, *(side for side in shape.sides[1:] for _ in "01")]
    for n, side in enumerate(sides if shape.noise else []):
        made[f"synthesis/noise{n}"] = rng.randn(1, 1, side, side)
    return {name: np.asarray(v, np.float32)[()] for name, v in made.items()}


def network(shape: Shape, made: dict, name: str = "Gs", **options) -> Network:
    """A generator, its variables distributed to its parts as their program did."""
    given = {
        "num_channels": 3,
        "resolution": shape.sides[-1],
        "label_size": 0,
        "latent_size": shape.z_dim,
        "dlatent_size": shape.w_dim,
        "mapping_layers": shape.layers,
        "fmap_base": 8 << 10,
        **options,
    }
    if shape.rate != 0.01:
        given["mapping_lrmul"] = shape.rate
    if shape.clamp:
        given["conv_clamp"] = shape.clamp
    if shape.rgb == "orig":
        given["architecture"] = "orig"
    parts = {
        part: Network(
            f"G_{part}",
            f"G_{part}",
            dict(given),
            [(k.removeprefix(f"{part}/"), v) for k, v in made.items() if k.startswith(f"{part}/")],
        )
        for part in ("synthesis", "mapping")
    }
    own = [(key, value) for key, value in made.items() if "/" not in key]
    return Network(name, "G_main", given, own, parts)


def networks(shape: Shape, made: dict, **options) -> tuple[Network, Network, Network]:
    """(G, D, Gs), of which the last is made of the variables, and the others have other numbers."""
    discriminator = Network("D", "D_stylegan2", {}, [("4x4/Conv/weight", np.ones((3, 3, 8, 8)))])
    other = network(shape, variables(shape, seed=1), "G", **options)
    return other, discriminator, network(shape, made, "Gs", **options)


# What it draws, from the papers' equations, in the original's layout: NCHW, kernels [h, w, in, out]


def mapped(made: dict, shape: Shape, z: np.ndarray, psi: float) -> np.ndarray:
    """z [N, z_dim] → w [N, w_dim], pulled to the average by 1 − psi."""
    x = z / np.sqrt((z**2).mean(1, keepdims=True) + 1e-8)
    for i in range(shape.layers):
        weight, bias = made[f"mapping/Dense{i}/weight"], made[f"mapping/Dense{i}/bias"]
        x = activated(x @ (weight * shape.rate / np.sqrt(len(weight))) + bias * shape.rate)
    return made["dlatent_avg"] + psi * (x - made["dlatent_avg"])


def activated(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.2 * x) * np.sqrt(2)


def drawn(made: dict, shape: Shape, w: np.ndarray) -> np.ndarray:
    """w [N, w_dim] → images [N, 3, H, W], with the stored noise."""
    made = {name: np.asarray(value, np.float64) for name, value in made.items()}

    def layer(x, name, n, up=False):
        x = modulated(made, f"synthesis/{name}", x, w, up)
        if shape.noise:
            x = x + made[f"synthesis/noise{n}"] * made[f"synthesis/{name}/noise_strength"]
        return cut(activated(x + channels(made[f"synthesis/{name}/bias"])))

    def colours(x, name):
        rgb = modulated(made, f"synthesis/{name}", x, w, demodulate=False)
        return cut(rgb + channels(made[f"synthesis/{name}/bias"]))

    def cut(x):
        return x if shape.clamp is None else np.clip(x, -shape.clamp, shape.clamp)

    x = np.repeat(made["synthesis/4x4/Const/const"], len(w), 0)
    x = layer(x, "4x4/Conv", 0)
    y = colours(x, "4x4/ToRGB") if shape.rgb == "skip" else None
    for j, side in enumerate(shape.sides[1:]):
        x = layer(x, f"{side}x{side}/Conv0_up", 2 * j + 1, up=True)
        x = layer(x, f"{side}x{side}/Conv1", 2 * j + 2)
        if shape.rgb == "skip":
            # zeros between pixels, then the filter
            y = filtered(spread(y), (2, 1)) + colours(x, f"{side}x{side}/ToRGB")
    if shape.rgb == "grown":
        return colours(x, "ToRGB_lod0")
    return y if shape.rgb == "skip" else colours(x, f"{side}x{side}/ToRGB")


def channels(values: np.ndarray) -> np.ndarray:
    return values[None, :, None, None]


def modulated(made, name, x, w, up=False, demodulate=True) -> np.ndarray:
    """Equations 1 and 3 of StyleGAN2: a kernel for each image."""
    kernel, modulation = made[f"{name}/weight"], made[f"{name}/mod_weight"]
    kernel = kernel / np.sqrt(np.prod(kernel.shape[:3]))
    style = w @ (modulation / np.sqrt(len(modulation))) + made[f"{name}/mod_bias"] + 1
    kernel = kernel[None] * style[:, None, None, :, None]  # [N, h, w, in, out]
    if demodulate:
        kernel = kernel / np.sqrt((kernel**2).sum((1, 2, 3), keepdims=True) + 1e-8)
    if up:
        return filtered(transposed_convolution(x, kernel[:, ::-1, ::-1]), (1, 1))
    return correlated(padded(x, kernel.shape[1] // 2, kernel.shape[1] // 2), kernel)


def correlated(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """x [N, in, H, W] and kernels [N, h, w, in, out], where they lie upon each other in full."""
    h, w = x.shape[2] - kernel.shape[1] + 1, x.shape[3] - kernel.shape[2] + 1
    return sum(
        np.einsum("nihw,nio->nohw", x[:, :, a : a + h, b : b + w], kernel[:, a, b])
        for a in range(kernel.shape[1])
        for b in range(kernel.shape[2])
    )


def transposed_convolution(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Each pixel puts the kernel, times itself, at twice its place: [N, out, 2H + 1, 2W + 1]."""
    n, _, h, w = x.shape
    out = np.zeros((n, kernel.shape[-1], 2 * h + 1, 2 * w + 1))
    for a in range(3):
        for b in range(3):
            put = np.einsum("nihw,nio->nohw", x, kernel[:, a, b])
            out[:, :, a : a + 2 * h : 2, b : b + 2 * w : 2] += put
    return out


def spread(x: np.ndarray) -> np.ndarray:
    out = np.zeros((*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3]))
    out[:, :, ::2, ::2] = x
    return out


def padded(x: np.ndarray, before: int, after: int) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, 0), (before, after), (before, after)])


def filtered(x: np.ndarray, pad: tuple[int, int]) -> np.ndarray:
    """The filter [1, 3, 3, 1] in both directions, four times as bright."""
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64 * 4
    x = padded(x, *pad)
    h, w = x.shape[2] - 3, x.shape[3] - 3
    return sum(taps[a, b] * x[:, :, a : a + h, b : b + w] for a in range(4) for b in range(4))
