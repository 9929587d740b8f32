"""Weights that anyone can rebuild, tiny models, and the numbers of the reference programs."""

import asyncio
import concurrent.futures
import copy
import time
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nada.clip import CLIP, openai_clip
from nada.generator import Generator, GeneratorConfig

DATA = Path(__file__).parent / "data"
TINY = GeneratorConfig(size=16, w_dim=16, z_dim=16, mapping_layers=2, channels=(12, 8, 6))


def quick_first(*values) -> list:
    """Parameters of a test of which the first is quick and the others are marked slow."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.slow) for value in others)]


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


def adapted(base: Generator, name: str, layers: tuple[str, ...]) -> Generator:
    """A copy whose weights under these names differ, by amounts that depend on `name` alone."""
    other = copy.deepcopy(base)
    for key, value in other.state_dict().items():
        if key.startswith(layers):
            value += 0.3 * randn(f"{name}/{key}", value.shape)
    return other


def styled(base: Generator, name: str = "styled") -> Generator:
    """A copy whose styles differ in every layer, and nothing else."""
    other = copy.deepcopy(base)
    for key, value in other.state_dict().items():
        if key.endswith("modulation.bias"):
            value += 0.3 * randn(f"{name}/{key}", value.shape)
    return other


def trained_on(base: Generator) -> Generator:
    """A generator of the base's family: all of its synthesis is a little different."""
    other = copy.deepcopy(base)
    for key, value in other.state_dict().items():
        if not key.startswith(("style.", "noises.")) and not key.endswith("kernel"):
            value += 0.05 * randn(f"trained on/{key}", value.shape)
    return other


def golden(file: str) -> dict[str, torch.Tensor]:
    """Results of the reference programs, from tests/data."""
    return load_file(DATA / f"{file}.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two deltas or states hold the same numbers; none at all are not the same."""
    same_names = bool(one) and one.keys() == other.keys()
    return same_names and all(torch.equal(one[name], other[name]) for name in one)


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).norm() / expected.norm()).item()


def wait_for(condition, seconds=180):
    """The first true value of a condition; fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return value


def complete(coroutine):
    """What a coroutine returns, in a thread of its own: a browser that tests drive has this one's
    event loop."""
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@torch.no_grad()
def fill_clip(model: torch.nn.Module, tag: str) -> torch.nn.Module:
    """Weights by name for a `clip.model.CLIP`: what the reference programs were run with."""
    width = model.ln_final.weight.shape[0]
    for key, value in model.state_dict().items():
        value.copy_(_clip_weight(key, randn(f"{tag}/{key}", value.shape), width))
    return model


def _clip_weight(key: str, x: torch.Tensor, width: int) -> torch.Tensor:
    if "ln_" in key and key.endswith("weight"):
        return 1 + 0.1 * x
    if key == "logit_scale":
        return torch.tensor(4.6052)
    if key.endswith("bias"):
        return 0.02 * x
    if "embedding" in key:
        return 0.05 * x
    if key.split(".")[-1] in ("proj", "text_projection") and x.ndim == 2:
        return x * width**-0.5
    if x.ndim == 2:
        return x * x.shape[-1] ** -0.5
    if x.ndim == 4:
        return x * x[0].numel() ** -0.5
    return 0.1 * x


def make_clip(name: str, *shape) -> CLIP:
    """A frozen CLIP of the given architecture (the arguments of `clip.model.CLIP`)."""
    model = fill_clip(openai_clip().model.CLIP(*shape), f"clip/{name}")
    return CLIP(model, name).eval().requires_grad_(False)
