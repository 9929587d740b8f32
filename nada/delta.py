"""A domain as a file: the tensors that adaptation changed, and nothing else.

Saving, sharing, a strength slider and mixing domains are one idea: base weights W₀, changed
weights Wᵢ, and W₀ + Σ αᵢ(Wᵢ − W₀), where α may differ by resolution. A domain of styles
(StyleDomain, arXiv 2212.10229) changes the biases b of the modulations alone, an offset b − b₀ of
each style, and so can be carried over to generators that were trained on from its own. A file comes
from anyone, so `Delta.load` reads safetensors only and checks all of it before use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from nada.checkpoint import family_agreement, family_sketch, fingerprint, sha256, write_safetensors
from nada.formats.files import LARGEST, in_bounds
from nada.formats.messages import plain
from nada.formats.metadata import FORMAT, read_metadata, write_metadata
from nada.generator import Generator, with_tensors

MAX_BYTES = 160 * 2**20  # all weights of the largest generator, in float32, are 122 MB
MAX_HEADER = 2**20  # bytes, three times what so many tensors and the longest metadata take
MAX_TENSORS = 1000  # the largest generator has 200
NAMES = re.compile(r"(style|input|conv1|to_rgb1|convs|to_rgbs|noises)\.[a-z0-9_.]{1,60}")
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
LAYER = re.compile(r"(convs|to_rgbs)\.\d+|\w+")  # what the name of a tensor begins with
STYLE = re.compile(r"((convs|to_rgbs)\.\d+|\w+)\.conv\.modulation\.bias")
STYLES, WEIGHTS, BOTH = "styles", "weights", "both"  # kinds of domains
BASE = "base"  # the tensor of a file that holds the base's own styles, one after the other
SAME_FAMILY = 0.68  # of the bits of two sketches; strangers agree in 0.5, ± 0.03


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
        base_styles: of a domain of styles, what the base has under the same names, float16 on the
            CPU; {} in files that were saved without.
    """

    base_fingerprint: str
    tensors: dict[str, Tensor]
    metadata: dict = field(default_factory=dict)
    base_styles: dict[str, Tensor] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ "styles" where only biases of modulations changed, "weights", or "both" where styles of
        some layers changed and weights of others."""
        alone = self.layers - {layer_of(name) for name in self.tensors if not is_style(name)}
        return WEIGHTS if not alone else STYLES if alone == self.layers else BOTH

    @property
    def layers(self) -> set[str]:
        """The layers, or other parts of a generator, in which something changed."""
        return {layer_of(name) for name in self.tensors}

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
        tensors = {**self.tensors, **_packed(self.base_styles)}
        digest = sha256(tensors, self.base_fingerprint, text)
        write_safetensors(tensors, path, {**header, "sha256": digest})

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
        packed = tensors.pop(BASE, None)
        delta = cls(base, tensors)
        base_styles = {} if packed is None else _unpacked(name, packed, delta)
        try:
            return replace(delta, metadata=read_metadata(text), base_styles=base_styles)
        except ValueError as error:
            raise DeltaError(f"The metadata of {name} {error}; make the domain again.") from error


def is_style(name: str) -> bool:
    """Whether a tensor of this name is the bias of a modulation."""
    return STYLE.fullmatch(name) is not None


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to, such as "convs.4"; "style" for all of the mapping."""
    match = LAYER.match(name)
    return match[0] if match else name


def diff(base: Generator, adapted: Generator, metadata: Mapping | None = None) -> Delta:
    """The tensors in which `adapted` differs from `base`. A domain of styles gets what it needs to
    be carried over as well: the base's own styles, and a sketch of its family.

    Args:
        base, adapted: two generators of one architecture, on any devices.
        metadata: what the domain file is to say of itself.

    Raises:
        DeltaError: the two have different architectures.
    """
    if replace(base.config, clamp=None) != replace(adapted.config, clamp=None):
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
    delta = Delta(fingerprint(base), changed, dict(metadata or {}))
    return _carriable(delta, base) if delta.kind == STYLES else delta


def _carriable(delta: Delta, base: Generator) -> Delta:
    """A domain of styles with what it takes to carry it over from its base."""
    state = base.state_dict()
    styles = {key: state[key].detach().to("cpu", torch.float16) for key in delta.tensors}
    if not all(value.isfinite().all() for value in styles.values()):
        return delta  # too large for float16, as no style is
    return replace(
        delta, base_styles=styles, metadata={**delta.metadata, "family": family_sketch(base)}
    )


