"""Generators in basicsr's names, and its arithmetic, plainly: one image at a time, in float64."""

import re

import torch
from torch import nn
from torch.nn import functional as F

from tests.nvidia_files import FILTER, activated, with_zeros

NAMES = {
    r"style\.": "style_mlp.",
    r"input\.input": "constant_input.weight",
    r"(conv1|convs\.\d+)\.noise\.weight": r"style_\1.weight",
    r"(conv1|convs\.\d+)\.activate\.": r"style_\1.activate.",
    r"(conv1|convs\.\d+)\.conv\.": r"style_\1.modulated_conv.",
    r"(to_rgb1|to_rgbs\.\d+)\.conv\.": r"\1.modulated_conv.",
    r"noises\.noise_": "noises.noise",
}  # ours → theirs


def basicsr_state(generator) -> dict:
    """The weights of one of our generators in basicsr's names; its filters are no tensors there."""
    state = {}
    for name, value in generator.state_dict().items():
        if not name.endswith(".kernel"):
            for ours, theirs in NAMES.items():
                name = re.sub(f"^{ours}", theirs, name)
            state[name] = value.clone()
    return state


def clean(state: dict) -> dict:
    """As basicsr's "clean" variant is called: biases of layers, no fused activation."""
    return {name.replace("activate.bias", "bias"): value for name, value in state.items()}


def module(state: dict, **attributes) -> nn.Module:
    """A module of modules with these tensors; the outermost has `attributes`."""
    top = nn.Module()
    for name, value in state.items():
        *places, last = name.split(".")
        inner = top
        for place in places:
            if place not in inner._modules:
                inner.add_module(place, nn.Module())
            inner = inner._modules[place]
        inner.register_buffer(last, value)
    for name, value in attributes.items():
        setattr(top, name, value)
    return top


def basicsr_image(state: dict, z: torch.Tensor, bilinear: bool = False) -> torch.Tensor:
    """z [z_dim] → the image [3, size, size] that `StyleGAN2Generator` makes of a state dict, or
    `StyleGAN2GeneratorBilinear`."""
    state = {name: value.double() for name, value in state.items()}
    w = z.double() * torch.rsqrt(z.double().square().mean() + 1e-8)
    for i in range(1, 1 + sum(bool(re.match(r"style_mlp\.\d+\.weight", name)) for name in state)):
        weight, bias = state[f"style_mlp.{i}.weight"], state[f"style_mlp.{i}.bias"]
        w = activated(weight * 0.01 / weight.shape[1] ** 0.5 @ w + bias * 0.01)
    noises = [state[f"noises.noise{i}"] for i in range(sum("noises" in name for name in state))]
    x = style_conv(state, "style_conv1", state["constant_input.weight"], w, noises[0])
    image = to_rgb(state, "to_rgb1", x, w)
    for i, (first, second) in enumerate(zip(noises[1::2], noises[2::2])):
        up = "bilinear" if bilinear else "filter"
        x = style_conv(state, f"style_convs.{2 * i}", x, w, first, up)
        x = style_conv(state, f"style_convs.{2 * i + 1}", x, w, second)
        image = twice(image) if bilinear else smooth(with_zeros(image[0])[None], (2, 1))
        image = image + to_rgb(state, f"to_rgbs.{i}", x, w)
    return image[0]


def style_conv(state, name, x, w, noise, up=""):
    """`StyleConv`: [1, C, h, w] → [1, D, h, w], or twice as large."""
    weight = modulated(state, name, w)  # [1, D, C, 3, 3]
    weight = (weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8))[0]
    if up == "filter":
        x = smooth(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), (1, 1))
    else:
        x = F.conv2d(twice(x) if up else x, weight, padding=1)
    x = x + state[f"{name}.weight"] * noise + state[f"{name}.activate.bias"][:, None, None]
    return activated(x)


def to_rgb(state, name, x, w):
    """`ToRGB`, without what is enlarged."""
    return F.conv2d(x, modulated(state, name, w)[0]) + state[f"{name}.bias"]


def modulated(state, name, w):
    weight = state[f"{name}.modulated_conv.weight"]
    linear = (state[f"{name}.modulated_conv.modulation.{part}"] for part in ("weight", "bias"))
    matrix, bias = linear
    style = matrix / matrix.shape[1] ** 0.5 @ w + bias
    return weight / weight[0, 0].numel() ** 0.5 * style[:, None, None]


def smooth(x, pad):
    kernel = (4 * FILTER.double()).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, pad * 2), kernel, groups=x.shape[1])


def twice(x):
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
