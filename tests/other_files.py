"""Files of many kinds, as other programs write them, and what is said of those of no use."""

import argparse

import torch
from torch import nn

from nada.generator import GeneratorConfig
from tests.helpers import tiny_generator
from tests.nvidia_files import FILTER, nvidia_generator, stub

SMALL = GeneratorConfig(16, 20, 20, 2, (12, 10, 8))


def named(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


def other(state: dict) -> dict:
    return {name: value + 1 for name, value in state.items()}


def encoder_and_decoder(native) -> dict:
    """As pSp, e4e and ReStyle write it: the mean latent once for each layer."""
    state = named("decoder.", native.state_dict())
    state |= {"encoder.body.0.weight": torch.ones(3, 3), "encoder.styles.0.linear.bias": FILTER}
    mean = native.mean_latent.repeat(native.num_ws, 1)
    return {"state_dict": state, "latent_avg": mean, "opts": argparse.Namespace(device="cuda")}


def theirs(native, change=None) -> tuple[nn.Module, dict]:
    """NVIDIA's modules with the weights of `native`, and their state dict."""
    top = nvidia_generator(native)
    if change:
        change(top)
    return top, top.state_dict()


def attributes(top: nn.Module, kind: str, **values) -> None:
    for module in top.modules():
        if kind in module.class_name:
            for name, value in values.items():
                setattr(module, name, value)


def orig(top):
    for level in (4, 8):
        del getattr(top.synthesis, f"b{level}").torgb


def resnet(top):
    top.synthesis.b8.skip = stub("Conv2dLayer", {"weight": torch.ones(10, 12, 1, 1)})


OTHER_BYTES = {
    b"\x1f\x8b\x08\x00": r"is an archive \(gzip\): unpack it",
    b"Rar!\x1a": r"is an archive \(RAR\): unpack it",
    b"x" * 257 + b"ustar\x00": r"is an archive \(tar\): unpack it",
    b"\x89HDF\r\n": "is an HDF5 file, as Keras writes it: a .pt",
    b"GGUF\x03": "is a GGUF file",
}


def ones(*names: str, shape: tuple = (4, 4)) -> dict:
    return {name: torch.ones(shape) for name in names}


def changed(**tensors) -> dict:
    names = {"input": "input.input", "rgb": "to_rgb1.bias", "embed": "embed.weight"}
    state = tiny_generator(SMALL).state_dict()
    return {**state, **{names[key]: value for key, value in tensors.items()}}


MMGENERATION = (
    "style_mapping.1.bias", "constant_input.weight", "conv1.conv.weight", "to_rgb1.conv.weight",
    "conv1.conv.style_modulation.fc.weight_orig", "convs.0.conv.weight", "to_rgbs.0.conv.weight",
    "injected_noise_0",
)  # fmt: skip


UNUSABLE = {
    "lucidrains": (
        {"GAN": ones("S.net.0.weight", "G.blocks.0.to_style1.weight"), "version": "1.8"},
        "lucidrains' stylegan2-pytorch",
    ),
    "lucidrains bare": (ones("G.blocks.0.to_style1.weight"), "lucidrains' stylegan2-pytorch"),
    "StyleGAN3": (
        {"G_ema": ones("synthesis.input.freqs", "synthesis.L0_36_512.weight", "mapping.w_avg")},
        "StyleGAN3 generator.*StyleGAN2-ADA generator was expected",
    ),
    "StyleGAN": (ones("generator.progression.0.conv1.0.weight"), "the first StyleGAN"),
    "GFPGAN": ({"params_ema": ones("stylegan_decoder.style_mlp.1.weight")}, "GFPGAN"),
    "basicsr": ({"params_ema": ones("style_mlp.1.weight")}, "a part of a generator in basicsr's"),
    "genforce": ({"generator_smooth": ones("mapping.dense0.weight")}, "genforce's.*NVIDIA's file"),
    "mmgeneration": (
        {
            "state_dict": {
                f"{g}.{name}": value
                for g in ("generator", "generator_ema")
                for name, value in ones(*MMGENERATION).items()
            }
        },
        "mmgeneration's names",
    ),
    "diffusion": ({"state_dict": ones("model.diffusion_model.out.0.weight")}, "a diffusion model"),
    "not square": (changed(input=torch.ones(1, 12, 4, 7)), "4 × 7 features.*not square"),
    "grey": (changed(rgb=torch.ones(1, 1, 1, 1)), r"grey images \(1 channels\)"),
    "transparent": (changed(rgb=torch.ones(1, 4, 1, 1)), r"transparency \(4 channels\)"),
    "conditional": (changed(embed=torch.ones(10, 20)), "conditional: it draws what a label says"),
    "synthesis alone": (ones("b4.conv1.affine.weight", "b8.torgb.weight"), "without its mapping"),
    "StyleDomain": (
        {"sg2_params": {"img_size": 1024}, "state_dict": ones("params.0"), "da_type": "td"},
        "domain of StyleDomain or HyperDomainNet.*adapt again",
    ),
    "CLIP": (ones("visual.proj", "token_embedding.weight"), "is a CLIP model: give it with --clip"),
    "NVIDIA's discriminator": (
        ones("b16.fromrgb.weight", "b16.conv0.weight", "b4.out.weight"),
        "a discriminator",
    ),
    "one changed layer": (ones("b64.conv0.weight", "b64.conv0.bias"), "without its mapping"),
    "discriminator": ({"d": ones("convs.0.0.weight", "final_linear.0.weight")}, "a discriminator"),
    "encoder": (ones("encoder.body.0.res_layer.0.weight"), "an encoder, which draws nothing"),
}


ADDRESSES = {
    "https://huggingface.co/org/repo/blob/main/models/g.pt": "“org/repo:models/g.pt”",
    "https://huggingface.co/org/repo/resolve/v1/g.pkl?download=true": "“org/repo:g.pkl@v1”",
    "https://huggingface.co/org/repo": "“org/repo”",
    "huggingface.co/org/repo/blob/main/g.pt": "“org/repo:g.pt”",
    "https://HF.co/org/repo/tree/main": "“org/repo”",
    "s3://bucket/g.pt": "download the file and give its path",
    "file://server/share/g.pt": "download the file and give its path",
    "https://api.ngc.nvidia.com/v2/files/stylegan2-ffhq.pkl": "download the file and give its path",
    "http://drive.google.com/file/d/abc@x": "download the file and give its path",
}
