"""Generators from any file: bundled, local or on the Hub; PyTorch's, safetensors or NVIDIA's.

A file is never trusted: no code in it is run, nothing is read that is not needed, and everything
that could be wrong with one ends in a `CheckpointError` whose sentence says what it is and what to
do. Tensors are read one at a time, so that loading needs little more memory than the weights.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nada.formats.catalogue import ResolvedFile, locate
from nada.formats.files import (
    CHECKPOINTS,
    LARGEST,
    LONGEST_NAME,
    CheckpointError,
    check_finite,
    check_header,
    in_bounds,
    refuse_stand_ins,
    write_safetensors,
    written_whole,
)
from nada.formats.hub import Report
from nada.formats.messages import brief, first_line
from nada.formats.nvidia import generator_state, holds_generator
from nada.formats.pickles import reading_pickle
from nada.formats.slices import LazyTensor
from nada.generator import Generator, GeneratorConfig, blur_kernel

__all__ = [
    "CHECKPOINTS",
    "CheckpointError",
    "Contents",
    "fingerprint",
    "load_generator",
    "read_contents",
    "save_generator",
    "sha256",
    "write_safetensors",
]

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}  # of safetensors
WIDEST = 4096  # z and w; 512 is usual


@dataclass(frozen=True)
class Contents:
    """What a file holds of a generator, still in the file.

    Args:
        state: the state dict, in our names.
        latent_avg: [w_dim], or None where the file has none.
        layout: what kind of file it is, in words.
    """

    state: Mapping[str, LazyTensor]
    latent_avg: object
    layout: str


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
            path; a `ResolvedFile` from `locate`. The file is safetensors, or PyTorch's with
            `g_ema`, `g` or the bare state dict, or NVIDIA's pickle of StyleGAN2 or StyleGAN2-ADA.
            Any size from 4 to 1024. Without a mean latent in it that is computed over 4096 z;
            noise buffers that an old file lacks are drawn from a fixed seed.
        device: where to put it.
        revision, sha256, progress: see `locate`.

    Returns:
        A `Generator` in float32.

    Raises:
        CheckpointError: no such file, or no StyleGAN2 generator in it.
    """
    path = locate(source, revision, sha256, progress).path
    with read_contents(path) as contents:
        try:
            generator = _build(contents.state, path.stat().st_size)
            if contents.latent_avg is None:
                generator.update_mean_latent()
            else:
                generator.mean_latent.copy_(_mean_latent(contents.latent_avg, generator.w_dim))
        except ValueError as error:
            raise CheckpointError(f"{path.name}: {error}") from error
    return generator.eval().requires_grad_(False).to(device)


@contextmanager
def read_contents(path: Path) -> Iterator[Contents]:
    """What the file at `path` holds; its tensors can be read until the context ends.

    Raises:
        CheckpointError: a file of another kind, or a damaged one.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no generator file {str(path)!r}: check the path.")
    refuse_stand_ins(path)
    if path.suffix == ".safetensors":
        state = _lazy_safetensors(path)
        mean = state.pop("latent_avg", None)
        yield Contents(state, mean, "a safetensors file")
        return
    with reading_pickle(path) as contents:
        yield _pytorch(contents, path)


def _pytorch(contents: object, path: Path) -> Contents:
    try:
        if holds_generator(contents):
            return Contents(*generator_state(contents))
    except CheckpointError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{path.name} holds one {type(contents).__name__}; a dict of tensors was expected."
        )
    for name in ("g_ema", "g"):
        if isinstance(contents.get(name), dict):
            layout = f"a PyTorch file with {name!r}"
            return Contents(contents[name], contents.get("latent_avg"), layout)
    state = {key: value for key, value in contents.items() if key != "latent_avg"}
    return Contents(state, contents.get("latent_avg"), "a PyTorch file of one state dict")


def _lazy_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file that the library has found sound: lengths, offsets and all."""

    def read(key: str) -> Tensor:
        # opened for each tensor: one mapping for all would stay in memory beside the copies
        with safe_open(path, "pt") as file:
            return file.get_tensor(key).clone()

    check_header(path)
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            return {
                key: LazyTensor(
                    tuple(piece.get_shape()),
                    TYPES.get(piece.get_dtype(), piece.get_dtype()),
                    lambda key=key: read(key),
                )
                for key, piece in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file ({first_line(error)}); "
            "it may be cut off: copy or download it again."
        ) from error