def carry_over(delta: Delta, base: Generator) -> Delta:
    """The domain for another generator of its family: b + (bᵢ − b₀), with the other's biases b.

    A domain of styles moves generators that were trained on from its base much as it moves that
    (StyleDomain, arXiv 2212.10229, 5.3). It says of itself what it was carried over from.

    Args:
        delta: a domain of styles, or any of `base` itself, which is given back as it is.
        base: the generator that it shall be of; of the same shape.

    Raises:
        DeltaError: a domain of weights, of other shapes, of another family, or one that was saved
            without the styles of its base.
    """
    own = fingerprint(base)
    if delta.base_fingerprint == own:
        return delta
    if delta.kind != STYLES:
        raise DeltaError(
            "This domain changes weights, which mean nothing in another generator; make a domain "
            "of styles of it first, with `nada distil` and the generator it belongs to."
        )
    check_shapes(delta, base)
    if not delta.base_styles:
        raise DeltaError(
            "This domain was saved without the styles of the generator it was made from, and "
            "cannot be carried over; make it again."
        )
    agreement = family_agreement(delta.metadata.get("family"), family_sketch(base))
    if agreement is not None and agreement < SAME_FAMILY:
        raise DeltaError(
            "This domain was made from a generator of another family: sketches of the two agree in "
            f"{agreement:.0%} of their bits, where {SAME_FAMILY:.0%} were expected and strangers "
            "have about half; carry it over to one that was trained on from the same base."
        )
    state = base.state_dict()
    moved = {
        key: state[key].to("cpu", copy=True) + (value - delta.base_styles[key].float())
        for key, value in delta.tensors.items()
    }
    facts = dict(delta.metadata)
    origin = {"base": delta.base_fingerprint, **facts.pop("generator", {})}
    known = {} if agreement is None else {"agreement": round(agreement, 4)}
    return _carriable(Delta(own, moved, facts | {"carried_from": {**origin, **known}}), base)


def can_carry_over(delta: Delta, base: Generator) -> bool:
    """Whether a domain of another generator may be carried over to this one, by kind and shapes."""
    shapes = {key: value.shape for key, value in base.state_dict().items()}
    fit = all(shapes.get(key) == value.shape for key, value in delta.tensors.items())
    return fit and delta.kind == STYLES and bool(delta.base_styles)


@torch.no_grad()
def blend(base: Generator, deltas: Sequence[tuple[Delta, Weight]]) -> Generator:
    """A generator with the weights W₀ + Σ αᵢ(Wᵢ − W₀); `base` is left as it is.

    What no delta changes is not copied but shared with `base`, so that a domain of styles takes
    kilobytes: write to neither, and train a copy (`copy.deepcopy`, `nada.adapt.trainable_copy`).

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
        check_fits(delta, base, base_fingerprint)
    changed: dict[str, Tensor] = {}
    for key, value in base.state_dict().items():
        resolution = base.resolution_of(key)
        parts = [
            (d.tensors[key].to(value), a.at(resolution)) for d, a in strengths if key in d.tensors
        ]
        parts = [(tensor, a) for tensor, a in parts if a != 0]
        if len(parts) == 1:
            changed[key] = torch.lerp(value, *parts[0])  # exact at 1, which the sum is not
        elif parts:
            changed[key] = value + sum(a * (tensor - value) for tensor, a in parts)
        if parts and not in_bounds(changed[key]):
            raise DeltaError(
                f"These weights make numbers beyond {LARGEST:,.0f} of {key!r}: "
                "give some nearer to 0."
            )
    generator = with_tensors(base, changed).eval()
    if any(key.startswith("style.") for key in changed):
        generator.update_mean_latent()  # another mapping has another mean
    return generator


def check_fits(delta: Delta, base: Generator, base_fingerprint: str) -> None:
    """Refuse a domain that was not made from this generator.

    Args:
        delta: the domain.
        base: the generator that is loaded.
        base_fingerprint: its `fingerprint`.

    Raises:
        DeltaError: it is of another generator, or a tensor does not fit.
    """
    if delta.base_fingerprint != base_fingerprint:
        other = (
            "; or, if the two are of one family, ask for it to be carried over (--carry-over, or "
            "the tick on the page)"
            if can_carry_over(delta, base)
            else ""
        )
        raise DeltaError(
            "This domain was made from another generator (fingerprint "
            f"{delta.base_fingerprint[:12]}…, loaded is {base_fingerprint[:12]}…); "
            f"load the generator it belongs to{other}."
        )
    check_shapes(delta, base)


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
        check_fits(delta, base, base_fingerprint)
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
                if key != BASE and not NAMES.fullmatch(key):
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


def _packed(styles: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Styles as the one tensor of a file, since each has a line in its header; none for none."""
    return {BASE: torch.cat([styles[name] for name in sorted(styles)])} if styles else {}


def _unpacked(name: str, packed: Tensor, delta: Delta) -> dict[str, Tensor]:
    """The styles of a domain's base, by the names of its tensors."""
    names = sorted(delta.tensors)
    sizes = [delta.tensors[key].numel() for key in names]
    flat = all(delta.tensors[key].ndim == 1 for key in names)
    if delta.kind != STYLES or not flat or packed.shape != (sum(sizes),):
        raise DeltaError(
            f"{name} holds styles of its base {list(packed.shape)} that do not belong to its "
            "tensors; make the domain again."
        )
    return dict(zip(names, packed.split(sizes)))


def _check_tensor(name: str, key: str, value: Tensor) -> None:
    expected = torch.float16 if key == BASE else torch.float32
    if value.dtype != expected or not 1 <= value.ndim <= 5 or not value.numel():
        raise DeltaError(
            f"{name} holds {key!r} as {value.dtype} {list(value.shape)}; "
            f"{str(expected).removeprefix('torch.')} with one to five dimensions was expected."
        )
    if not in_bounds(value):
        raise DeltaError(
            f"{name} holds nan or infinity, or numbers beyond {LARGEST:,.0f}, in {key!r}; "
            "make the domain again."
        )
