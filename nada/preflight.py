"""Hints before time is spent: what in a pair of prompts promises little, and what would suit it.

Hints never stop anybody; what cannot run at all is refused by `nada.request`.
"""

import difflib
from collections.abc import Sequence

import torch

from nada.adapt import Preset
from nada.clip import CLIP
from nada.guidance import TEMPLATES, prompt_features
from nada.presets import suggestion
from nada.request import FILLERS, check_prompt, listed, shorten
from nada.runs import Models

# The length of the mean direction between unit features. Measured over all pairs of the bundled
# examples' prompts and their paraphrases; see tests/test_preflight.py.
SAME = 0.10
WEAK = 0.35


def hints(models: Models, base: str, preset: Preset, settings: dict) -> list[str]:
    """Sentences worth reading before a run of these settings, the weightiest first.

    base: the key of the presets. settings: source, target, steps, k as `/adapt` takes them.
    BadInput for prompts that cannot be read.
    """
    source, target = settings["source"], settings["target"]
    for name in ("source", "target"):
        check_prompt(models.clips, name, settings[name])
    found = [
        unknown_words(models.clips[0], (source, target)),
        direction_hint(models.clips, source, target, preset.guidance.get("templates", TEMPLATES)),
        preset_hint(models, base, preset, settings),
    ]
    return [hint for hint in found if hint]


def unknown_words(clip: CLIP, prompts: Sequence[str]) -> str:
    """Which words CLIP never saw and which like them it knows; "" where it knows all."""
    unknown = list(dict.fromkeys(word for p in prompts for word in clip.unknown_words(p)))
    unknown = [word for word in unknown if word not in FILLERS] or unknown
    if not unknown:
        return ""
    like = [near for word in unknown for near in nearest(clip, word)]
    known = f" It knows {listed(list(dict.fromkeys(like)))}." if like else ""
    return f"The small CLIP was never shown {listed(unknown)} and can only guess.{known}"


def nearest(clip: CLIP, word: str) -> list[str]:
    """Words that CLIP knows and that are spelt much like this one, three at most."""
    return difflib.get_close_matches(word, sorted(clip.words or ()), n=3, cutoff=0.7)


def direction_length(clips: Sequence[CLIP], source: str, target: str, templates) -> float:
    """Length of the mean direction from source to target over templates: 0 for one meaning, about
    1 for prompts that have little in common. The mean over the models of an ensemble."""
    lengths = []
    for clip in clips:
        before, after = (prompt_features(clip, prompt, templates) for prompt in (source, target))
        lengths.append((after - before).mean(dim=0).norm())
    return torch.stack(lengths).mean().item()


def direction_hint(clips: Sequence[CLIP], source: str, target: str, templates) -> str:
    """Whether CLIP tells the prompts apart well enough to be led by them."""
    length = direction_length(clips, source, target, templates)
    if length < SAME:
        return (
            f"{shorten(source)} and {shorten(target)} are nearly parallel to CLIP (direction "
            f"{length:.2f}): the result would be chance. Say how the target differs."
        )
    if length < WEAK:
        return (
            f"CLIP hardly tells {shorten(source)} from {shorten(target)} (direction "
            f"{length:.2f}): a stronger word for the target would lead further."
        )
    return ""


def preset_hint(models: Models, base: str, preset: Preset, settings: dict) -> str:
    """Which steps and k suit the target, where they are known and others are set."""
    wanted = suggestion(base, settings["target"])
    most = len(preset.config.layers(models.generator))
    if "k" in wanted:
        wanted["k"] = min(wanted["k"], most)
    differ = {name: value for name, value in wanted.items() if settings.get(name) != value}
    if not differ and settings.get("steps", 0) >= 4 * preset.config.steps:
        differ = {"steps": preset.config.steps}
    if not differ:
        return ""
    told = " and ".join(f"{'k ' if n == 'k' else ''}{v}{' steps' if n == 'steps' else ''}"
                        for n, v in differ.items())  # fmt: skip
    return f"For {shorten(settings['target'])}, {told} would suit."
