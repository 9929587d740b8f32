"""Where in a file a generator lies: under which names, after which prefix, in whose spelling.

Programs wrap what they save: `state_dict`, `params_ema`, `module.`, `decoder.` beside an encoder, a
whole pickled module. All tensors are listed by dotted names, and a tensor that every generator has
and nothing else says where one begins. Which of several is meant its name tells.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from nada.formats.arrays import lazy_array
from nada.formats.files import LONGEST_NAME, CheckpointError
from nada.formats.messages import brief, is_small_int, plain
from nada.formats.pickles import ForeignObject
from nada.formats.slices import LazyTensor

DEEPEST = 24  # containers within containers; a training file has some 10
LONGEST_PATH = 400  # characters
MOST_TENSORS = 20_000  # a training file with optimisers and a CLIP has some 4000
MOST_GENERATORS = 32
LONGEST_LIST = 64  # entries; longer ones hold numbers

OURS, NVIDIA, BASICSR = "rosinality", "NVIDIA", "basicsr"
ROOTS = {
    OURS: frozenset("style input conv1 to_rgb1 convs to_rgbs noises".split()),
    NVIDIA: frozenset(("mapping", "synthesis")),
    BASICSR: frozenset(
        "style_mlp constant_input style_conv1 to_rgb1 style_convs to_rgbs noises".split()
    ),
}
ANCHORS = {
    "input.input": OURS,
    "synthesis.b4.const": NVIDIA,
    "style_conv1.modulated_conv.weight": BASICSR,
}
WEAKER = {
    "conv1.conv.weight": OURS,
    "synthesis.b4.conv1.weight": NVIDIA,
}  # others have them too
FOREIGN = {"style_mapping"}  # mmgeneration's, whose other parts are called as rosinality's
RESTORER = re.compile(r"(^|\.)stylegan_decoder\.$")  # GFPGAN's, which draws nothing by itself
MEANS = ("latent_avg", "mean_latent", "w_avg", "dlatent_avg")
CLAMP = "conv_clamp"
AVERAGED = re.compile(r"(^|_)(ema|avg|averaged?|shadow|running|gs)(_|$)")
USUAL = frozenset("g generator netg gen decoder".split())
PASSED_OVER = re.compile(r"frozen|source|teacher|init|orig|old")


@dataclass
class Listing:
    """What a file holds, by dotted names.

    Args:
        tensors: all of them.
        homes: for each the dict, or the outermost module, that it lies in.
        modules: attributes of pickled modules.
        means: what is called like a mean latent and is no tensor.
        top: names of the first level.
    """

    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    modules: dict[str, dict] = field(default_factory=dict)
    means: dict[str, object] = field(default_factory=dict)
    top: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A generator within a file.

    Args:
        spelling: OURS or NVIDIA.
        prefix: what stands before its names: "", "g_ema.", ...
        tensors: its own, by their names without the prefix.
        modules: attributes of its modules where it was pickled whole.
        mean: its mean latent; None where there is none.
        clamp: a number of our own files; None where there is none.
        others: prefixes of the other generators in the file.
    """

    spelling: str
    prefix: str
    tensors: dict[str, LazyTensor]
    modules: dict[str, dict]
    mean: object
    clamp: LazyTensor | None
    others: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in the file; "" if it is the whole file."""
        return self.prefix.rstrip(".")

    @property
    def shown(self) -> str:
        """Its name as it can be shown, without quotation marks."""
        return plain(self.name)[:60]


def list_tensors(contents: object) -> Listing:
    """All tensors in `contents`, however deep; each container is looked into once.

    Raises:
        CheckpointError: more than any model has, or two of one name.
    """
    listing = Listing(top=tuple(name for name, _ in _children(contents)[0]))
    seen: set[int] = set()
    stack: list[tuple[str, str, bool, int, object]] = [("", "", False, 0, contents)]
    while stack:
        path, home, within, depth, value = stack.pop()
        value = _tensor(value, path)
        if isinstance(value, LazyTensor):
            _add(listing, path, home, value)
            continue
        children, attributes = _children(value)
        if id(value) in seen or not children:
            continue
        seen.add(id(value))
        if attributes is not None:
            listing.modules[path] = attributes
        if not within:
            home = path
        within = within or attributes is not None
        for name, child in reversed(children):
            if len(name) > LONGEST_NAME:
                raise CheckpointError(
                    f"It holds a tensor called {brief(name)}; names of at most {LONGEST_NAME} "
                    "letters were expected."
                )
            inner = f"{path}.{name}" if path else name
            if depth < DEEPEST and len(inner) <= LONGEST_PATH:
                stack.append((inner, home, within, depth + 1, child))
            elif within:
                raise CheckpointError(
                    f"Its modules are nested deeper than those of any generator, in {brief(path)}: "
                    "save the generator's state dict."
                )
            if name in MEANS and isinstance(child, int | float):
                listing.means[inner] = child
    return listing


def find_generator(listing: Listing) -> Found | None:
    """The generator that is meant, or None if there is nothing like one.

    Raises:
        CheckpointError: several, of which none is the averaged one.
    """
    found = _beginnings(listing, ANCHORS) or _beginnings(listing, WEAKER)
    if not found:
        return None
    ranked = sorted(found, key=_rank)
    first, *others = ranked
    if others and _rank(others[0]) == _rank(first):
        both = " and ".join(brief(prefix.rstrip(".")) for prefix in ranked[:2])
        raise CheckpointError(
            f"It holds several generators, {both}, and nothing says which is meant: save the state "
            "dict of one of them alone, or as 'g_ema'."
        )
    return _taken(listing, first, found[first], tuple(others))


def _tensor(value: object, path: str) -> object:
    """NumPy's arrays as tensors; all else, and arrays of other things than numbers, as it is."""
    if isinstance(value, ForeignObject) and value.name.startswith("numpy."):
        with suppress(CheckpointError):
            return lazy_array(value, path)
    return value


