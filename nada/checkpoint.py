"""Generators from any file: bundled, local or on the Hub; PyTorch's, safetensors or NVIDIA's.

A file is never trusted: no code in it is run, nothing is read that is not needed, and everything
that could be wrong with one ends in a `CheckpointError` whose sentence says what it is and what to
do. Tensors are read one at a time, so that loading needs little more memory than the weights.
"""

import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from nada.formats.catalogue import ResolvedFile, locate
from nada.formats.contents import Contents, read_contents
from nada.formats.files import (
    CHECKPOINTS,
    LARGEST,
    CheckpointError,
    check_finite,
    in_bounds,
    write_safetensors,
    written_whole,
)
from nada.formats.hub import Report
from nada.formats.messages import brief
from nada.formats.remarks import Remark, remark
from nada.formats.slices import LazyTensor
from nada.generator import Generator, GeneratorConfig, blur_kernel

__all__ = [
    "CHECKPOINTS",
    "CheckpointError",
    "Contents",
    "Origin",
    "architecture",
    "family_agreement",
    "family_sketch",
    "fingerprint",
    "load_generator",
    "read_contents",
    "read_generator",
    "save_generator",
    "sha256",
    "write_safetensors",
]

WIDEST = 4096  # z and w; 512 is usual
# the root mean square of a mapping's weights, which is 100 when a training begins
SMALLEST_SCALE, LARGEST_SCALE = 30.0, 400.0
FAMILY_BITS = 256
PERIOD = 65521  # of the signs that weights are added up with; a prime, so that no kernel repeats it


def load_generator(
    source: str | Path | ResolvedFile,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    sha256: str | None = None,
    progress: Report | None = None,
) -> Generator:
    """A trained generator, in evaluation mode and without gradients.

    Args:
        source: "demo" for the bundled one; "ffhq" and "org/repo[:file][@revision]" for the Hub; a
            path; a `ResolvedFile` from `locate`. The file is safetensors or a pickle, and the
            generator, in rosinality's names or NVIDIA's, lies anywhere in it; of several the
            averaged one (`g_ema`) is taken. Any size from 4 to 1024. Without a mean latent in it
            that is computed over 4096 z; noise buffers that an old file lacks are drawn from a
            fixed seed. What may change the images without being sure is warned of.
        device: where to put it.
        revision, sha256, progress: see `locate`.

    Returns:
        A `Generator` in float32.

    Raises:
        CheckpointError: no such file, or no StyleGAN2 generator in it.
    """
    path = locate(source, revision, sha256, progress).path
    generator, origin = read_generator(path)
    origin.warn(stacklevel=3)
    return generator.to(device)


@dataclass(frozen=True)
class Origin:
    """What a generator was read from.

    Args:
        file: its name.
        used: what kind of file it is, and which of its generators was taken.
        notes: what is unusual about it.
        doubts: what may make its images others than those of the program that wrote it, without
            being sure.
        beside: what else lies in the file, by the names of its first level.
    """

    file: str
    used: tuple[Remark, ...]
    notes: tuple[Remark, ...]
    doubts: tuple[Remark, ...]
    beside: tuple[str, ...]

    def facts(self) -> dict:
        """What was taken and what is unusual, in English, as JSON can hold it."""
        unusual = [str(one) for one in (*self.notes, *self.doubts)]
        return {"used": " ".join(map(str, self.used)), "unusual": unusual}

    def warn(self, stacklevel: int = 2) -> None:
        """Warn of each doubt."""
        for doubt in self.doubts:
            warnings.warn(f"{self.file}: {doubt}.", stacklevel=stacklevel)


def read_generator(path: Path) -> tuple[Generator, Origin]:
    """The generator in a file, as `load_generator` gives it, on the CPU; and what is to be said of
    the file.

    Raises:
        CheckpointError: no StyleGAN2 generator in it.
    """
    with read_contents(path) as contents:
        try:
            generator = _build(contents, path.stat().st_size)
            if (mean := _mean_latent(contents.latent_avg, generator.config)) is None:
                generator.update_mean_latent()
            else:
                generator.mean_latent.copy_(mean)
            doubts = _doubts(contents, generator.config)
        except ValueError as error:
            raise CheckpointError(f"{path.name}: {error}") from error
    origin = Origin(path.name, contents.used, contents.notes, doubts, contents.top)
    return generator.eval().requires_grad_(False), origin


