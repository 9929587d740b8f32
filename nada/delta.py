"""A domain as a file: the tensors that adaptation changed, and nothing else.

Saving, sharing, a strength slider and mixing domains are one idea: base weights W₀, changed
weights Wᵢ, and W₀ + Σ αᵢ(Wᵢ − W₀), where α may differ by resolution. A file comes from anyone, so
`Delta.load` reads safetensors only and checks all of it before use.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from nada.checkpoint import fingerprint, sha256, write_safetensors
from nada.formats.files import LARGEST, in_bounds
from nada.formats.messages import plain
from nada.formats.metadata import FORMAT, read_metadata, write_metadata
from nada.generator import Generator

MAX_BYTES = 160 * 2**20  # all weights of the largest generator, in float32, are 122 MB
MAX_HEADER = 2**20  # bytes, three times what so many tensors and the longest metadata take
MAX_TENSORS = 1000  # the largest generator has 200
NAMES = re.compile(r"(style|input|conv1|to_rgb1|convs|to_rgbs|noises)\.[a-z0-9_.]{1,60}")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class DeltaError(ValueError):
    """A domain file that cannot be used; the message is a sentence for the user."""


@dataclass(frozen=True)
class Strength:
    """How much of a domain to apply, by the resolution of the layers: 0 none of it, 1 all.

    The bands are those of styles in StyleGAN's paper (arXiv 1812.04948, 3.1): coarse 4–8 pixels
    (pose, shape of the face), middle 16–32 (features, hair), fine from 64 up (colours, texture).
    Zeros and ones swap layers (arXiv 2010.05334).

    The mapping network has no resolution, and goes with the coarse layers: they and the mapping
    decide who a seed is, so that a domain at the fine layers alone leaves people as they were.

    `a * b` multiplies band by band, also by a number; 0 throughout is false.
    """

    coarse: float
    middle: float
    fine: float

    @classmethod
    def of(cls, weight: "Weight") -> "Strength":
        """A strength as it is, and a number as the same strength of all bands."""
        return weight if isinstance(weight, Strength) else cls(weight, weight, weight)

    @property
    def bands(self) -> tuple[float, float, float]:
        """Coarse, middle, fine."""
        return astuple(self)

    @property
    def is_even(self) -> bool:
        """Whether it is the same throughout."""
        return self.coarse == self.middle == self.fine

    @property
    def mean(self) -> float:
        """The one number nearest to it; exact where it is even."""
        return self.coarse if self.is_even else sum(self.bands) / 3

    def at(self, resolution: int | None) -> float:
        """That of layers of so many pixels; None for the mapping network."""
        if resolution is None or resolution <= 8:
            return self.coarse
        return self.middle if resolution <= 32 else self.fine

    def scaled(self) -> "Strength":
        """In the same proportion, the largest band being 1; 1 throughout where all are 0."""
        most = max(self.bands, key=abs)
        return Strength(*(band / most for band in self.bands)) if most else Strength.of(1.0)

    def towards(self, other: "Strength", share: float) -> "Strength":
        """The strength at some share of the way to another, on a line in each band."""
        return Strength(*(a + (b - a) * share for a, b in zip(self.bands, other.bands)))

    def __mul__(self, other: "Weight") -> "Strength":
        return Strength(*(a * b for a, b in zip(self.bands, Strength.of(other).bands)))

    __rmul__ = __mul__

    def __bool__(self) -> bool:
        return any(self.bands)

    def __str__(self) -> str:
        if self.is_even:
            return f"{self.coarse:g}"
        return f"coarse {self.coarse:g}, middle {self.middle:g}, fine {self.fine:g}"


BANDS = tuple(band.name for band in fields(Strength))
Weight = float | Strength


@dataclass(frozen=True)
class Delta:
    """The changed tensors of an adapted generator.

    Args:
        base_fingerprint: `fingerprint` of the generator they were changed from.
        tensors: name in the state dict → the new tensor, float32 on the CPU.
        metadata: what it says of itself (`nada.facts`): prompts, settings, measures. That of a
            loaded one is checked and plain (`nada.formats.metadata`).
    """

    base_fingerprint: str
    tensors: dict[str, Tensor]
    metadata: dict = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write safetensors; the header carries base, metadata and a SHA-256 of it all.

        Raises:
            TypeError: the metadata cannot be written as JSON.
            DeltaError: nor read again.
        """
        try:
            text = write_metadata(self.metadata)
        except ValueError as error:
            raise DeltaError(f"The domain cannot be saved: its metadata {error}.") from error
        header = {"format": FORMAT, "base": self.base_fingerprint, "metadata": text}
        digest = sha256(self.tensors, self.base_fingerprint, text)
        write_safetensors(self.tensors, path, {**header, "sha256": digest})

    @classmethod
    def load(cls, path: str | Path) -> "Delta":
        """Read a domain file, from anyone: nothing of what it holds has to be checked again but
        whether it fits a generator.

        Raises:
            DeltaError: it is missing, broken, foreign, too large, was edited, or holds what no
                domain does.
        """
        path, name = Path(path), plain(Path(path).name)[:80]
        _check_size(path, name)
        header, tensors = _read(path, name)
        base, text = header.get("base", ""), header.get("metadata", "")
        if header.get("sha256") != sha256(tensors, base, text):
            raise DeltaError(
                f"{name} was changed after it was saved: its checksum does not fit. "
                "Get the file again from where it was made."
            )
        if not FINGERPRINT.fullmatch(base):
            raise DeltaError(
                f"{name} does not say which generator it was made from: a fingerprint of 64 "
                "digits was expected; make the domain again."
            )
        try:
            return cls(base, tensors, read_metadata(text))
        except ValueError as error:
            raise DeltaError(f"The metadata of {name} {error}; make the domain again.") from error


