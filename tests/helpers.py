"""Weights that anyone can rebuild, tiny models, and the numbers of the reference programs."""

import zlib
from pathlib import Path

import torch
from safetensors.torch import load_file

from nada.generator import Generator, GeneratorConfig

DATA = Path(__file__).parent / "data"
TINY = GeneratorConfig(size=16, w_dim=16, z_dim=16, mapping_layers=2, channels=(12, 8, 6))


def randn(name: str, shape) -> torch.Tensor:
    """A random tensor that depends on its name alone."""
    rng = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(shape, generator=rng)


@torch.no_grad()
def fill_generator(generator: Generator) -> Generator:
    """Weights by name: what the reference programs were run with. Nothing in them is zero."""
    for key, value in generator.state_dict().items():
        if key.endswith(".kernel"):
            continue
        x = randn(key, value.shape)
        if key.startswith("style.") and key.endswith("weight"):
            x = 100 * x
        elif key.endswith("modulation.bias"):
            x = 1 + 0.1 * x
        elif key.endswith((".bias", "noise.weight")):
            x = 0.1 * x
        value.copy_(x)
    generator.update_mean_latent()
    return generator


def tiny_generator(config: GeneratorConfig = TINY) -> Generator:
    """A generator of a few thousand weights, as a loader returns one."""
    return fill_generator(Generator(config)).eval().requires_grad_(False)


def golden(file: str) -> dict[str, torch.Tensor]:
    """Results of the reference programs, from tests/data."""
    return load_file(DATA / f"{file}.safetensors")


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()
