"""What a domain file says of itself: the run that made it, what it measures, what was mixed.

The facts are a domain file's metadata (`nada.delta.Delta.metadata`): anything that JSON can hold,
and, where a file came from elsewhere, anything that somebody wrote.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict

import torch

from nada.adapt import Progress
from nada.clip import Encoder
from nada.delta import Delta
from nada.generator import Generator
from nada.guidance import prompt_features
from nada.metrics import diversity, quality
from nada.presets import SETTINGS, Preset
from nada.sample import sample

RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9¹²³]")  # devices of Windows, in any folder
MEASURED_SEEDS = range(1000, 1016)  # far from the seeds that a page shows


def run_facts(clips: Sequence[Encoder], target: str, preset: Preset, progress: Progress) -> dict:
    """The run that made a domain, as JSON can hold it."""
    flat = preset.flat()
    return {
        "source": preset.source,
        "target": target,
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


def measured_facts(generator: Generator, clip: Encoder, target: str) -> dict[str, float]:
    """Quality and diversity (`nada.metrics`) of 16 images at truncation 0.7, for a card."""
    with torch.no_grad():
        features = clip.encode_image(sample(generator, MEASURED_SEEDS))
        prompt = prompt_features(clip, target, ("{}",))
    return {
        "quality": round(quality(features, prompt), 4),
        "diversity": round(diversity(features), 4),
    }


def blend_facts(parts: Sequence[tuple[Delta, float]]) -> dict:
    """What was mixed: weight, source and target of each domain."""
    return {
        "blend": [
            {
                "weight": weight,
                "source": delta.metadata.get("source"),
                "target": title(delta.metadata),
            }
            for delta, weight in parts
        ]
    }


def title(facts: dict) -> str:
    """What to call a domain by its metadata, which anyone may have written."""
    parts = facts.get("blend")
    if isinstance(parts, list) and parts and all(isinstance(part, dict) for part in parts):
        return " + ".join(str(part.get("target", "?")) for part in parts[:3])[:80]
    return str(facts.get("target") or "domain")[:80]


def describe(delta: Delta, own: str) -> dict:
    """What a domain file says of itself, for a card and for `/domain`.

    own: the fingerprint of the generator that is served; `fits` tells whether the domain is of it.
    """
    facts = delta.metadata
    config = facts.get("config") if isinstance(facts.get("config"), dict) else {}
    names = ("source", "target", "method", "k", "layers", "steps_done", "loss", "quality",
             "diversity", "seconds", "clip", "started_from")  # fmt: skip
    return {
        "title": title(facts),
        **{name: facts.get(name) for name in names},
        "seed": config.get("seed"),
        "settings": config | {"guidance": facts.get("guidance")},
        "blend": facts.get("blend"),
        "base": delta.base_fingerprint,
        "fits": delta.base_fingerprint == own,
        "tensors": len(delta.tensors),
        "parameters": sum(tensor.numel() for tensor in delta.tensors.values()),
    }


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
