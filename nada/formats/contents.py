"""What a file holds of a generator, whatever program wrote it: the first bytes decide the format.

A format is a reader of bytes (safetensors, pickles) and a spelling of names (rosinality's, which is
ours, or NVIDIA's); `nada.formats.search` finds the generator between the two.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from nada.formats import basicsr, nvidia, tensorflow
from nada.formats.attributes import at_usual_rates, clamp_of, refuse_unusual
from nada.formats.files import CheckpointError, check_header, refuse_stand_ins
from nada.formats.messages import brief, first_line
from nada.formats.metadata import FORMAT
from nada.formats.nvidia import Translated
from nada.formats.pickles import reading_pickle
from nada.formats.recognised import refuse, refuse_domain
from nada.formats.remarks import Remark, remark
from nada.formats.search import (
    BASICSR,
    MEANS,
    NVIDIA,
    OURS,
    Found,
    Listing,
    find_generator,
    list_tensors,
)
from nada.formats.slices import LazyTensor

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
MOST_TOLD = 30  # names of what lies beside a generator
PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"7z\xbc\xaf": "7-Zip",
    b"Rar!": "RAR",
    b"\xfd7zXZ": "xz",
}  # first bytes of archives that hold files of another name
OTHERS = {
    b"\x89HDF": "an HDF5 file, as Keras writes it",
    b"GGUF": "a GGUF file, as language models have it",
    b"\x93NUMPY": "an array of NumPy",
}


@dataclass(frozen=True)
class Contents:
    """What a file holds of a generator, still in the file.

    Args:
        state: the state dict, in our names.
        latent_avg: [w_dim], or one such row for each layer, or None where the file has none.
        used: what kind of file it is, and what of it was taken.
        clamp: where features are cut off (`GeneratorConfig.clamp`), or None.
        notes: what is unusual about it.
        doubts: what may make its images others than those of the program that wrote it.
        top: what else lies in the file, by the names of its first level.
    """

    state: Mapping[str, LazyTensor]
    latent_avg: object
    used: tuple[Remark, ...]
    clamp: float | None = None
    notes: tuple[Remark, ...] = ()
    doubts: tuple[Remark, ...] = ()
    top: tuple[str, ...] = ()

    @property
    def layout(self) -> str:
        """What it is and what of it was taken, in English."""
        return " ".join(map(str, self.used))


@contextmanager
def read_contents(path: Path) -> Iterator[Contents]:
    """What the file at `path` holds; its tensors can be read until the context ends.

    Raises:
        CheckpointError: a file of another kind, or a damaged one.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no generator file {str(path)!r}: check the path.")
    refuse_stand_ins(path)
    if is_safetensors(path):
        state, metadata = lazy_safetensors(path)
        with _named(path):
            if metadata.get("format") == FORMAT:
                refuse_domain()
            contents = _generator(state, "safetensors")
        yield contents
        return
    with reading_pickle(path) as pickled:
        with _named(path):
            contents = _generator(pickled, "PyTorch")
        yield contents


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Put the file's name before a sentence."""
    try:
        yield
    except CheckpointError as error:
        error.args = (f"{path.name}: {error}",)
        raise


def is_safetensors(path: Path) -> bool:
    """Whether the first bytes are those of a safetensors file, or only its name can tell.

    Raises:
        CheckpointError: they are those of other programs.
    """
    with path.open("rb") as file:
        head = file.read(265)
    if head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= path.stat().st_size:
        return True
    packed = next((name for start, name in PACKED.items() if head.startswith(start)), None)
    if packed or head[257:262] == b"ustar":
        raise CheckpointError(
            f"{path.name} is an archive ({packed or 'tar'}): unpack it, and give the file in it."
        )
    for start, name in OTHERS.items():
        if head.startswith(start):
            raise CheckpointError(
                f"{path.name} is {name}: a .pt, .pkl or .safetensors file of a model was expected."
            )
    return path.suffix.lower() == ".safetensors" and not head.startswith((b"PK", b"\x80"))


def _generator(data: object, format: str) -> Contents:
    """The generator in what was read from a file of some format."""
    if tensorflow.holds_networks(data):
        ours = tensorflow.translate(data)
        return _contents(ours, (ours.used,), tensorflow.others(data))
    listing = list_tensors(data)
    found = find_generator(listing)
    if found is None:
        refuse(listing)
    ours = TRANSLATE[found.spelling](found, format)
    return _contents(ours, (ours.used, *_left_aside(found)), _beside(listing, found))


def _as_it_is(found: Found, format: str) -> Translated:
    """A generator that has our names."""
    refuse_unusual(found)
    state, rates = at_usual_rates(found)
    used = remark("state_dict", format=format)
    if found.name:
        used = remark("named", format=format, name=brief(found.name))
    return Translated(state, found.mean, clamp_of(found), used, tuple(rates))


TRANSLATE = {OURS: _as_it_is, NVIDIA: nvidia.translate, BASICSR: basicsr.translate}


def _contents(ours: Translated, used: tuple[Remark, ...], top: tuple[str, ...]) -> Contents:
    notes = list(ours.notes)
    if ours.mean is None:
        notes.append(remark("no_mean"))
    if ours.clamp is not None:
        notes.append(remark("clamp", clamp=f"{ours.clamp:g}"))
    return Contents(ours.state, ours.mean, used, ours.clamp, tuple(notes), ours.doubts, top)


def _left_aside(found: Found) -> list[Remark]:
    """Which other generators there are."""
    names = [brief(prefix.rstrip(".") or "the rest") for prefix in found.others[:3]]
    return [remark("left_aside", names=", ".join(names))] if names else []


def _beside(listing: Listing, found: Found) -> tuple[str, ...]:
    """The names of the first level but those of the generator and its mean."""
    own = found.prefix.partition(".")[0]
    if not own:
        roots = {name.partition(".")[0] for name in found.tensors}
        names = [name for name in listing.top if name.partition(".")[0] not in roots]
    else:
        first = dict.fromkeys(name.partition(".")[0] for name in listing.top)
        names = [name for name in first if name != own]
    if found.mean is not None:
        names = [name for name in names if name not in MEANS]
    return tuple(names[:MOST_TOLD])


def lazy_safetensors(path: Path) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """The tensors of a file that the library has found sound, lengths, offsets and all, and its
    texts.

    Raises:
        CheckpointError: it is not sound.
    """

    def read(key: str) -> Tensor:
        # opened for each tensor: one mapping for all would stay in memory beside the copies
        with safe_open(path, "pt") as file:
            return file.get_tensor(key).clone()

    check_header(path)
    try:
        with safe_open(path, "pt") as file:
            slices = {key: file.get_slice(key) for key in file.keys()}
            tensors = {
                key: LazyTensor(
                    tuple(piece.get_shape()),
                    TYPES.get(piece.get_dtype(), piece.get_dtype()),
                    lambda key=key: read(key),
                )
                for key, piece in slices.items()
            }
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a readable safetensors file ({first_line(error)}); "
            "it may be cut off: copy or download it again."
        ) from error
