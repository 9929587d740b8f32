"""Generators on disk: the bundled one, safetensors files, and PyTorch files in the common layout.

A file is never trusted: pickles are read with `weights_only=True`, and everything that could be
wrong with one ends in a `CheckpointError` whose sentence says what it is and what to do.
"""

import argparse
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from nada.generator import Generator, GeneratorConfig, blur_kernel

CHECKPOINTS = Path(__file__).resolve().parent.parent / "checkpoints"
BUNDLED = {"demo": CHECKPOINTS / "generator.safetensors"}


class CheckpointError(ValueError):
    """A file that is no usable generator; the message is a sentence for the user."""


def pick_device(name: str) -> torch.device:
    """The device called `name`, such as "cpu"; "auto" is an accelerator if torch has one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"The device {name!r} cannot be used ({_short(error)}); 'auto' takes what there is."
        ) from error
    return torch.device(name)


def load_generator(source: str | Path, device: str | torch.device = "cpu") -> Generator:
    """A trained generator, in evaluation mode and without gradients.

    Args:
        source: "demo" for the bundled one; or the path of a safetensors file; or of a PyTorch file
            with `g_ema`, `g` or the bare state dict, and `latent_avg` or not. Any size from 4 to
            1024. Without `latent_avg` the mean latent is computed over 4096 z; noise buffers that
            an old file lacks are drawn from a fixed seed.
        device: where to put it.

    Returns:
        A `Generator` in float32.

    Raises:
        CheckpointError: no such file, or no StyleGAN2 generator in it.
    """
    path = BUNDLED.get(str(source), Path(source))
    contents = _read(path)
    state, latent_avg = _generator_state(contents)
    try:
        generator = _build(state)
        if latent_avg is None:
            generator.update_mean_latent()
        else:
            generator.mean_latent.copy_(_mean_latent(latent_avg, generator.w_dim))
    except ValueError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    return generator.eval().requires_grad_(False).to(device)


def save_generator(
    generator: Generator, path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a generator as safetensors: weights in float16, and its mean latent as `latent_avg`.

    Raises:
        ValueError: a weight does not fit float16.
    """
    tensors = {key: value.half() for key, value in generator.state_dict().items()}
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{key!r} holds numbers that float16 cannot; nothing was saved.")
    write_safetensors({**tensors, "latent_avg": generator.mean_latent}, path, metadata or {})


def write_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write the file whole or not at all: beside its place first, then moved there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / path.name
        plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        safetensors.torch.save_file(plain, unfinished, dict(metadata))
        os.replace(unfinished, path)


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
    """What tells one generator from another: the SHA-256 of its state dict."""
    return sha256(generator.state_dict())


def _read(path: Path) -> dict:
    """The contents of a file: tensors by name, or whatever dict a PyTorch file holds."""
    if not path.is_file():
        raise CheckpointError(
            f"There is no generator file {str(path)!r}; give 'demo' or the path of a .pt or "
            ".safetensors file."
        )
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(b"<"):
        raise CheckpointError(
            f"{path.name} is a web page, not a generator: the download went wrong. "
            "Download the file itself again."
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path.name} is only a Git LFS pointer; fetch the file itself with `git lfs pull`."
        )
    contents = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not isinstance(contents, dict):
        raise CheckpointError(
            f"{path.name} holds one {type(contents).__name__}; a dict of tensors was expected."
        )
    return contents


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file ({_short(error)}); "
            "it may be cut off: copy or download it again."
        ) from error


def _read_torch(path: Path) -> object:
    try:
        # training scripts store their command line beside the weights: a bag of plain values
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except Exception as error:  # unpickling what anyone wrote can raise anything
        raise CheckpointError(
            f"{path.name} cannot be read as a PyTorch file of tensors ({_short(error)}); "
            "a .pt file with 'g_ema' or a .safetensors file was expected."
        ) from error


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120].rstrip(". ")


def _generator_state(contents: dict) -> tuple[dict, object]:
    """The generator's own entries (its moving average where there is one) and `latent_avg`."""
    for name in ("g_ema", "g"):
        if isinstance(contents.get(name), dict):
            return contents[name], contents.get("latent_avg")
    state = {key: value for key, value in contents.items() if key != "latent_avg"}
    return state, contents.get("latent_avg")


def _build(state: dict) -> Generator:
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"The entry {key!r} is of type {type(value).__name__} and not a tensor; "
                "give the generator's state dict, alone or as 'g_ema'."
            )
    config = GeneratorConfig.from_state_dict(state)
    with torch.device("meta"):
        generator = Generator(config)
    expected = generator.state_dict()
    state = {**_fixed_buffers(expected, state), **state}
    _compare(expected, state)
    state = {key: value.to(torch.float32, copy=True).contiguous() for key, value in state.items()}
    for key, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{key!r} holds nan or infinity: the file is damaged or diverged.")
    generator.load_state_dict(state, assign=True)
    generator.mean_latent = torch.zeros(config.w_dim)
    return generator


def _fixed_buffers(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict:
    """What some files leave out because it is not learnt: blur filters, and noise in old ones."""
    rng = torch.Generator().manual_seed(0)
    missing = {key: value for key, value in expected.items() if key not in state}
    blurs = {key: blur_kernel() for key in missing if key.endswith(".kernel")}
    noises = {
        key: torch.randn(value.shape, generator=rng, device="cpu")
        for key, value in missing.items()
        if key.startswith("noises.")
    }
    return blurs | noises


def _compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise a ValueError that names the first few of the tensors that do not fit."""
    wrong = [f"{key!r} is missing" for key in expected if key not in state]
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
    if not isinstance(latent_avg, Tensor) or latent_avg.numel() != w_dim:
        got = list(latent_avg.shape) if isinstance(latent_avg, Tensor) else type(latent_avg)
        raise ValueError(f"'latent_avg' is {got}; one vector of {w_dim} numbers was expected.")
    return latent_avg.float().reshape(-1)
