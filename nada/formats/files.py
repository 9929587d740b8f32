"""Reading and writing files: where the bundled ones lie, checks, writing whole or not at all."""

import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from torch import Tensor

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
LONGEST_NAME = 200  # of a tensor, in characters: the commonest have some 30
LONGEST_HEADER = 4 << 20  # of safetensors, in bytes; that of a generator has 30 thousand


class CheckpointError(ValueError):
    """A file that is missing or not a usable model; the message is a sentence for the user."""


def bundled_file(name: str | Path) -> Path:
    """Where a file of checkpoints/ lies, which is beside the packages and not in them.

    Raises:
        CheckpointError: the folder is missing, as it is behind a plain `pip install`.
    """
    if not CHECKPOINTS.is_dir():
        raise CheckpointError(
            f"The bundled weights are not here ({CHECKPOINTS} is missing): run from a checkout of "
            "the repository, or install it with `pip install -e .`."
        )
    return CHECKPOINTS / name


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to; it takes the place of `path` when all has gone well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        unfinished = Path(folder) / path.name
        yield unfinished
        os.replace(unfinished, path)


def write_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write the file whole or not at all."""
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with written_whole(path) as unfinished:
        safetensors.torch.save_file(plain, unfinished, dict(metadata))


def file_digest(path: str | Path, start: bytes = b"", algorithm: str = "sha256") -> str:
    """The hash of `start` and the file's contents, in hex."""
    digest = hashlib.new(algorithm, start, usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def refuse_stand_ins(path: Path) -> None:
    """Name the two kinds of file that come in place of weights when a download goes wrong.

    Raises:
        CheckpointError: a web page, or the pointer that Git LFS leaves.
    """
    with path.open("rb") as file:
        head = file.read(64).lstrip()
    if head.startswith(b"<"):
        raise CheckpointError(
            f"{path.name} is a web page, not weights: the download went wrong. "
            "Download the file itself again."
        )
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path.name} is only a Git LFS pointer; fetch the file itself with `git lfs pull`."
        )


def check_header(path: Path) -> None:
    """Refuse a header that would take safetensors a gigabyte and half a minute to read.

    Raises:
        CheckpointError: it is longer than LONGEST_HEADER.
    """
    with path.open("rb") as file:
        head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if LONGEST_HEADER < length <= path.stat().st_size:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file of a model (its header has "
            f"{length} bytes, and at most {LONGEST_HEADER} were expected): get another file."
        )


def check_finite(key: str, tensor: Tensor) -> None:
    """Raise a ValueError if the tensor called `key` holds nan or infinity."""
    # a sum is ten times as fast to take, and no finite one hides nan or infinity
    if not tensor.sum().isfinite() and not tensor.isfinite().all():
        raise ValueError(f"{key!r} holds nan or infinity: the file is damaged or diverged.")
