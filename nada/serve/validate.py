"""What a visitor may ask for, and the sentence they get when it cannot be done.

Every argument of every endpoint is checked here, whatever a page or a schema has checked before:
anyone can post anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nada.adapt import DivergedError, Preset
from nada.clip import CLIP, PromptError
from nada.delta import Delta, DeltaError
from nada.formats.messages import quote, quote_all
from nada.layers import SELECTORS
from nada.memory import TooLittleMemory
from nada.prompts import FILLERS
from nada.sample import parse_seeds
from nada.serve.jobs import Job, ServedModels

MAX_SAMPLES = 36  # pictures of one request
MAX_MIX = 3  # domains in one mix


class BadInput(ValueError):
    """Something a visitor asked for that cannot be done; the message is a sentence for them.

    field: the name of the argument that is wrong.
    """

    def __init__(self, field: str, sentence: str):
        super().__init__(sentence)
        self.field = field


# errors that are sentences
SPOKEN = (BadInput, PromptError, DeltaError, DivergedError, TooLittleMemory)


@dataclass(frozen=True)
class Range:
    """A number that a visitor may set: its name on the page, its bounds, what it does."""

    label: str
    low: float
    high: float
    step: float
    info: str

    @property
    def whole(self) -> bool:
        return isinstance(self.step, int)

    def check(self, name: str, value) -> int | float:
        """The value as a number; BadInput if it is none or lies outside the bounds."""
        kind = "a whole number" if self.whole else "a number"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or value != value:
            raise BadInput(name, f"{self.label} is {quote(value)}; {kind} was expected.")
        if not self.low <= value <= self.high:
            bounds = f"choose from {self.low:.10g} to {self.high:.10g}."
            raise BadInput(name, f"{self.label} is {quote(value)}; {bounds}")
        if self.whole and value != int(value):
            raise BadInput(name, f"{self.label} is {quote(value)}; {kind} was expected.")
        return int(value) if self.whole else float(value)


RANGES = {
    "steps": Range("Steps", 1, 2000, 1, "More steps move further from the source."),
    "k": Range("Layers k", 0, 26, 1, "How many layers train; 0 trains them all."),
    "select_every": Range("Select every n steps", 0, 2000, 1, "0 selects once, at the start."),
    "seed": Range("Seed", 0, 2**32 - 1, 1, "Same seed and settings, same result."),
    "batch": Range("Batch", 1, 16, 1, "Pictures in a step."),
    "lr": Range("Learning rate", 1e-5, 0.2, 1e-5, "Of Adam, at the start."),
    "directional": Range("Directional loss", 0.0, 10.0, 0.05, "Weight: along source → target."),
    "global_": Range("Global loss", 0.0, 10.0, 0.05, "Weight: likeness to the target."),
    "in_domain": Range("In-domain loss", 0.0, 10.0, 0.05, "Weight: keeps people different."),
    "truncation": Range("Truncation", 0.0, 1.5, 0.05, "Variety of the pictures trained on."),
}
STRENGTH = Range("Strength", -0.5, 1.5, 0.05, "0 is the source, 1 the domain; beyond, more of it.")
WEIGHT = Range("Weight", -1.5, 1.5, 0.05, "Of a domain in a mix.")
TRUNCATION = Range("Truncation of samples", 0.0, 1.5, 0.05, "Lower is safer, higher more varied.")


def defaults(preset: Preset) -> dict:
    """The settings of a preset under the names of `/adapt`."""
    config = preset.config
    return {
        **{name: getattr(config, name) for name in ("steps", "batch", "lr", "seed")},
        **{"directional": 0.0, "global_": 0.0, "in_domain": 0.0},
        **{name: preset.guidance[name] for name in preset.guidance if name in RANGES},
        "k": preset.k,
        "select_every": config.select_every,
        "truncation": config.truncation_psi,
        "method": preset.method,
        "to_rgb": config.train_to_rgb,
        "source": preset.source,
    }


def check_job(models: ServedModels, base: Preset, settings: dict) -> Job:
    """The job that the settings of `/adapt` describe, or BadInput for the first bad one.

    settings: the names of RANGES, source, target, method and to_rgb; all may hold anything.
    """
    for name in ("source", "target"):
        check_prompt(models.clips, name, settings[name])
    source, target = (" ".join(settings[name].split()) for name in ("source", "target"))
    if source.casefold() == target.casefold():
        raise BadInput("target", "Source and target are the same: say how they should differ.")
    numbers = {name: limits.check(name, settings[name]) for name, limits in RANGES.items()}
    if settings["method"] not in list(SELECTORS):  # a list takes what cannot be hashed
        names = " or ".join(SELECTORS)
        raise BadInput("method", f"Method is {quote(settings['method'])}; choose {names}.")
    if not isinstance(settings["to_rgb"], bool):
        raise BadInput("to_rgb", f"RGB layers is {quote(settings['to_rgb'])}; use true or false.")
    most = len(base.config.layers(models.generator, settings["to_rgb"]))
    if numbers["k"] == base.k:  # the preset's own number, made for larger generators
        numbers["k"] = min(base.k, most)
    if numbers["k"] > most:
        raise BadInput("k", f"This generator has {most} layers to train: choose k up to {most}.")
    if not any(numbers[name] for name in ("directional", "global_")):
        raise BadInput("directional", "Nothing guides: weigh the directional or the global loss.")
    if numbers["in_domain"] and numbers["batch"] < 2:
        raise BadInput("batch", "The in-domain loss compares pictures: choose a batch from 2 on.")
    return Job(target, _preset(base, source, settings, numbers))


def _preset(base: Preset, source: str, settings: dict, numbers: dict) -> Preset:
    """The base's preset with the visitor's numbers in it."""
    names = ("steps", "batch", "seed", "select_every", "lr")
    config = replace(
        base.config,
        **{name: numbers[name] for name in names},
        final_lr=base.config.final_rate(numbers["lr"]),
        truncation_psi=numbers["truncation"],
        train_to_rgb=settings["to_rgb"],
    )
    weights = {name: numbers[name] for name in ("directional", "global_", "in_domain")}
    return Preset(config, {**base.guidance, **weights}, source, settings["method"], numbers["k"])


def check_prompt(clips: Sequence[CLIP], field: str, prompt) -> None:
    """BadInput for a prompt that cannot be read, or of which CLIP knows not one word."""
    try:
        for clip in clips:
            clip.check_prompt(prompt)
    except PromptError as error:
        raise BadInput(field, str(error)) from error
    clip = clips[0]  # those of an ensemble learnt the same words
    spoken, unknown = clip.spoken_words(prompt), clip.unknown_words(prompt)
    if clip.words is not None and not set(spoken) - set(unknown) - FILLERS:
        raise BadInput(
            field,
            f"The small CLIP was never shown {quote_all(unknown) or 'this'}: use words like those of "
            "the examples, or serve this page with a larger CLIP.",
        )


def check_seeds(text) -> list[int]:
    """The seeds of "1-8" or "3, 7, 20-22"; BadInput unless they are 1 to MAX_SAMPLES numbers."""
    if not isinstance(text, (str, int)) or isinstance(text, bool):
        raise BadInput("seeds", f"The seeds are {quote(text)}; write text such as 1-8 or 3, 7.")
    try:
        return parse_seeds(str(text), MAX_SAMPLES)
    except ValueError as error:
        raise BadInput("seeds", str(error)) from error


def check_file(field: str, told) -> Path:
    """The path of an uploaded file as the server has stored it; BadInput if it is none.

    Only what is marked as an upload is one: of those the server has checked that they lie where
    uploads do. Any other path is a stranger's.
    """
    upload = isinstance(told, dict) and told.get("meta") == {"_type": "gradio.FileData"}
    if not upload or not isinstance(told.get("path"), str):
        raise BadInput(field, f"The domain file is {quote(told)}; upload a .safetensors file.")
    return Path(told["path"])


def check_domain(field: str, told) -> Delta:
    """The domain in an uploaded file; BadInput with the reason if it cannot be used."""
    try:
        return Delta.load(check_file(field, told))
    except DeltaError as error:
        raise BadInput(field, str(error)) from error


def check_weights(count: int, weights) -> list[float]:
    """One weight per domain, from a list of numbers or text such as "0.5, 0.5"; None: equal shares.

    BadInput for anything else.
    """
    if weights is None or weights == "":
        return [1.0 / count] * count
    if isinstance(weights, str):
        try:
            weights = [float(part) for part in weights.replace(",", " ").split()]
        except ValueError:
            raise BadInput(
                "weights", f"The weights are {quote(weights)}; write 0.5, 0.5."
            ) from None
    if not isinstance(weights, list) or len(weights) != count:
        raise BadInput(
            "weights", f"The weights are {quote(weights)}; give {count}, one for each domain."
        )
    return [WEIGHT.check("weights", weight) for weight in weights]
