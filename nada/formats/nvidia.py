"""The generators of NVIDIA's StyleGAN2 and StyleGAN2-ADA for PyTorch, in our names.

The two programs compute the same function; only names and shapes differ. Each tensor is used
exactly once, or it is the fixed blur filter; anything else is refused, since a generator with parts
left over would draw other images than its own. Pickled modules and plain state dicts have the same
names; the modules also have attributes.

Source of the names: `training/networks.py` of stylegan2-ada-pytorch.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from nada.formats.attributes import at_usual_rates, clamp_of, refuse_unusual
from nada.formats.files import CheckpointError
from nada.formats.messages import brief, is_small_int
from nada.formats.remarks import Remark, remark
from nada.formats.search import Found
from nada.formats.slices import LazyTensor
from nada.generator import MOST_LEVELS, blur_kernel

LAYER = {
    "weight": "conv.weight",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
}
CONV = {**LAYER, "bias": "activate.bias", "noise_strength": "noise.weight"}
TO_RGB = {**LAYER, "bias": "bias"}


@dataclass(frozen=True)
class Translated:
    """A generator in our names.

    Args:
        state: the state dict.
        mean: its mean latent, or None.
        clamp: where its features are cut off, or None.
        used: which of the file's generators it is, and that all of it was used.
        notes: what is unusual about it.
        doubts: what may make its images others.
    """

    state: dict[str, LazyTensor]
    mean: object
    clamp: float | None
    used: Remark
    notes: tuple[Remark, ...]
    doubts: tuple[Remark, ...] = ()


def translate(found: Found, format: str) -> Translated:
    """NVIDIA's tensors, out of a file of some format, by our names.

    Raises:
        CheckpointError: a conditional generator, or another architecture.
    """
    _refuse_conditional(found)
    _refuse_architecture(found)
    refuse_unusual(found)
    theirs, notes = at_usual_rates(found)
    clamp, mean = clamp_of(found), theirs.pop("mapping.w_avg", found.mean)
    quiet = _without_noise(found)
    ours = {}
    for their_name, our_name in _names(theirs):
        if their_name in theirs:
            ours[our_name] = _reshaped(theirs.pop(their_name), our_name)
        elif not quiet or "noise" not in their_name:
            raise CheckpointError(
                f"Not a StyleGAN2 generator as it should be: {their_name!r} is missing: check that "
                "the file is complete and of the 'skip' architecture."
            )
        elif their_name.endswith("noise_strength"):
            ours[our_name] = LazyTensor((1,), torch.float32, lambda: torch.zeros(1))
    filters = [theirs.pop(key) for key in list(theirs) if key.endswith("resample_filter")]
    _refuse_rest(theirs, filters)
    if quiet:
        notes.append(remark("no_noise"))
    used = remark(
        "nvidia",
        format=format,
        name=found.shown or "names",
        tensors=len(found.tensors) - len(filters),
        filters=len(filters),
    )
    doubts = () if found.modules or found.clamp else (remark("unclear_clamp"),)
    return Translated(ours, mean, clamp, used, tuple(notes), doubts)


def _refuse_conditional(found: Found) -> None:
    classes = next((m["c_dim"] for m in found.modules.values() if m.get("c_dim")), 0)
    if classes or any(key.startswith("mapping.embed.") for key in found.tensors):
        number = classes if classes and is_small_int(classes) else "several"
        raise CheckpointError(
            f"This generator is conditional ({number} classes): it draws what a "
            "label says, and only generators without labels can be used here."
        )


def _refuse_architecture(found: Found) -> None:
    """Modules name it; in a plain dict 'resnet' has skips, 'orig' RGB of the last block alone."""
    said = [m["architecture"] for m in found.modules.values() if "architecture" in m]
    blocks = _count(found.tensors, r"synthesis\.b\d+\.conv1\.weight")
    if any(re.fullmatch(r"synthesis\.b\d+\.skip\.weight", key) for key in found.tensors):
        said.append("resnet")
    elif _count(found.tensors, r"synthesis\.b\d+\.torgb\.weight") == 1 < blocks:
        said.append("orig")
    if others := [kind for kind in said if kind != "skip"]:
        raise CheckpointError(
            f"This generator is of the {brief(others[0])} architecture; one of the 'skip' "
            "architecture was expected, as all of NVIDIA's published ones of StyleGAN2-ADA are."
        )


def _without_noise(found: Found) -> bool:
    """Whether it was made with use_noise=False: no layer has noise, and none says it should."""
    said = [m["use_noise"] for m in found.modules.values() if "use_noise" in m]
    return not any(said) and not any("noise" in name for name in found.tensors)


def _names(tensors: dict) -> Iterator[tuple[str, str]]:
    """NVIDIA's name and ours, for every tensor that the generator should have."""
    for i in range(_count(tensors, r"mapping\.fc(\d+)\.weight")):
        yield from (
            (f"mapping.fc{i}.{part}", f"style.{i + 1}.{part}") for part in ("weight", "bias")
        )
    yield "synthesis.b4.const", "input.input"
    convs = [("synthesis.b4.conv1", "conv1")]
    to_rgbs = [("synthesis.b4.torgb", "to_rgb1")]
    levels = _count(tensors, r"synthesis\.b(\d+)\.conv0\.weight")
    for j in range(min(levels, MOST_LEVELS)):
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
            f"Not a StyleGAN2 generator as it should be: nothing here uses {names}{more}; "
            "one of the 'skip' architecture was expected."
        )
    standard = blur_kernel() / 4
    for kernel in filters:
        if kernel.shape != (4, 4) or not torch.allclose(kernel.read().float(), standard):
            raise CheckpointError(
                "This generator blurs with another filter than [1, 3, 3, 1], the standard one of "
                "StyleGAN2: it cannot be used here."
            )