def save_generator(
    generator: Generator,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a generator and its mean latent as `latent_avg`, whole or not at all.

    A clamp of its features, which only NVIDIA's files have, becomes a tensor `conv_clamp` that
    other programs do not know.

    Args:
        generator: in float32.
        path: ".pt" and ".pth" give PyTorch's common layout, with `g_ema`; all else safetensors.
        metadata: texts to keep in a safetensors file.
        dtype: of the weights in the file.

    Raises:
        ValueError: a weight does not fit `dtype`.
        PlaceError: the file cannot be written.
    """
    tensors = {key: value.to(dtype).cpu() for key, value in generator.state_dict().items()}
    for key, value in tensors.items():
        if not value.isfinite().all():
            name = str(dtype).removeprefix("torch.")
            raise ValueError(f"{key!r} holds numbers that {name} cannot; nothing was saved.")
    extra = {"latent_avg": generator.mean_latent.cpu()}
    if generator.config.clamp is not None:
        extra["conv_clamp"] = torch.tensor(generator.config.clamp)
    if Path(path).suffix.lower() in (".pt", ".pth"):
        with written_whole(path, RuntimeError) as unfinished:
            torch.save({"g_ema": tensors, **extra}, unfinished)
    else:
        write_safetensors({**tensors, **extra}, path, metadata or {})


def sha256(tensors: Mapping[str, Tensor], *texts: str) -> str:
    """SHA-256, in hex, of names, types, shapes and contents, whatever their order and device."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode())
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fingerprint(generator: Generator) -> str:
    """SHA-256 of a generator's state dict, in hex: the same only for the same weights.

    A clamp does not count: a domain is what changed of the weights, and applies with it or without.
    """
    return sha256(generator.state_dict())


def family_sketch(generator: Generator) -> str:
    """FAMILY_BITS bits, in hex, in most of which generators agree that were trained on from one.

    SimHash (Charikar 2002): signs of fixed random projections of the convolutions' weights, each of
    a part of one layer. Two bits differ with the probability of their weights' angle over π, so
    half of them do between strangers.
    """
    names, bits = generator.conv_names, [False] * FAMILY_BITS
    for i, name in enumerate(names):
        weight = generator.layer(name).conv.weight.detach().cpu().flatten()
        signs = _fixed_signs().repeat(-(-len(weight) // PERIOD))[: len(weight)]
        places = range(i, FAMILY_BITS, len(names))
        for place, part in zip(places, (weight * signs).tensor_split(len(places))):
            bits[place] = bool(part.sum(dtype=torch.float64) > 0)
    number = sum(bit << place for place, bit in enumerate(bits))
    return f"{number:0{FAMILY_BITS // 4}x}"


def family_agreement(one: object, other: str) -> float | None:
    """The share of bits in which two sketches agree; None where `one`, which may come from a file
    of anyone's, is none."""
    if not isinstance(one, str) or not re.fullmatch(rf"[0-9a-f]{{{len(other)}}}", one):
        return None
    return 1 - (int(one, 16) ^ int(other, 16)).bit_count() / (4 * len(other))


@cache
def _fixed_signs() -> Tensor:
    """1 and −1, [PERIOD], by a hash of the place: the same ones everywhere and for ever."""
    x = torch.arange(1, PERIOD + 1) * 0x9E3779B1 & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x85EBCA77 & 0xFFFFFFFF
    return 1.0 - 2 * (x >> 16 & 1)


# From tensors to a generator


def architecture(contents: Contents, size: int) -> GeneratorConfig:
    """The architecture of what lies in a file of `size` bytes; no numbers are read.

    Raises:
        ValueError: it is not a whole generator.
    """
    state = contents.state
    _check_kinds(state, size)
    _refuse_other_images(state)
    config = replace(GeneratorConfig.from_state_dict(state), clamp=contents.clamp)
    if max(config.z_dim, config.w_dim) > WIDEST:
        raise ValueError(
            f"Not a StyleGAN2 generator: z and w have {config.z_dim} and {config.w_dim} numbers; "
            f"at most {WIDEST} were expected, 512 are usual."
        )
    with torch.device("meta"):
        _compare(Generator(config).state_dict(), state)
    return config


def _doubts(contents: Contents, config: GeneratorConfig) -> tuple[Remark, ...]:
    """What may make the images others than its own program's, and no shape or name can tell."""
    found = list(contents.doubts)
    spread = contents.state["style.1.weight"].read().float().square().mean().sqrt().item()
    if not SMALLEST_SCALE < spread < LARGEST_SCALE:
        found.append(remark("unclear_rate", size=f"{spread:.2g}"))
    if _has_differing_rows(contents.latent_avg, config):
        found.append(remark("several_means"))
    return tuple(found)


def _build(contents: Contents, size: int) -> Generator:
    """A generator of `contents`, which come from a file of `size` bytes."""
    config, state = architecture(contents, size), contents.state
    with torch.device("meta"):
        generator = Generator(config)
    rng = torch.Generator().manual_seed(0)
    tensors = {
        key: _weights(key, state[key]) if key in state else _fixed_buffer(key, value, rng)
        for key, value in generator.state_dict().items()
    }
    generator.load_state_dict(tensors, assign=True)
    generator.mean_latent = torch.zeros(config.w_dim)
    return generator


def _check_kinds(state: Mapping[str, LazyTensor], size: int) -> None:
    for key, value in state.items():
        if not getattr(value.dtype, "is_floating_point", False):
            raise ValueError(
                f"{key!r} is of type {str(value.dtype).removeprefix('torch.')}; "
                "floating-point numbers were expected."
            )
    claimed = sum(value.nbytes for value in state.values())
    if claimed > size:
        raise ValueError(f"Its tensors claim {claimed} bytes, and the whole file has {size}.")


def _weights(key: str, value: LazyTensor) -> Tensor:
    tensor = value.read().to(torch.float32)
    check_finite(key, tensor)
    if tensor.numel() and not in_bounds(tensor):
        raise ValueError(
            f"{key!r} holds numbers beyond {LARGEST:,.0f}, which draw flat colour: the file is "
            "damaged or diverged."
        )
    return tensor


def _fixed_buffer(key: str, value: Tensor, rng: torch.Generator) -> Tensor:
    """What some files leave out because it is not learnt: blur filters, and noise in old ones."""
    if key.endswith(".kernel"):
        return blur_kernel()
    return torch.randn(value.shape, generator=rng, device="cpu")


def _may_be_missing(key: str) -> bool:
    return key.endswith(".kernel") or key.startswith("noises.")


def _refuse_other_images(state: Mapping[str, LazyTensor]) -> None:
    """Name the generators that draw what cannot be used here."""
    if any(re.match(r"(label_)?embed(ding)?s?\.", key) for key in state):
        raise ValueError(
            "This generator is conditional: it draws what a label says, and only generators "
            "without labels can be used here."
        )
    side = state["input.input"].shape[2:] if "input.input" in state else (4, 4)
    if len(side) == 2 and side != (4, 4):
        kind = "images that are not square" if side[0] != side[1] else "another grid of sizes"
        raise ValueError(
            f"This generator begins with {side[0]} × {side[1]} features and not with 4 × 4, for "
            f"{kind}: only square ones of 4, 8, 16, … pixels can be used here."
        )
    channels = state["to_rgb1.bias"].shape[1:2] if "to_rgb1.bias" in state else (3,)
    if channels and channels != (3,):
        kinds = {1: "grey images", 4: "images with transparency"}
        raise ValueError(
            f"This generator draws {kinds.get(channels[0], 'other things than colours')} "
            f"({channels[0]} channels); only those of red, green and blue can be used here."
        )


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, LazyTensor]) -> None:
    """Raise a ValueError that names the first few of the tensors that do not fit."""
    missing = [key for key in expected if key not in state and not _may_be_missing(key)]
    wrong = [f"{key!r} is missing" for key in missing]
    wrong += [f"{brief(key)} does not belong" for key in state if key not in expected]
    wrong += [
        f"{key!r} is {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        advice = (
            "Check that the file is complete"
            if len(wrong) == len(missing)
            else "It is of another architecture, and its images would be others here: give one of "
            "rosinality's StyleGAN2"
        )
        raise ValueError(
            f"Not a StyleGAN2 generator as it should be: {', '.join(wrong[:3])}{more}. {advice}."
        )


def _mean_latent(latent_avg: object, config: GeneratorConfig) -> Tensor | None:
    """[w_dim], or None where it has to be computed."""
    if latent_avg is None:
        return None
    w_dim = config.w_dim
    shapes = ((w_dim,), (1, w_dim), (1, 1, w_dim), (config.num_ws, w_dim))
    if not isinstance(latent_avg, LazyTensor) or latent_avg.shape not in shapes:
        got = list(latent_avg.shape) if isinstance(latent_avg, LazyTensor) else type(latent_avg)
        raise ValueError(f"'latent_avg' is {got}; one vector of {w_dim} numbers was expected.")
    rows = _weights("latent_avg", latent_avg).reshape(-1, w_dim)
    return None if _differ(rows) else rows[0]


def _has_differing_rows(latent_avg: object, config: GeneratorConfig) -> bool:
    if not isinstance(latent_avg, LazyTensor) or latent_avg.shape != (config.num_ws, config.w_dim):
        return False
    return _differ(latent_avg.read().float())


def _differ(rows: Tensor) -> bool:
    return not torch.allclose(rows, rows[:1], rtol=1e-4, atol=1e-6)
