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


# Their arithmetic, plainly: one image at a time, in float64


def nvidia_image(state: dict, z: torch.Tensor, clamp=None, rate=0.01) -> torch.Tensor:
    """z [z_dim] → the image [3, size, size] that NVIDIA's `Generator` makes of a state dict.

    Args:
        state: in their names; without noise_strength there is no noise.
        z: normally distributed.
        clamp: their conv_clamp.
        rate: their lr_multiplier of the mapping.
    """
    state = {name: value.double() for name, value in state.items()}
    w = z.double() / (z.double().square().mean() + 1e-8).sqrt()
    for i in range(sum(".fc" in name and name.endswith("weight") for name in state)):
        weight, bias = state[f"mapping.fc{i}.weight"], state[f"mapping.fc{i}.bias"]
        w = activated(weight @ w * rate / weight.shape[1] ** 0.5 + bias * rate)
    x, image = state["synthesis.b4.const"], None
    for side in sorted({int(name.split(".")[1][1:]) for name in state if "torgb" in name}):
        block = f"synthesis.b{side}"
        if side > 4:
            x = their_layer(state, f"{block}.conv0", x, w, clamp, upsample=True)
        x = their_layer(state, f"{block}.conv1", x, w, clamp)
        rgb = their_rgb(state, f"{block}.torgb", x, w, clamp)
        image = rgb if image is None else blurred(with_zeros(image), (2, 1)) + rgb
    return image


def their_layer(state, name, x, w, clamp, upsample=False):
    """`SynthesisLayer`: the weight is modulated, and brought back to unit variance."""
    weight = state[f"{name}.weight"] * their_style(state, name, w)[None, :, None, None]
    weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if upsample:
        full = nn.functional.conv2d(with_zeros(x)[None], weight.flip(2, 3), padding=2)[0]
        x = blurred(full[:, :-1, :-1], (1, 1))
    else:
        x = nn.functional.conv2d(x[None], weight, padding=1)[0]
    if f"{name}.noise_strength" in state:
        x = x + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
    return clamped(activated(x + state[f"{name}.bias"][:, None, None]), clamp)


def their_rgb(state, name, x, w, clamp):
    """`ToRGBLayer`."""
    weight = state[f"{name}.weight"]
    style = their_style(state, name, w) / weight[0].numel() ** 0.5
    rgb = nn.functional.conv2d(x[None], weight * style[None, :, None, None])[0]
    return clamped(rgb + state[f"{name}.bias"][:, None, None], clamp)


def their_style(state, name, w):
    weight = state[f"{name}.affine.weight"]
    return weight @ w / weight.shape[1] ** 0.5 + state[f"{name}.affine.bias"]


def activated(x):
    return torch.where(x < 0, 0.2 * x, x) * 2**0.5


def clamped(x, clamp):
    return x if clamp is None else x.clamp(-clamp, clamp)


def with_zeros(x):
    """[C, h, w] → [C, 2h, 2w], zeros between the pixels."""
    out = x.new_zeros(len(x), 2 * x.shape[1], 2 * x.shape[2])
    out[:, ::2, ::2] = x
    return out


def blurred(x, pad):
    """By the filter [1, 3, 3, 1], four times as bright, as zeros have made it darker."""
    kernel = (4 * FILTER.double()).expand(len(x), 1, 4, 4)
    return nn.functional.conv2d(nn.functional.pad(x, pad * 2), kernel, groups=len(x))
