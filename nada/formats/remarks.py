"""What is said of a file that was read: which generator in it was taken, and what is unusual there.

A remark is a key and its values, so that a page can say it in its reader's language; the English is
here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

REMARKS = {
    # what was taken
    "state_dict": "a {format} file of one state dict",
    "named": "a {format} file with {name}",
    "nvidia": "a {format} file with NVIDIA's {name}: {tensors} tensors, each used exactly once, "
    "and {filters} blur filters, which are the standard one",
    "tensorflow": "a TensorFlow pickle with NVIDIA's {name}: {variables} variables, none left over",
    "basicsr": "a {format} file with basicsr's {name}: {tensors} tensors, each used exactly once",
    "left_aside": "({names} left aside)",
    # what is unusual
    "layer_rates": "layers with a learning-rate multiplier of {rates} were scaled to the usual one",
    "mapping_rate": "the mapping was scaled to the usual learning-rate multiplier",
    "no_noise": "it was made without noise, so that the strength of the noise is 0",
    "last_rgb": "it has colours from the last layer alone, so that the others are 0",
    "no_mean": "it has no mean latent, which is computed from 4096 z",
    "clamp": "features are cut off at ± {clamp}, as NVIDIA's program does",
    # what may make its images others than those of the program that wrote it
    "unclear_clamp": "a plain state dict does not say whether NVIDIA's program cuts features off "
    "(conv_clamp, which it does at 256 where it trained in half precision); none is assumed, and "
    "convert their pickle to be sure",
    "unclear_upsampling": "a plain state dict does not say whether basicsr's program enlarges "
    "bilinearly (StyleGAN2GeneratorBilinear); StyleGAN2's filter is assumed, and with the other "
    "its images are others",
    "unknown_options": "nobody here knows its options {options}",
    "unclear_rate": "the mapping's weights are of size {size}, and those of StyleGAN2 around 100, "
    "since its learning-rate multiplier of 0.01 is part of the layer; if the program that wrote it "
    "has another multiplier, its images are others",
    "several_means": "its mean latent differs from layer to layer; the mean of mapped z is "
    "computed instead",
}


@dataclass(frozen=True)
class Remark:
    """A part of a sentence; `str` gives it in English.

    Args:
        key: of `REMARKS`.
        values: what its words leave open, as texts.
    """

    key: str
    values: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return REMARKS[self.key].format_map(self.values)


def remark(key: str, **values: object) -> Remark:
    """A remark with its values."""
    return Remark(key, {name: str(value) for name, value in values.items()})
