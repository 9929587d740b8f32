"""Settings that suit a generator: presets, their flat names, and prompts to start from.

A preset holds the settings of a whole run. Outside the library (command line, page, API, sweeps,
domain files) they go by flat names, one each: `SETTINGS` says where each belongs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nada.adapt import AdaptConfig, Select
from nada.augment import Augmented
from nada.clip import Encoder, resize
from nada.compute import SynthesisOptions
from nada.formats.catalogue import CATALOGUE
from nada.generator import Generator
from nada.guidance import GuidanceConfig, Target, WeightedSum, build_loss, target_loss
from nada.layers import SELECTION_OPTIONS, SELECTORS, SelectionConfig
from nada.sample import sample_batches
from nada.settings import Setting, settings

EXAMPLES = Path(__file__).with_name("examples.json")
SOURCE_SEEDS = range(2000, 2032)  # of what pictures lead away from
PARTS = {"config": AdaptConfig, "guidance": GuidanceConfig, "selection": SelectionConfig}


class Place(NamedTuple):
    """Where a setting stands: a part of `Preset`, a field of it, and what is known of it."""

    part: str
    field: str
    setting: Setting


# Every setting that people set, by its flat name; previews are the front end's own.
SETTINGS = {
    known.name: Place(part, name, known)
    for part, config in PARTS.items()
    for name, known in settings(config).items()
    if not name.startswith("preview")
}
# What the page and the API offer, by their names for it, in their order.
SERVED = {
    place.setting.api_name: place.setting
    for place in sorted(
        (place for place in SETTINGS.values() if place.setting.place is not None),
        key=lambda place: place.setting.place,
    )
}


@dataclass(frozen=True)
class Preset:
    """The settings of a run: of the loop, the loss and the selection of layers.

    Attributes:
        source: the prompt for what the base shows.
    """

    config: AdaptConfig = field(default_factory=AdaptConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    source: str = "photo"

    def flat(self) -> dict[str, object]:
        """Every setting by its flat name."""
        return {
            name: getattr(getattr(self, place.part), place.field)
            for name, place in SETTINGS.items()
        }

    def served(self) -> dict[str, object]:
        """What the page and the API offer, by their names for it."""
        flat = self.flat()
        return {api_name: flat[setting.name] for api_name, setting in SERVED.items()}

    def with_(self, changes: Mapping[str, object]) -> "Preset":
        """This preset with other values, by flat names or by the API's.

        A learning rate given without a final one falls as far as this preset's.

        Raises:
            ValueError: a value out of range, or a name that is no setting's.
        """
        given = {_flat_name(name): value for name, value in changes.items()}
        if "lr" in given and "final_lr" not in given:
            given["final_lr"] = self.config.final_rate(given["lr"])
        parts: dict[str, dict] = {part: {} for part in PARTS}
        for name, value in given.items():
            place = SETTINGS[name]
            place.setting.check(value)
            parts[place.part][place.field] = tuple(value) if isinstance(value, list) else value
        changed = {part: replace(getattr(self, part), **parts[part]) for part in PARTS}
        return replace(self, **changed)

    def fitted(self, generator: Generator) -> "Preset":
        """This preset with a k that the generator has layers for."""
        most = len(self.config.chosen_among(generator))
        return replace(self, selection=replace(self.selection, k=min(self.selection.k, most)))


def _flat_name(name: str) -> str:
    if name in SERVED:
        return SERVED[name].name
    if name not in SETTINGS:
        raise ValueError(f"There is no setting {name!r}: use {', '.join(SETTINGS)}.")
    return name


_DEMO = Preset(
    AdaptConfig(
        steps=60, batch=4, lr=0.004, final_lr=0.001, style_lr=0.12, beta2=0.99, truncation_psi=0.9,
        train_noise=False, preview_every=4, resolution=64, precision="auto",
    ),
    GuidanceConfig(
        lambda_directional=1.0, lambda_global=1.0, lambda_in_domain=0.5, views=1,
        templates="bare",
    ),
)  # fmt: skip

PRESETS = {
    # the styles of the six layers of largest gradient: a file of kilobytes, and crisp pictures
    "demo": _DEMO.with_(
        {"parameters": "styles", "train_to_rgb": True, "style_lr": 0.32, "k": 6, "lr": 0.008}
    ),
    "demo-weights": _DEMO,  # all weights: what most of REPORT.md was measured with
    "ffhq": Preset(
        AdaptConfig(steps=300, preview_every=10, precision="auto"),
        selection=SelectionConfig(k=10),
    ),
}


class Suited(NamedTuple):
    """What belongs to a generator: the key of its preset, the preset, and its CLIP models."""

    name: str
    preset: Preset
    clip: str


def preset_for(source: str, generator: Generator | None = None) -> Suited:
    """What suits a generator: the catalogue's word for those that it has, FFHQ's for any other.

    Args:
        source: as `load_generator` takes it.
        generator: the generator once it is there: k is then fitted to its layers.
    """
    entry = CATALOGUE.get(source, CATALOGUE["ffhq"])
    preset = PRESETS[entry.preset]
    return Suited(entry.preset, preset.fitted(generator) if generator else preset, entry.clip)


def prepare(
    clips: Sequence[Encoder],
    target: str | Target,
    preset: Preset,
    frozen: Generator | None = None,
) -> tuple[WeightedSum | Augmented, Select]:
    """The loss and the selector of a preset for a target, as `adapt` takes them.

    Args:
        clips: the models.
        target: a prompt, or words and pictures.
        preset: the settings.
        frozen: the generator to start from, whose samples pictures lead away from; only they need
            it, and words for which the preset has no source.

    Raises:
        PromptError: a prompt cannot be read, or a model sees no difference between the pictures and
            the samples.
    """
    config, target = preset.config, Target.of(target)
    needs_samples = target.pictures is not None or not preset.source.strip()
    if needs_samples and target.samples is None and frozen is not None:
        target = replace(target, samples=_seen(frozen, config, clips))
    options = SynthesisOptions(
        min(SELECTION_OPTIONS.micro_batch, config.micro_batch or config.batch),
        config.precision,
        config.resolution,
        config.checkpointing,
    )
    method = preset.selection.method
    of_what_trains = {"parameters": config.parameters} if method == "gradient" else {}
    select = partial(
        SELECTORS[method],
        objective=target_loss(clips, target, preset.guidance.picture_weight),
        k=preset.selection.k,
        options=options,
        **of_what_trains,
    )
    return build_loss(clips, preset.source, target, preset.guidance), select


def _seen(frozen: Generator, config: AdaptConfig, clips: Sequence[Encoder]) -> Tensor:
    """What CLIP sees of what the generator shows, as varied as it will be trained: no more pixels,
    since those of 32 images at 1024 would take 400 MB."""
    psi, side = config.truncation_psi, max(clip.resolution for clip in clips)
    batches = sample_batches(frozen, SOURCE_SEEDS, psi, batch=2, precision=config.precision)
    return torch.cat([resize(images, side) for images in batches])


# Prompts to start from


@cache
def _all_examples() -> dict[str, list[dict]]:
    return json.loads(EXAMPLES.read_text(encoding="utf-8"))


def examples(base: str) -> list[dict]:
    """Prompts to start from for a base generator, the preset of an entry of the catalogue.

    Each has source and target, and the settings in which it differs from the preset; those of FFHQ
    are the published ones where there are any.
    """
    return [dict(entry) for entry in _all_examples()[base]]


def suggestion(base: str, target: str) -> dict:
    """The settings that an example for this target asks for, {"steps": 300, "k": 10}; {} if none.

    An example fits when its target and the given one are the same but for case and spaces.
    """
    spoken = " ".join(target.casefold().split())
    for entry in examples(base):
        if entry["target"].casefold() == spoken:
            return {name: entry[name] for name in ("steps", "k") if name in entry}
    return {}
