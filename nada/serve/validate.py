"""What a visitor may ask for, and the sentence they get when it cannot be done.

Every argument of every endpoint is checked here, whatever a page or a schema has checked before:
anyone can post anything.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nada.adapt import DivergedError
from nada.clip import Encoder, PromptError, known_words, reach_of, unknown_words
from nada.delta import BANDS, Delta, DeltaError, Strength, Weight
from nada.formats.messages import plain, quote, quote_all
from nada.formats.pictures import PictureError, Pictures, read_pictures
from nada.memory import TooLittleMemory
from nada.presets import SERVED, Preset
from nada.prompts import FILLERS
from nada.sample import ImageError, parse_seeds
from nada.serve.jobs import DiskFull, Job
from nada.serve.line import LineFull
from nada.serve.models import ServedModels
from nada.settings import Range, Setting

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
SPOKEN = (
    BadInput,
    PromptError,
    DeltaError,
    DivergedError,
    ImageError,
    TooLittleMemory,
    LineFull,
    DiskFull,
)


def _shown(label: str, low: float, high: float, step: float) -> Setting:
    """A number that changes what is shown; it belongs to no run."""
    bounds = Range(low, high, step)
    return Setting(label, "", float, bounds, served=bounds)


STRENGTH = _shown("Strength", -0.5, 1.5, 0.05)
WEIGHT = _shown("Weight", -1.5, 1.5, 0.05)
TRUNCATION = _shown("Truncation of samples", 0.0, 1.5, 0.05)
CARRY_OVER = Setting(
    "Carry over",
    "Take domains of styles of another generator of the same family as well.",
    bool,
)
SNAPSHOT = Setting("Snapshot", "", int, Range(1, 2000), served=Range(1, 2000, 1))


def check_number(name: str, setting: Setting, value) -> int | float:
    """The value as a number of the setting's kind.

    Raises:
        BadInput: it is not a number, or lies outside the bounds for visitors.
    """
    whole, bounds = setting.kind is int, setting.served
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or value != value:
        kind = "a whole number" if whole else "a number"
        raise BadInput(name, f"{setting.label} is {quote(value)}; {kind} was expected.")
    if not bounds.low <= value <= bounds.high:
        limits = f"choose from {bounds.low:.10g} to {bounds.high:.10g}."
        raise BadInput(name, f"{setting.label} is {quote(value)}; {limits}")
    if whole and value != int(value):
        raise BadInput(name, f"{setting.label} is {quote(value)}; a whole number was expected.")
    return int(value) if whole else float(value)


def check_strength(name: str, setting: Setting, value) -> Weight:
    """The value as a number of the setting's kind, or as a strength by resolution where it is an
    object with a number each for coarse, middle and fine.

    Raises:
        BadInput: it is neither, or a number lies outside the bounds for visitors.
    """
    if not isinstance(value, dict):
        return check_number(name, setting, value)
    if value.keys() != set(BANDS):
        raise BadInput(
            name,
            f"{setting.label} is {quote(value)}; give a number, or an object with one each for "
            f"{', '.join(BANDS)}.",
        )
    labels = {band: replace(setting, label=f"{setting.label} ({band})") for band in BANDS}
    return Strength(**{band: check_number(name, labels[band], value[band]) for band in BANDS})


def check_flag(name: str, setting: Setting, value) -> bool:
    """The value of something to tick; BadInput unless it is true or false."""
    if not setting.fits(value):
        raise BadInput(name, f"{setting.label} is {quote(value)}; use {setting.expected}.")
    return value


def check_setting(name: str, value):
    """The value of a setting of a run; `name` is the API's.

    Raises:
        BadInput: the value is not one that visitors may choose.
    """
    setting = SERVED[name]
    if setting.kind in (int, float):
        return check_number(name, setting, value)
    if not setting.fits(value):
        raise BadInput(name, f"{setting.label} is {quote(value)}; use {setting.expected}.")
    return value


def check_job(models: ServedModels, base: Preset, settings: dict, pictured: bool = False) -> Job:
    """The job that the settings of `/adapt` describe.

    Args:
        base: the preset of the generator, whose own k fits itself to the generator.
        settings: source, target and the names of SERVED; all may hold anything.
        pictured: whether there are pictures of the target, so that its words may be left out.

    Raises:
        BadInput: for the first setting that cannot be used.
    """
    without_words = pictured and settings["target"] in ("", None)
    for name in ("source", *(() if without_words else ("target",))):
        check_prompt(models.clips, name, settings[name])
    spoken = (plain(settings[name] or "") for name in ("source", "target"))
    source, target = (" ".join(text.split()) for text in spoken)
    if target and source.casefold() == target.casefold():
        raise BadInput("target", "Source and target are the same: say how they should differ.")
    checked = {name: check_setting(name, settings[name]) for name in SERVED}
    preset = replace(base.with_(checked), source=source)
    if checked["k"] == base.selection.k:  # the preset's own, made for larger generators
        preset = preset.fitted(models.generator)
    most = len(preset.config.chosen_among(models.generator))
    if preset.selection.k > most:
        raise BadInput("k", f"This generator has {most} layers to train: choose k up to {most}.")
    guidance = preset.guidance
    point = guidance.lambda_point and any(reach_of(clip) is not None for clip in models.clips)
    if not (guidance.lambda_directional or guidance.lambda_global or point):
        raise BadInput("directional", "Nothing guides: weigh the directional or the global loss.")
    if guidance.lambda_in_domain and preset.config.batch < 2:
        raise BadInput("batch", "The in-domain loss compares pictures: choose a batch from 2 on.")
    return Job(target, preset)


def check_prompt(clips: Sequence[Encoder], field: str, prompt) -> None:
    """BadInput for a prompt that cannot be read, or of which CLIP knows not one word; a source may
    be left out."""
    if field == "source" and isinstance(prompt, str) and not prompt.strip():
        return
    try:
        for clip in clips:
            clip.check_prompt(prompt)
    except PromptError as error:
        raise BadInput(field, str(error)) from error
    clip = clips[0]  # those of an ensemble learnt the same words
    if known_words(clip) is None:
        return
    unknown = unknown_words(clip, prompt)
    if not set(clip.spoken_words(prompt)) - set(unknown) - FILLERS:
        raise BadInput(
            field,
            f"The small CLIP was never shown {quote_all(unknown) or 'this'}: use words like those "
            "of the examples, or serve this page with a larger CLIP.",
        )


def check_pictures(field: str, uploads) -> Pictures | None:
    """The pictures of uploads, as the API or the page's gallery has them; None for none.

    Raises:
        BadInput: what was given is no list of uploads, or one cannot be used, which is named.
    """
    if uploads is None or uploads == []:
        return None
    many = uploads if isinstance(uploads, list) else [uploads]
    many = [one.get("image", one) if isinstance(one, dict) else one for one in many]
    try:
        return read_pictures([stored(field, one, "Pictures", "a picture") for one in many])
    except PictureError as error:
        raise BadInput(field, str(error)) from error


def check_seeds(text) -> list[int]:
    """The seeds of "1-8" or "3, 7, 20-22"; BadInput unless they are 1 to MAX_SAMPLES numbers."""
    if not isinstance(text, (str, int)) or isinstance(text, bool):
        raise BadInput("seeds", f"The seeds are {quote(text)}; write text such as 1-8 or 3, 7.")
    try:
        return parse_seeds(str(text), MAX_SAMPLES)
    except ValueError as error:
        raise BadInput("seeds", str(error)) from error


def check_file(field: str, upload) -> Path:
    """The path of an uploaded domain file as the server has stored it; BadInput if it is not."""
    return stored(field, upload, "The domain file", "a .safetensors file")


def stored(field: str, upload, what: str, wanted: str) -> Path:
    """The path of an upload; BadInput if it is none.

    Only what is marked as an upload is one: of those the server has checked that they lie where
    uploads do. Any other path is a stranger's.
    """
    marked = isinstance(upload, dict) and upload.get("meta") == {"_type": "gradio.FileData"}
    if not marked or not isinstance(upload.get("path"), str):
        verb = "are" if what.endswith("s") else "is"
        raise BadInput(field, f"{what} {verb} {quote(upload)}; upload {wanted}.")
    return Path(upload["path"])


def check_domain(field: str, upload) -> Delta:
    """The domain in an uploaded file; BadInput with the reason if it cannot be used."""
    try:
        return Delta.load(check_file(field, upload))
    except DeltaError as error:
        raise BadInput(field, str(error)) from error


def check_weights(count: int, weights) -> list[Weight]:
    """One weight per domain, from a list of what `check_strength` takes, or text such as
    "0.5, 0.5"; None: equal shares.

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
    return [check_strength("weights", WEIGHT, weight) for weight in weights]