def diff(base: Generator, adapted: Generator, metadata: Mapping | None = None) -> Delta:
    """The tensors in which `adapted` differs from `base`.

    Args:
        base, adapted: two generators of one architecture, on any devices.
        metadata: what the domain file is to say of itself.

    Raises:
        DeltaError: the two have different architectures.
    """
    if base.config != adapted.config:
        raise DeltaError(
            f"The adapted generator is {adapted.config} and the base {base.config}; "
            "only generators of one architecture can be compared."
        )
    before = base.state_dict()
    changed = {
        key: value.detach().to("cpu", torch.float32, copy=True).contiguous()
        for key, value in adapted.state_dict().items()
        if not torch.equal(value, before[key].to(value.device))
    }
    return Delta(fingerprint(base), changed, dict(metadata or {}))


@torch.no_grad()
def blend(base: Generator, deltas: Sequence[tuple[Delta, Weight]]) -> Generator:
    """A new generator with the weights W₀ + Σ αᵢ(Wᵢ − W₀); `base` is left as it is.

    One delta of weight 1 gives its tensors bit for bit, weight 0 those of `base`; below 0 and
    above 1 it extrapolates.

    Args:
        base: the generator that all deltas were made from.
        deltas: pairs (delta, weight), the weight a number or a `Strength` by resolution.

    Raises:
        DeltaError: a delta of another base, a weight that is not a number, or a mix of numbers that
            no domain file may hold.
    """
    base_fingerprint = fingerprint(base)
    strengths = [(delta, Strength.of(weight)) for delta, weight in deltas]
    for delta, strength in strengths:
        if not all(abs(weight) <= LARGEST for weight in strength.bands):  # nan neither
            raise DeltaError(f"The weight of a domain is {strength}; give a number such as 0.7.")
        check_base(delta, base_fingerprint)
        check_shapes(delta, base)
    generator = copy.deepcopy(base).eval().requires_grad_(False)
    for key, value in generator.state_dict().items():
        resolution = generator.resolution_of(key)
        parts = [
            (d.tensors[key].to(value), a.at(resolution)) for d, a in strengths if key in d.tensors
        ]
        parts = [(tensor, a) for tensor, a in parts if a != 0]
        if len(parts) == 1:
            value.copy_(torch.lerp(value, *parts[0]))  # exact at 1, which the sum is not
        elif parts:
            value.copy_(value + sum(a * (tensor - value) for tensor, a in parts))
        if parts and not in_bounds(value):
            raise DeltaError(
                f"These weights make numbers beyond {LARGEST:,.0f} of {key!r}: "
                "give some nearer to 0."
            )
    if any(
        key.startswith("style.") for delta, a in strengths if a.at(None) for key in delta.tensors
    ):
        generator.update_mean_latent()  # another mapping has another mean
    return generator


