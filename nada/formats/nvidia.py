"""The generators of NVIDIA's StyleGAN2 and StyleGAN2-ADA pickles, in our names.

The two programs compute the same function; only names and shapes differ. Each of the pickle's
tensors is used exactly once, or it is the fixed blur filter; anything else is refused, since a
generator with parts left over would draw other images than its own.

Source of the names: `training/networks.py` of stylegan2-ada-pytorch.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

import torch

from nada.formats.files import CheckpointError
from nada.formats.messages import brief, is_small_int
from nada.formats.pickles import ForeignObject
from nada.formats.slices import LazyTensor
from nada.generator import MAPPING_LR, blur_kernel

LAYER = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
}
CONV = {**LAYER, "bias": "activate.bias", "noise_strength": "noise.weight"}
TO_RGB = {**LAYER, "bias": "bias"}


def holds_generator(contents: object) -> bool:
    """Whether `contents` is what NVIDIA's programs write."""
    return isinstance(_root(contents), ForeignObject)


def generator_state(contents: object) -> tuple[dict[str, LazyTensor], LazyTensor, str]:
    """NVIDIA's `G_ema` as a state dict in our names, its mean latent, and what was done.

    Raises:
        CheckpointError: a conditional generator, StyleGAN3, or another architecture.
    """
    modules = dict(_modules(_root(contents), ""))
    theirs = {key: value for name, module in modules.items() for key, value in _own(module, name)}
    _refuse_others(modules, theirs)
    ours = {}
    for theirs_name, our_name in _names(theirs):
        if theirs_name not in theirs:
            raise CheckpointError(
                f"Not a StyleGAN2 generator as it should be: {theirs_name!r} is missing from "
                "NVIDIA's pickle; one of the 'skip' architecture was expected."
            )
        ours[our_name] = _reshaped(theirs.pop(theirs_name), our_name)
    filters = [theirs.pop(key) for key in list(theirs) if key.endswith("resample_filter")]
    _refuse_rest(theirs, filters)
    mean = ours.pop("latent_avg")
    note = (
        f"NVIDIA's G_ema: {len(ours) + 1} tensors, each used exactly once, "
        f"and {len(filters)} blur filters, which are the standard one"
    )
    return ours, mean, note


def _root(contents: object) -> object:
    if type(contents) is dict:
        return contents.get("G_ema", contents.get("G"))
    return contents


def _modules(module: object, name: str, seen: set | None = None) -> Iterator[tuple[str, dict]]:
    """All modules by their dotted names, as the dicts of their attributes."""
    seen = set() if seen is None else seen
    state = module.state if isinstance(module, ForeignObject) else None
    if not isinstance(state, dict) or id(module) in seen or name.count(".") > 6:
        raise CheckpointError(f"NVIDIA's pickle has no module of its own for {name or 'G_ema'!r}.")
    seen.add(id(module))
    yield name, state
    for child, inner in _dict(state, "_modules").items():
        if inner is not None:
            yield from _modules(inner, f"{name}.{child}" if name else str(child), seen)


def _own(state: dict, name: str) -> Iterator[tuple[str, LazyTensor]]:
    for key, value in {**_dict(state, "_parameters"), **_dict(state, "_buffers")}.items():
        if isinstance(value, LazyTensor):
            yield f"{name}.{key}" if name else str(key), value


def _dict(state: dict, key: str) -> dict:
    return state[key] if isinstance(state.get(key), dict) else {}


