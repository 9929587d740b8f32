"""Pickles as NVIDIA's programs write them, from stub classes of our own.

Classes there are decorated to reduce to `_reconstruct_persistent_obj` and a dict with their source
code, which the real reader runs; the source here would end the process.
"""

import io
import pickle
import sys
import types

import numpy as np
import torch
from torch import nn

SOURCE = "import os\nos._exit(77)  # whoever runs a pickle's source ends here\n"


class EasyDict(dict):
    """NVIDIA's dict with attributes."""


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a reader called this")


def _named_as_theirs() -> dict[str, types.ModuleType]:
    persistence = types.ModuleType("torch_utils.persistence")
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    util = types.ModuleType("dnnlib.util")
    util.EasyDict = EasyDict
    _reconstruct_persistent_obj.__module__ = persistence.__name__
    EasyDict.__module__ = util.__name__
    packages = [types.ModuleType("torch_utils"), types.ModuleType("dnnlib")]
    return {module.__name__: module for module in (*packages, persistence, util)}


class Stub(nn.Module):
    """A module of theirs: only its attributes matter."""

    class_name = "Stub"

    def __reduce__(self):
        meta = EasyDict(
            type="class",
            version=6,
            module_src=SOURCE,
            class_name=self.class_name,
            state=self.__dict__,
        )
        return _reconstruct_persistent_obj, (meta,)


def stub(class_name: str, parameters: dict, buffers: dict | None = None, **attributes) -> Stub:
    module = Stub()
    module.class_name = class_name
    for name, value in parameters.items():
        setattr(module, name, nn.Parameter(value.clone()))
    for name, value in (buffers or {}).items():
        module.register_buffer(name, value.clone())
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


FILTER = torch.tensor([1.0, 3.0, 3.0, 1.0]).outer(torch.tensor([1.0, 3.0, 3.0, 1.0])) / 64


def nvidia_generator(generator) -> Stub:
    """The weights of one of our generators in NVIDIA's modules."""
    state = generator.state_dict()
    mapping = stub("MappingNetwork", {}, {"w_avg": generator.mean_latent}, c_dim=0)
    for i in range(generator.config.mapping_layers):
        weights = {key: state[f"style.{i + 1}.{key}"] for key in ("weight", "bias")}
        fc = stub("FullyConnectedLayer", weights, bias_gain=0.01, activation="lrelu")
        setattr(mapping, f"fc{i}", fc)
    synthesis = stub("SynthesisNetwork", {}, img_resolution=generator.size)
    for level in range(len(generator.config.channels)):
        setattr(synthesis, f"b{4 * 2**level}", block(state, level))
    top = stub("Generator", {}, z_dim=generator.z_dim, c_dim=0, img_channels=3)
    top.synthesis, top.mapping = synthesis, mapping
    return top


def block(state: dict, level: int) -> Stub:
    """Both convolutions and the RGB output of a resolution; the first has one convolution."""
    const = {"const": state["input.input"][0]} if level == 0 else {}
    out = stub("SynthesisBlock", const, {"resample_filter": FILTER}, architecture="skip")
    if level == 0:
        out.conv1 = conv(state, "conv1", 0)
        out.torgb = to_rgb(state, "to_rgb1")
    else:
        out.conv0 = conv(state, f"convs.{2 * level - 2}", 2 * level - 1)
        out.conv1 = conv(state, f"convs.{2 * level - 1}", 2 * level)
        out.torgb = to_rgb(state, f"to_rgbs.{level - 1}")
    return out


def affine(state: dict, name: str) -> Stub:
    weights = {key: state[f"{name}.conv.modulation.{key}"] for key in ("weight", "bias")}
    return stub("FullyConnectedLayer", weights, bias_gain=1, activation="linear")


def conv(state: dict, name: str, n: int) -> Stub:
    out = stub(
        "SynthesisLayer",
        {
            "weight": state[f"{name}.conv.weight"][0],
            "noise_strength": state[f"{name}.noise.weight"][0],
            "bias": state[f"{name}.activate.bias"],
        },
        {"resample_filter": FILTER, "noise_const": state[f"noises.noise_{n}"][0, 0]},
        activation="lrelu",
        use_noise=True,
        conv_clamp=None,
    )
    out.affine = affine(state, name)
    return out


def to_rgb(state: dict, name: str) -> Stub:
    weights = {"weight": state[f"{name}.conv.weight"][0], "bias": state[f"{name}.bias"].flatten()}
    out = stub("ToRGBLayer", weights, conv_clamp=None)
    out.affine = affine(state, name)
    return out


def snapshot(top: Stub, protocol: int = 4) -> bytes:
    """What `training_loop.py` saves: the moving average beside much else."""
    other = stub("Discriminator", {"weight": torch.ones(200, 200)})
    data = {
        "G": other,
        "D": other,
        "G_ema": top,
        "augment_pipe": None,
        "training_set_kwargs": EasyDict(class_name="training.dataset.ImageFolderDataset"),
        "progress": {"cur_nimg": np.float64(25000000), "names": {"a", "b"}},
    }
    before = {name: sys.modules.get(name) for name in _named_as_theirs()}
    sys.modules.update(_named_as_theirs())
    try:
        out = io.BytesIO()
        pickle.dump(data, out, protocol=protocol)
        return out.getvalue()
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module:
                sys.modules[name] = module
