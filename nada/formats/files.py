"""Reading and writing files: where the bundled ones lie, checks, writing whole or not at all."""

import errno
import hashlib
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

CHECKPOINTS = Path(__file__).resolve().parents[2] / "checkpoints"
LARGEST = 1e6  # of all numbers; the largest weights of real generators are some 1000
LONGEST_NAME = 200  # of a tensor, in characters: the commonest have some 30
LONGEST_HEADER = 4 << 20  # of safetensors, in bytes; that of a generator has 30 thousand
UNFINISHED = ".unfinished-"  # begins the name of a folder that goes when its file is whole
PROBE = 1 << 14  # bytes written where a file is to lie, to see whether there is room at all


class CheckpointError(ValueError):
    """A file that is missing or not a usable model; the message is a sentence for the user."""


class PlaceError(OSError):
    """A place where a file cannot be written; the message is a sentence, `errno` the cause's."""


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


# Writing


@contextmanager
def written_whole(path: str | Path, *errors: type[Exception]) -> Iterator[Path]:
    """A name beside `path` to write to; it takes the place of `path` when all has gone well.

    The file gets the mode that the umask leaves to new files, whatever the library that writes it
    thinks of that.

    Args:
        path: the file; its folder is made.
        errors: what a library raises, beside OSError, that cannot write.

    Raises:
        PlaceError: instead of an OSError or one of `errors`.
    """
    path = Path(path)
    with _errors_told(path, errors):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _beside(path) as folder:
            (new := folder / "new").touch()
            yield (unfinished := folder / path.name)
            unfinished.chmod(new.stat().st_mode)
            os.replace(unfinished, path)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder on the same disk as `path`, gone in the end."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=UNFINISHED) as folder:
        yield Path(folder)


@contextmanager
def _errors_told(path: Path, errors: Sequence[type[Exception]] = ()) -> Iterator[None]:
    try:
        yield
    except PlaceError:
        raise
    except (OSError, UnicodeEncodeError, *errors) as error:
        raise _place_error(path, error) from error


def _place_error(path: Path, error: Exception) -> PlaceError:
    """The sentence for an error of writing."""
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"os error (\d+)", str(error))):
        number = int(told[1])  # as safetensors quotes it
    elif number is None and _is_full(path):
        number = errno.ENOSPC  # PyTorch tells of some position
    if number == errno.ENOSPC:
        sentence = f"The disk is full: {path} cannot be written. Make room, or give another place."
    else:
        reason = os.strerror(number) if number else str(error).strip().splitlines()[0]
        sentence = f"{path} cannot be written: {reason[:1].lower()}{reason[1:]}."
    place_error = PlaceError(sentence)
    place_error.errno = number
    return place_error


def _is_full(path: Path) -> bool:
    with suppress(OSError):
        return shutil.disk_usage(path.parent).free < PROBE
    return False


def check_place(path: str | Path, suffixes: Sequence[str] = (), overwrite: bool = True) -> None:
    """Try to write where a file is to lie, before it costs any work; leaves nothing behind.

    Args:
        path: the file; its folder need not be there yet.
        suffixes: how its name may end, in small letters; none: in any way.
        overwrite: whether a file that is there already may be replaced.

    Raises:
        ValueError: the name promises another format.
        PlaceError: a folder, a device, a file that is there, no room, no permission.
    """
    path = Path(path)
    with _errors_told(path):
        if path.is_dir():
            raise PlaceError(f"{path} is a folder; give the name of a file.")
        if suffixes and path.suffix.lower() not in suffixes:
            raise ValueError(f"{path} should end in {' or '.join(suffixes)}.")
        if path.exists() and not path.is_file():
            raise PlaceError(f"{path} is a device or a pipe; give the name of a file.")
        if os.path.lexists(path) and not overwrite:
            raise PlaceError(
                f"{path} is there already; give another name, or --overwrite to replace it."
            )
        with _folders_for_now(path.parent), _beside(path) as folder:
            (folder / path.name).write_bytes(bytes(PROBE))


@contextmanager
def _folders_for_now(folder: Path) -> Iterator[None]:
    """The folder is there, with those above it; in the end those go that were not."""
    above = [folder, *folder.parents]
    there = next((i for i, place in enumerate(above) if place.exists()), len(above))
    if there < len(above) and not above[there].is_dir():
        raise PlaceError(f"{above[there]} is a file, so nothing can lie in it: give another place.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for made in above[:there]:
            with suppress(OSError):  # not made after all, or in use by now
                made.rmdir()


def free_name(path: str | Path) -> Path:
    """`path`, or with "-2", "-3", … before its ending the first name that no file has."""
    path, number = Path(path), 1
    candidate = path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def write_safetensors(
    tensors: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write the file whole or not at all.

    Raises:
        PlaceError: it cannot be written.
    """
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    with written_whole(path, SafetensorError) as unfinished:
        safetensors.torch.save_file(plain, unfinished, dict(metadata))


# Reading


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


def in_bounds(value: Tensor) -> bool:
    """Whether all numbers are of a size that a generator's may have."""
    return bool(value.abs().max() <= LARGEST)  # nan compares as false
