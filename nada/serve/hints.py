"""Hints before time is spent: what in a request promises little, and what would suit it.

Hints never stop anybody; what cannot run at all is refused by `nada.serve.validate`.
"""

from nada.formats.messages import quote
from nada.presets import Preset, suggestion
from nada.prompts import direction_hint, language_hint, reach_hint, unknown_words
from nada.serve.models import ServedModels
from nada.serve.validate import check_prompt


def hints(models: ServedModels, base: str, preset: Preset, settings: dict) -> list[str]:
    """Sentences worth reading before a run of these settings, the weightiest first.

    base: the key of the presets. settings: source, target, steps, k as `/adapt` takes them.
    BadInput for prompts that cannot be read.
    """
    source, target = settings["source"], settings["target"]
    for name in ("source", "target"):
        check_prompt(models.clips, name, settings[name])
    found = [
        unknown_words(models.clips[0], (source, target)),
        language_hint(models.clips, (source, target)),
        direction_hint(models.clips, source, target, preset.guidance.prompt_templates),
        reach_hint(models.clips, bool(settings.get("cap") or settings.get("point"))),
        preset_hint(models, base, preset, settings),
    ]
    return [hint for hint in found if hint]


def preset_hint(models: ServedModels, base: str, preset: Preset, settings: dict) -> str:
    """Which steps and k suit the target, where they are known and others are set."""
    suited = suggestion(base, settings["target"])
    most = len(preset.config.chosen_among(models.generator))
    if "k" in suited:
        suited["k"] = min(suited["k"], most)
    differ = {name: value for name, value in suited.items() if settings.get(name) != value}
    if not differ and settings.get("steps", 0) >= 4 * preset.config.steps:
        differ = {"steps": preset.config.steps}
    if not differ:
        return ""
    changes = " and ".join(
        f"{'k ' if n == 'k' else ''}{v}{' steps' if n == 'steps' else ''}"
        for n, v in differ.items()
    )
    return f"For {quote(settings['target'])}, {changes} would suit."