def check_base(delta: Delta, base_fingerprint: str) -> None:
    """Refuse a domain of another generator than the one with this fingerprint.

    Args:
        delta: the domain.
        base_fingerprint: `fingerprint` of the generator that is loaded.

    Raises:
        DeltaError: the fingerprints differ.
    """
    if delta.base_fingerprint != base_fingerprint:
        raise DeltaError(
            "This domain was made from another generator (fingerprint "
            f"{delta.base_fingerprint[:12]}…, loaded is {base_fingerprint[:12]}…); "
            "load the generator it belongs to."
        )


def check_shapes(delta: Delta, base: Generator) -> None:
    """Refuse a domain whose tensors are not the generator's.

    Args:
        delta: the domain.
        base: the generator that is loaded.

    Raises:
        DeltaError: a tensor that the generator lacks, or has in another shape.
    """
    shapes = {key: value.shape for key, value in base.state_dict().items()}
    for key, value in delta.tensors.items():
        if shapes.get(key) != value.shape:
            raise DeltaError(
                f"The domain's tensor {key!r} {list(value.shape)} does not fit the generator; "
                "make the domain again."
            )


def fits(delta: Delta, base: Generator, base_fingerprint: str) -> bool:
    """Whether a domain can be applied to a generator, whose fingerprint is given."""
    try:
        check_base(delta, base_fingerprint)
        check_shapes(delta, base)
    except DeltaError:
        return False
    return True


# Reading what anyone may have written; `name` is what to call the file


def _check_size(path: Path, name: str) -> None:
    """Refuse by size, and by the length that the header claims, before anything is read."""
    if not path.is_file():
        raise DeltaError(f"There is no domain file {name!r}; give the path of a saved one.")
    size = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(start := file.read(8), "little")
    if size > MAX_BYTES:
        raise DeltaError(
            f"{name} has {size / 2**20:.0f} MB; a domain file has "
            f"{MAX_BYTES / 2**20:.0f} MB at most."
        )
    if start.startswith((b"PK", b"\x80")) and header > size:
        raise DeltaError(
            f"{name} is a file of PyTorch or a pickle, and domain files are .safetensors that an "
            "adaptation saved; if it holds a generator, give it with --generator."
        )
    if size < 10 or header > min(MAX_HEADER, size - 8):
        raise _broken(name)


def _broken(name: str) -> DeltaError:
    return DeltaError(
        f"{name} is not a domain file, or is cut off; "
        "give a .safetensors file that an adaptation saved."
    )


def _read(path: Path, name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header's texts, and the tensors, which are a domain's."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            header, keys = file.metadata() or {}, list(file.keys())
            if header.get("format") != FORMAT:
                whole = any(key.endswith(("input.input", "synthesis.b4.const")) for key in keys)
                other = ": it is a whole generator, to be given with --generator" if whole else ""
                raise DeltaError(
                    f"{name} is a safetensors file but not a domain file of this program{other}; "
                    "give a file that an adaptation saved."
                )
            if len(keys) > MAX_TENSORS:
                raise DeltaError(
                    f"{name} holds {len(keys)} tensors; a domain has {MAX_TENSORS} at most."
                )
            for key in keys:
                if not NAMES.fullmatch(key):
                    raise DeltaError(
                        f"{name} holds {key[:60]!r}, which is not a tensor of a generator."
                    )
            tensors = {key: file.get_tensor(key) for key in keys}
    except DeltaError:
        raise
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise _broken(name) from error
    for key, value in tensors.items():
        _check_tensor(name, key, value)
    return header, tensors


def _check_tensor(name: str, key: str, value: Tensor) -> None:
    if value.dtype != torch.float32 or not 1 <= value.ndim <= 5 or not value.numel():
        raise DeltaError(
            f"{name} holds {key!r} as {value.dtype} {list(value.shape)}; "
            "float32 with one to five dimensions was expected."
        )
    if not in_bounds(value):
        raise DeltaError(
            f"{name} holds nan or infinity, or numbers beyond {LARGEST:,.0f}, in {key!r}; "
            "make the domain again."
        )