def _children(value: object) -> tuple[list[tuple[str, object]], dict | None]:
    """What lies in a container, by name, and the attributes if it is a module."""
    attributes = None
    inside: object = value
    if isinstance(value, ForeignObject):
        inside = value.items or value.state
        if isinstance(value.state, dict) and isinstance(value.state.get("_modules"), dict):
            attributes = value.state
            parts = (attributes.get(f"_{kind}") for kind in ("parameters", "buffers", "modules"))
            inside = {key: v for part in parts if isinstance(part, dict) for key, v in part.items()}
        elif value.name.startswith("__torch__.") and isinstance(value.state, dict):
            attributes = value.state  # TorchScript has them all in one
    if isinstance(inside, list | tuple) and len(inside) <= LONGEST_LIST:
        inside = dict(enumerate(inside))
    if not isinstance(inside, dict):
        return [], attributes
    named = (
        (str(key), child)
        for key, child in inside.items()
        if isinstance(key, str) or is_small_int(key)
    )
    return [(name, child) for name, child in named if child is not None], attributes


def _add(listing: Listing, path: str, home: str, tensor: LazyTensor) -> None:
    if path in listing.tensors:
        raise CheckpointError(
            f"It holds two tensors called {brief(path)}: save the generator's state dict anew."
        )
    if len(listing.tensors) == MOST_TENSORS:
        raise CheckpointError(
            f"It holds more than {MOST_TENSORS} tensors: save the generator's state dict alone."
        )
    listing.tensors[path], listing.homes[path] = tensor, home


def _beginnings(listing: Listing, anchors: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Prefix → spelling and home of each generator that may begin there."""
    found: dict[str, tuple[str, str]] = {}
    for path, home in listing.homes.items():
        for anchor, spelling in anchors.items():
            prefix = path.removesuffix(anchor)
            if (path == anchor or path.endswith(f".{anchor}")) and not RESTORER.search(prefix):
                found.setdefault(prefix, (spelling, home))
    if anchors is WEAKER:
        found = {prefix: f for prefix, f in found.items() if _has_more(listing, prefix, f[0])}
    if len(found) > MOST_GENERATORS:
        raise CheckpointError(
            f"It holds {len(found)} generators: save the state dict of one of them alone."
        )
    return found


def _has_more(listing: Listing, prefix: str, spelling: str) -> bool:
    """Whether behind a prefix there are most of a generator's modules and not some convolution."""
    roots = {
        path.removeprefix(prefix).partition(".")[0]
        for path in listing.tensors
        if path.startswith(prefix)
    }
    return len(roots & ROOTS[spelling]) > len(ROOTS[spelling]) / 2 and not roots & FOREIGN


def _rank(prefix: str) -> tuple[int, int]:
    """By what stands before a generator's names: the averaged one first, a frozen one last."""
    words = [word.lower() for word in prefix.split(".")]
    if any(PASSED_OVER.search(word) for word in words):
        return 2, 0
    averaged = any(AVERAGED.search(word) for word in words)
    return int(not averaged), int(not USUAL.intersection(words))


def _taken(
    listing: Listing, prefix: str, beginning: tuple[str, str], others: tuple[str, ...]
) -> Found:
    """The tensors behind a prefix: those with a generator's names, and all that lie beside them,
    since a generator that has more parts than ours draws other images."""
    spelling, home = beginning
    tensors = {
        path.removeprefix(prefix): tensor
        for path, tensor in listing.tensors.items()
        if path.startswith(prefix)
        and (
            listing.homes[path] == home
            or path.removeprefix(prefix).partition(".")[0] in ROOTS[spelling]
        )
    }
    for name in (*MEANS, CLAMP):
        tensors.pop(name, None)
    modules = {
        path[len(prefix) :]: attributes
        for path, attributes in listing.modules.items()
        if f"{path}.".startswith(prefix)
    }
    values = {**listing.tensors, **listing.means}
    around = [
        place + name for place in _ancestors(prefix) for name in MEANS if place + name in values
    ]
    clamps = [place + CLAMP for place in _ancestors(prefix) if place + CLAMP in listing.tensors]
    return Found(
        spelling,
        prefix,
        tensors,
        modules,
        values[around[0]] if around else None,
        listing.tensors[clamps[0]] if clamps else None,
        others,
    )


def _ancestors(prefix: str) -> Iterator[str]:
    """ "a.b." → "a.b.", "a.", ""."""
    parts = prefix.split(".")[:-1]
    for count in range(len(parts), -1, -1):
        yield "".join(f"{part}." for part in parts[:count])