def _refuse_others(modules: dict[str, dict], tensors: dict) -> None:
    classes = next((s["c_dim"] for s in modules.values() if s.get("c_dim")), 0)
    if classes or any(key.startswith("mapping.embed.") for key in tensors):
        number = classes if classes and is_small_int(classes) else "several"
        raise CheckpointError(
            f"This generator is conditional ({number} classes): it draws what a "
            "label says, and only generators without labels can be used here."
        )
    if any(re.match(r"synthesis\.(input|L\d+_)", key) for key in tensors):
        raise CheckpointError(
            "This is a StyleGAN3 generator, whose layers work in another way: "
            "a StyleGAN2 or StyleGAN2-ADA generator was expected."
        )
    for name, state in modules.items():
        gain, activation = state.get("bias_gain", MAPPING_LR), state.get("activation", "lrelu")
        if re.fullmatch(r"mapping\.fc\d+", name) and gain != MAPPING_LR:
            raise CheckpointError(
                f"{name!r} has the learning-rate multiplier {brief(gain)}; {MAPPING_LR} was "
                "expected: it cannot be used here."
            )
        if activation not in ("lrelu", "linear"):
            raise CheckpointError(
                f"{name!r} has the activation {brief(activation)}; 'lrelu' was expected: it cannot "
                "be used here."
            )


def _names(tensors: dict) -> Iterator[tuple[str, str]]:
    """NVIDIA's name and ours, for every tensor that the generator should have."""
    for i in range(_count(tensors, r"mapping\.fc(\d+)\.weight")):
        yield from (
            (f"mapping.fc{i}.{part}", f"style.{i + 1}.{part}") for part in ("weight", "bias")
        )
    yield "mapping.w_avg", "latent_avg"
    yield "synthesis.b4.const", "input.input"
    convs = [("synthesis.b4.conv1", "conv1")]
    to_rgbs = [("synthesis.b4.torgb", "to_rgb1")]
    for j in range(_count(tensors, r"synthesis\.b(\d+)\.conv0\.weight")):
        block = f"synthesis.b{8 * 2**j}"
        convs += [(f"{block}.conv0", f"convs.{2 * j}"), (f"{block}.conv1", f"convs.{2 * j + 1}")]
        to_rgbs.append((f"{block}.torgb", f"to_rgbs.{j}"))
    for n, (their, our) in enumerate(convs):
        yield from ((f"{their}.{part}", f"{our}.{name}") for part, name in CONV.items())
        yield f"{their}.noise_const", f"noises.noise_{n}"
    for their, our in to_rgbs:
        yield from ((f"{their}.{part}", f"{our}.{name}") for part, name in TO_RGB.items())


def _count(tensors: dict, pattern: str) -> int:
    return sum(bool(re.fullmatch(pattern, key)) for key in tensors)


def _reshaped(tensor: LazyTensor, name: str) -> LazyTensor:
    """The same numbers in the shape that `name` has with us: some have dimensions of 1 more."""
    shape = tensor.shape
    if name.endswith("conv.weight") or name == "input.input":
        shape = (1, *shape)  # [1, O, I, k, k] and [1, C, 4, 4]
    elif name.startswith("noises."):
        shape = (1, 1, *shape)  # [1, 1, r, r]
    elif name.endswith("noise.weight"):
        shape = (*shape, 1)  # [1]
    elif re.fullmatch(r"to_rgb1\.bias|to_rgbs\.\d+\.bias", name):
        shape = (1, *shape, 1, 1)  # [1, 3, 1, 1]
    return replace(tensor, shape=shape, read=lambda: tensor.read().reshape(shape))


def _refuse_rest(rest: dict, filters: list[LazyTensor]) -> None:
    if rest:
        names = ", ".join(repr(key) for key in list(rest)[:3])
        more = f" and {len(rest) - 3} more" if len(rest) > 3 else ""
        raise CheckpointError(
            f"Not a StyleGAN2 generator as it should be: nothing here uses {names}{more} of "
            "NVIDIA's pickle; one of the 'skip' architecture was expected."
        )
    standard = blur_kernel() / 4
    for kernel in filters:
        if kernel.shape != (4, 4) or not torch.allclose(kernel.read().float(), standard):
            raise CheckpointError(
                "This generator blurs with another filter than [1, 3, 3, 1], the standard one of "
                "StyleGAN2: it cannot be used here."
            )
