"""What files say of themselves: a domain's run, its measures, what was mixed; what a model is.

The facts are a domain file's metadata (`nada.delta.Delta.metadata`). Anyone may have written them;
`nada.formats.metadata` has left of them what is of the kind it should be.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from nada.adapt import Progress
from nada.checkpoint import Origin, fingerprint, read_generator
from nada.clip import Encoder, Unclear, known_words, load_clip, reach_of
from nada.delta import Delta, Strength, Weight
from nada.formats.messages import quote_all
from nada.formats.recognised import CLIP, DOMAIN, AnotherModelError
from nada.generator import Generator
from nada.guidance import Target, goal_of
from nada.metrics import diversity, quality
from nada.presets import SETTINGS, Preset
from nada.sample import sample

RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9¹²³]")  # devices of Windows, in any folder
LARGE, TINY = 10_000, 1e-20  # the largest number of a real tensor is far from both
MEASURED_SEEDS = range(1000, 1016)  # far from the seeds that a page shows


def run_facts(
    clips: Sequence[Encoder], target: str | Target, preset: Preset, progress: Progress
) -> dict:
    """The run that made a domain, as JSON can hold it. Of pictures it says how many there were and
    the sha256 of each file, and nothing of what they show."""
    flat, target = preset.flat(), Target.of(target)
    return {
        "source": preset.source,
        **target_facts(target),
        "clip": [clip.name for clip in clips],
        "method": preset.selection.method,
        "k": preset.selection.k,
        "guidance": {
            name: value for name, value in flat.items() if SETTINGS[name].part == "guidance"
        },
        "config": asdict(preset.config),
        "layers": list(progress.layers),
        "steps_done": progress.step,
        "loss": progress.loss,
        "seconds": round(progress.seconds, 2),
    }


def target_facts(target: Target) -> dict:
    """The words that a domain was made for, and the pictures."""
    told: dict = {"target": target.words}
    if target.pictures is not None:
        told["pictures"] = {"count": len(target.pictures), "sha256": list(target.digests)}
    return told


def target_name(target: str | Target) -> str:
    """What to call a target: its words, or "3 pictures"."""
    return _name({"target": target} if isinstance(target, str) else target_facts(target))


def generator_facts(name: str, origin: Origin) -> dict:
    """The generator that a domain was made from: its file's name, what of it was taken, and what
    is unusual there."""
    return {"generator": {"name": name, **origin.facts()}}


def measured_facts(generator: Generator, clip: Encoder, target: str | Target) -> dict[str, float]:
    """Quality and diversity (`nada.metrics`) of 16 images at truncation 0.7, for a card."""
    with torch.no_grad():
        features = clip.encode_image(sample(generator, MEASURED_SEEDS))
        goal = goal_of(clip, target)[None]
    return {
        "quality": round(quality(features, goal), 4),
        "diversity": round(diversity(features), 4),
    }


def blend_facts(parts: Sequence[tuple[Delta, Weight]]) -> dict:
    """What was mixed: weight, target and, where there is one, source of each domain.

    A weight that differs by resolution is told as "by_resolution", and "weight" is its mean then.
    """
    told = [(Strength.of(weight), delta.metadata) for delta, weight in parts]
    return {
        "blend": [
            {
                "weight": weight.mean,
                **({} if weight.is_even else {"by_resolution": asdict(weight)}),
                **{name: facts[name] for name in ("source", "carried_from") if name in facts},
                "target": title(facts),
            }
            for weight, facts in told
        ]
    }


def blend_weight(part: Mapping) -> Strength | None:
    """The weight of a part of a mix, as `blend_facts` tells it; None where the file does not."""
    try:
        return Strength(**part.get("by_resolution", {}))
    except TypeError:  # not all three, or others: anyone may have written it
        return Strength.of(part["weight"]) if "weight" in part else None


def blend_line(parts: Sequence[Mapping]) -> str:
    """What was mixed, for people: "zombie, coarse 1, middle 0.5, fine 0 + elf, 0.5"."""
    names, weights = map(_name, parts), map(blend_weight, parts)
    return " + ".join(n if w is None else f"{n}, {w}" for n, w in zip(names, weights))


def carried_note(delta: Delta) -> str | None:
    """That a domain was carried over and how sure its family is, a sentence; None if it was not."""
    carried = delta.metadata.get("carried_from")
    if carried is None:
        return None
    agreement = carried.get("agreement")
    family = (
        "their family is unknown, since the file holds no sketch of it"
        if agreement is None
        else f"sketches of the two agree in {agreement:.0%} of their bits"
    )
    base = f"{carried.get('name', '')} {carried.get('base', '')[:12]}".strip()
    return f"{title(delta.metadata)!r} is carried over from the generator {base}…: {family}."


def title(facts: dict) -> str:
    """What to call a domain by its metadata."""
    parts = facts.get("blend") or [facts]
    return " + ".join(map(_name, parts[:3]))[:80]


def _name(part: Mapping) -> str:
    return part.get("target", "").strip() or _pictured(part) or _compared(part) or "domain"


def _pictured(facts: Mapping) -> str:
    """How many pictures a domain was made for, or ""."""
    count = facts.get("pictures", {}).get("count", 0)
    return f"{count} pictures" if count > 1 else "a picture" if count else ""


def _compared(facts: dict) -> str:
    """The name, without its ending, of the file that a domain was found in by comparison, or ""."""
    return Path(facts.get("compared", "")).stem.strip()


def describe(delta: Delta, fits: bool, size: int | None = None) -> dict:
    """What a domain file says of itself, for `/domain`.

    Args:
        delta: the domain.
        fits: whether it is of the generator that is served, which it is told.
        size: of its file, in bytes.
    """
    facts = delta.metadata
    names = ("source", "target", "pictures", "method", "k", "layers", "steps_done", "loss",
             "quality", "diversity", "seconds", "clip", "started_from", "generator", "compared",
             "distilled_from", "carried_from", "family")  # fmt: skip
    config = facts.get("config", {})
    return {
        "title": title(facts),
        **{name: facts.get(name) for name in names},
        "seed": config.get("seed"),
        "settings": config | {"guidance": facts.get("guidance")},
        "blend": facts.get("blend"),
        "base": delta.base_fingerprint,
        "fits": fits,
        "unusual": unusual(delta),
        "kind": delta.kind,
        "changed_layers": len(delta.layers),
        "bytes": size,
        "tensors": len(delta.tensors),
        "parameters": sum(tensor.numel() for tensor in delta.tensors.values()),
    }


def unusual(delta: Delta) -> str | None:
    """Why a domain may draw nothing worth seeing though it can be drawn, in a sentence."""
    most = {name: float(tensor.abs().max()) for name, tensor in delta.tensors.items()}
    nothing = [name for name, number in most.items() if number < TINY]
    large = [name for name, number in most.items() if number > LARGE]
    notes = [f"there are but zeros in {quote_all(nothing)}"] if nothing else []
    notes += [f"there are numbers beyond {LARGE:,} in {quote_all(large)}"] if large else []
    return f"Unusual for a domain: {', '.join(notes)}." if notes else None


def file_name(target: str) -> str:
    """What to call the domain file of a prompt, on any system: "pencil-sketch.safetensors".

    Letters, their marks and digits stay, in any alphabet; 80 bytes at most, before the ending.
    """
    text = unicodedata.normalize("NFC", target.lower())
    kept = ("".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)).split()
    stem = "-".join(kept).encode()[:80].decode(errors="ignore").rstrip("-")
    if not any(c.isalnum() for c in stem):
        stem = "domain"
    elif RESERVED.fullmatch(stem):
        stem += "-domain"
    return f"{stem}.safetensors"


# Any file


def file_facts(path: Path) -> dict:
    """What a file is, what of it would be used and what is unusual about it, as JSON can hold it.

    Args:
        path: of a generator in any form that `load_generator` takes, a domain or a CLIP model, of
            which it may be the folder.

    Raises:
        ValueError: none of these, or damaged.
    """
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        return {"file": path.resolve().name, "bytes": size, **_clip_facts(path)}
    try:
        facts = _generator_facts(path)
    except AnotherModelError as error:
        facts = {DOMAIN: _domain_facts, CLIP: _clip_facts}[error.kind](path)
    return {"file": path.name, "bytes": path.stat().st_size, **facts}


def _generator_facts(path: Path) -> dict:
    generator, origin = read_generator(path)
    config = generator.config
    told = origin.facts()
    return {
        "kind": "generator",
        "used": told["used"],
        "size": config.size,
        "z": config.z_dim,
        "w": config.w_dim,
        "mapping_layers": config.mapping_layers,
        "channels": list(config.channels),
        "parameters": sum(weight.numel() for weight in generator.parameters()),
        "fingerprint": fingerprint(generator),
        "beside": list(origin.beside),
        "unusual": told["unusual"],
    }


def _domain_facts(path: Path) -> dict:
    delta = Delta.load(path)
    return {
        "kind": "domain",
        "title": title(delta.metadata),
        "changes": delta.kind,
        "changed_layers": len(delta.layers),
        "base": delta.base_fingerprint,
        "tensors": len(delta.tensors),
        "parameters": sum(tensor.numel() for tensor in delta.tensors.values()),
        "unusual": [note] if (note := unusual(delta)) else [],
    }


def _clip_facts(path: Path) -> dict:
    try:
        clip = load_clip(path)
    except Unclear as error:
        return {"kind": "CLIP", "unusual": [str(error)]}
    words = known_words(clip)
    return {
        "kind": "CLIP",
        "used": type(clip).__name__,
        "activation": _activation(clip),
        "heads_of": sorted(
            {m.head_dim for m in clip.modules() if isinstance(m, nn.MultiheadAttention)}
        ),
        "resolution": clip.resolution,
        "context": clip.context_length,
        "parameters": sum(weight.numel() for weight in clip.parameters()),
        "reach": reach_of(clip),
        "unusual": [f"it was trained on {len(words)} words"] if words else [],
    }


def _activation(clip: nn.Module) -> str:
    """That between the layers of its transformers, which no weight tells."""
    names = {type(module).__name__ for module in clip.modules()}
    return "QuickGELU" if "QuickGELU" in names else "GELU"
