"""What changes a generator's images and no shape shows: attributes of modules pickled whole.

A rate of learning is honoured by scaling the weights, a clamp is carried along, and what cannot be
honoured is refused. A plain state dict has no attributes; there the usual values are taken.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import replace

from nada.formats.files import CheckpointError
from nada.formats.messages import brief
from nada.formats.pickles import ForeignObject
from nada.formats.remarks import Remark, remark
from nada.formats.search import Found
from nada.formats.slices import LazyTensor
from nada.generator import MAPPING_LR

GAIN = math.sqrt(2)  # of a leaky ReLU, in both programs
# attribute → the values that our layers compute with; a module that lacks it has the first
USUAL = {
    "activation": ("lrelu", "linear", "fused_lrelu", None),
    "negative_slope": (0.2,),
    "act_gain": (GAIN,),
}
MAPPING = re.compile(r"style(_mlp)?\.\d+|mapping\.fc\d+")
AFFINE = re.compile(r".*\.((modulated_)?conv\.modulation|affine)")


def refuse_unusual(found: Found) -> None:
    """Raise a CheckpointError for an attribute that our layers do not have."""
    for name, attribute, value in _attributes(found, *USUAL):
        if attribute == "act_gain" and isinstance(value, ForeignObject):
            continue  # a number of numpy, which NVIDIA's program takes from a table
        usual = USUAL[attribute]
        near = isinstance(value, float) and any(
            isinstance(known, float) and math.isclose(value, known, rel_tol=1e-5) for known in usual
        )
        if not near and not any(value is known or value == known for known in usual):
            raise CheckpointError(
                f"{brief(name or 'the generator')} has the {attribute} {brief(value)}; "
                f"{usual[0]!r} was expected: it cannot be used here."
            )


def at_usual_rates(found: Found) -> tuple[dict[str, LazyTensor], list[Remark]]:
    """The tensors, those of layers with another learning-rate multiplier scaled to the usual one,
    which draws the same images; and a remark where that was done."""
    tensors, rates = dict(found.tensors), set()
    for name, attribute, rate in _attributes(found, "lr_mul", "bias_gain", "lr_multiplier"):
        usual = MAPPING_LR if MAPPING.fullmatch(name) else 1.0 if AFFINE.fullmatch(name) else None
        if usual is None:
            continue
        if type(rate) not in (int, float) or not 1e-6 <= rate <= 1e6:
            raise CheckpointError(
                f"{name!r} has the {attribute} {brief(rate)}; {usual} is usual: it cannot be used "
                "here."
            )
        if not math.isclose(rate, usual, rel_tol=1e-6):
            rates.add(rate)
            for part in (f"{name}.weight", f"{name}.bias"):
                if part in tensors:
                    tensors[part] = _scaled(tensors[part], rate / usual)
    listed = ", ".join(f"{rate:g}" for rate in sorted(rates)[:3])
    return tensors, [remark("layer_rates", rates=listed)] if rates else []


def clamp_of(found: Found) -> float | None:
    """Where NVIDIA's program cuts features off, which it does if it was trained in half precision:
    our own files have it as a tensor, modules as an attribute.

    Raises:
        CheckpointError: differing ones, or none that is a number.
    """
    if found.clamp is not None:
        return _number(found.clamp)
    clamps = {
        value if type(value) in (int, float, type(None)) else brief(value)
        for _, _, value in _attributes(found, "conv_clamp")
    }
    if not clamps or clamps == {None}:
        return None
    (clamp, *others) = clamps
    if others or isinstance(clamp, str) or not 0 < clamp < math.inf:
        listed = ", ".join(sorted(map(str, clamps))[:4])
        raise CheckpointError(
            f"Its layers have the conv_clamp {listed}; one number for all was expected: it cannot "
            "be used here."
        )
    return float(clamp)


def _number(clamp: LazyTensor) -> float:
    if clamp.shape not in ((), (1,)):
        raise CheckpointError(
            f"'conv_clamp' is {list(clamp.shape)}; one number was expected: save it anew."
        )
    number = float(clamp.read())
    if not 0 < number < math.inf:
        raise CheckpointError(f"'conv_clamp' is {number}; a number above 0 was expected.")
    return number


def _attributes(found: Found, *names: str) -> Iterator[tuple[str, str, object]]:
    for module, attributes in found.modules.items():
        yield from ((module, name, attributes[name]) for name in names if name in attributes)


def _scaled(tensor: LazyTensor, factor: float) -> LazyTensor:
    return replace(tensor, read=lambda: tensor.read() * factor)
