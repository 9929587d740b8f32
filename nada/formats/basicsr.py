"""The generators of basicsr, which restorers of faces begin from, in our names.

They compute what rosinality's do. Two variants of theirs enlarge bilinearly, and draw other images:
one has names of its own, by which it is refused here; the other has the same names and shapes, and
only a module that was pickled whole tells.

Source of the names: `basicsr/archs/stylegan2_arch.py`, and `gfpgan/archs` of GFPGAN.
"""

import re
from typing import NoReturn

from nada.formats.attributes import at_usual_rates, clamp_of, refuse_unusual
from nada.formats.files import CheckpointError
from nada.formats.messages import brief
from nada.formats.nvidia import Translated
from nada.formats.remarks import remark
from nada.formats.search import Found

CONV = r"(style_conv1|style_convs\.\d+)"
RGB = r"(to_rgb1|to_rgbs\.\d+)"
NAMES = {
    r"style_mlp\.(\d+\.(weight|bias))": r"style.\1",
    r"constant_input\.weight": "input.input",
    rf"{CONV}\.weight": r"\1.noise.weight",
    rf"{CONV}\.activate\.bias": r"\1.activate.bias",
    rf"({CONV}|{RGB})\.modulated_conv\.(weight|modulation\.(weight|bias))": r"\1.conv.\4",
    rf"{RGB}\.bias": r"\1.bias",
    r"noises\.noise(\d+)": r"noises.noise_\1",
}  # theirs → ours, but for "style_conv", which is "conv" with us


def translate(found: Found, format: str) -> Translated:
    """basicsr's tensors, out of a file of some format, by our names.

    Raises:
        CheckpointError: another architecture.
    """
    if "style_conv1.bias" in found.tensors or _modules_say(found, "interpolation_mode"):
        _refuse_bilinear()
    refuse_unusual(found)
    theirs, notes = at_usual_rates(found)
    ours = {_our_name(name): tensor for name, tensor in theirs.items()}
    used = remark("basicsr", format=format, name=found.shown or "names", tensors=len(ours))
    doubts = () if found.modules else (remark("unclear_upsampling"),)
    return Translated(ours, found.mean, clamp_of(found), used, tuple(notes), doubts)


def _our_name(name: str) -> str:
    for pattern, replacement in NAMES.items():
        if match := re.fullmatch(pattern, name, re.ASCII):
            return match.expand(replacement).removeprefix("style_")
    raise CheckpointError(
        f"Not a StyleGAN2 generator as it should be: nothing here uses {brief(name)} of basicsr's "
        "generator. It is of another architecture, and its images would be others here."
    )


def _modules_say(found: Found, attribute: str) -> bool:
    return any(attribute in attributes for attributes in found.modules.values())


def _refuse_bilinear() -> NoReturn:
    raise CheckpointError(
        "This is a generator in basicsr's names that enlarges bilinearly, as those of restorers of "
        "faces do, and would draw other images here: give the one of StyleGAN2 that it was made "
        "from."
    )
