"""Files that are something else than a generator of StyleGAN2: named, with what to do instead."""

import re
from typing import NoReturn

from nada.formats.files import CheckpointError
from nada.formats.messages import brief
from nada.formats.search import Listing


class AnotherModelError(CheckpointError):
    """A file that is of use, but not as a generator; `kind` says as what."""

    def __init__(self, sentence: str, kind: str):
        super().__init__(sentence)
        self.kind = kind


DOMAIN, CLIP = "domain", "CLIP"
INSTEAD = "give one of StyleGAN2 in rosinality's or NVIDIA's form"
# Names of tensors → what has them. The first that fits is told.
TENSORS = {
    r"(.*\.)?synthesis\.(input\.(freqs|weight|affine)|L\d+_\d+_\d+\.)": (
        "This is a StyleGAN3 generator, whose layers work in another way: "
        "a StyleGAN2 or StyleGAN2-ADA generator was expected"
    ),
    r"(.*\.)?GE?\.blocks\.\d+\.to_style1\.": (
        "This is a model of lucidrains' stylegan2-pytorch, whose layers compute something else "
        f"than StyleGAN2's: {INSTEAD}"
    ),
    r"(.*\.)?stylegan_decoder\.": (
        "This is GFPGAN, which restores faces; its decoder draws nothing without its encoder: "
        f"{INSTEAD}"
    ),
    r"(.*\.)?(style_mlp\.\d+\.|style_conv1\.modulated_conv\.)": (
        "This is a part of a generator in basicsr's names: give the whole one, with style_mlp, "
        "constant_input, style_conv1, style_convs, to_rgb1 and to_rgbs"
    ),
    r"(.*\.)?(mapping\.dense\d+\.|synthesis\.(early_)?(layer|output)\d+\.)": (
        "This is a generator in genforce's names: give NVIDIA's file that it was converted from"
    ),
    r"(.*\.)?(style_mapping\.\d+\.|to_rgb1?\.conv\.style_modulation\.)": (
        "This is a generator in mmgeneration's names: give rosinality's or NVIDIA's file that it "
        "was converted from"
    ),
    r"(.*\.)?progression\.\d+\.conv": (
        f"This is a generator of the first StyleGAN, whose layers work in another way: {INSTEAD}"
    ),
    r"(.*\.)?(model\.diffusion_model|down_blocks\.\d+|lora_unet_)": (
        f"This is a part of a diffusion model, which is no generator of this kind: {INSTEAD}"
    ),
    r"(.*\.)?(final_linear\.\d+\.|b4\.mbstd|b4\.out\.|b\d+\.fromrgb\.)": (
        "This is a discriminator, which judges images and draws none: give the generator's file, "
        "which programs call 'g_ema'"
    ),
    r"b\d+\.(conv[01]|torgb)\.": (
        "This is a part of a generator, the synthesis of NVIDIA's without its mapping, as other "
        "programs save a domain: give the whole generator, or save it whole as NVIDIA's 'G_ema'"
    ),
    r"(encoder\.)?(body\.\d+|input_layer\.\d+|styles\.\d+)\.": (
        "This is an encoder, which draws nothing: give the generator that belongs to it"
    ),
}
CLIPS = re.compile(
    r"(.*\.)?(visual\.(proj|conv1\.weight|class_embedding|trunk\.)|text_model\.|token_embedding\.)"
)
TOP = {
    "sg2_params": (
        "This is a domain of StyleDomain or HyperDomainNet, which says how to change a generator "
        "and holds none; this program reads domain files of its own alone: adapt again"
    ),
    "GAN": f"This is a model of lucidrains' stylegan2-pytorch: {INSTEAD}",
}


def refuse_domain() -> NoReturn:
    """Say that a file is a domain of ours."""
    raise AnotherModelError(
        "This is a domain file, which holds what a run changed in a generator: give it with "
        "--domain (on the page: load it), and with --generator the generator it was made from.",
        DOMAIN,
    )


def refuse(listing: Listing) -> NoReturn:
    """Say what a file without a generator is.

    Raises:
        CheckpointError: always.
    """
    if any(CLIPS.match(path) for path in listing.tensors):
        raise AnotherModelError(
            "This is a CLIP model: give it with --clip, and a generator with --generator.", CLIP
        )
    for name, sentence in TOP.items():
        if name in listing.top:
            raise CheckpointError(f"{sentence}.")
    for pattern, sentence in TENSORS.items():
        begins = re.compile(pattern)
        if any(begins.match(path) for path in listing.tensors):
            raise CheckpointError(f"{sentence}.")
    if not listing.tensors:
        top = ", ".join(map(brief, listing.top[:3])) or "nothing"
        raise CheckpointError(
            f"Not a StyleGAN2 generator: it holds no tensors, but {top}; {INSTEAD}."
        )
    names = ", ".join(map(brief, list(listing.tensors)[:3]))
    raise CheckpointError(
        f"Not a StyleGAN2 generator: it holds {len(listing.tensors)} tensors, such as {names}; "
        "the names style, input, conv1, to_rgb1, convs, to_rgbs, noises were expected, or NVIDIA's "
        "mapping and synthesis."
    )