def save_generator(
    generator: Generator,
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write a generator and its mean latent as `latent_avg`, whole or not at all.

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
    mean = generator.mean_latent.cpu()
    if Path(path).suffix.lower() in (".pt", ".pth"):
        with written_whole(path, RuntimeError) as unfinished:
            torch.save({"g_ema": tensors, "latent_avg": mean}, unfinished)
    else:
        write_safetensors({**tensors, "latent_avg": mean}, path, metadata or {})


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
    """SHA-256 of a generator's state dict, in hex: the same only for the same weights."""
    return sha256(generator.state_dict())


# From tensors to a generator


def _build(state: Mapping[str, LazyTensor], size: int) -> Generator:
    """A generator of `state`, which comes from a file of `size` bytes."""
    _check_kinds(state, size)
    config = GeneratorConfig.from_state_dict(state)
    if max(config.z_dim, config.w_dim) > WIDEST:
        raise ValueError(
            f"Not a StyleGAN2 generator: z and w have {config.z_dim} and {config.w_dim} numbers; "
            f"at most {WIDEST} were expected, 512 are usual."
        )
    with torch.device("meta"):
        generator = Generator(config)
    expected = generator.state_dict()
    _compare(expected, state)
    rng = torch.Generator().manual_seed(0)
    tensors = {
        key: _weights(key, state[key]) if key in state else _fixed_buffer(key, value, rng)
        for key, value in expected.items()
    }
    generator.load_state_dict(tensors, assign=True)
    generator.mean_latent = torch.zeros(config.w_dim)
    return generator


def _check_kinds(state: Mapping[str, object], size: int) -> None:
    for key, value in state.items():
        if not isinstance(key, str) or len(key) > LONGEST_NAME:
            raise ValueError(
                f"It holds a tensor called {brief(key)}; names of at most {LONGEST_NAME} letters "
                "were expected: give the generator's state dict, alone or as 'g_ema'."
            )
        if not isinstance(value, LazyTensor):
            raise ValueError(
                f"The entry {key!r} is of type {type(value).__name__} and not a tensor; "
                "give the generator's state dict, alone or as 'g_ema'."
            )
        if not getattr(value.dtype, "is_floating_point", False):
            raise ValueError(
                f"{key!r} is of type {str(value.dtype).removeprefix('torch.')}; "
                "floating-point numbers were expected."
            )
    if not any(str(key).startswith(("style.", "conv1.", "convs.")) for key in state):
        names = ", ".join(repr(key) for key in list(state)[:3]) or "none"
        raise ValueError(
            f"Not a StyleGAN2 generator: it holds {len(state)} tensors, such as {names}; "
            "the names style, input, conv1, to_rgb1, convs, to_rgbs, noises were expected."
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


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, LazyTensor]) -> None:
    """Raise a ValueError that names the first few of the tensors that do not fit."""
    missing = [key for key in expected if key not in state and not _may_be_missing(key)]
    wrong = [f"{key!r} is missing" for key in missing]
    wrong += [f"{key!r} does not belong" for key in state if key not in expected]
    wrong += [
        f"{key!r} is {list(state[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(
            f"Not a StyleGAN2 generator as it should be: {', '.join(wrong[:3])}{more}. "
            "Check that the file is complete and of the common PyTorch layout."
        )


def _mean_latent(latent_avg: object, w_dim: int) -> Tensor:
    if not isinstance(latent_avg, LazyTensor) or latent_avg.shape not in ((w_dim,), (1, w_dim)):
        got = list(latent_avg.shape) if isinstance(latent_avg, LazyTensor) else type(latent_avg)
        raise ValueError(f"'latent_avg' is {got}; one vector of {w_dim} numbers was expected.")
    return _weights("latent_avg", latent_avg).reshape(-1)
