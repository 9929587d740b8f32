"""A sweep as a TOML file: settings to vary, targets and seeds, and the runs that they come to.

    title = "Which layers to train"
    targets = ["zombie", "devil"]   # or "tuned", "held out", "all", "strangers": styles
    seeds = [0, 1, 2]
    generator = "demo"              # as `load_generator` takes it
    clip = "demo"                   # as `load_clips` takes it
    preset = "demo"                 # a key of PRESETS: what is not set below

    [settings]                      # of every run
    steps = 60

    [measure]                       # the fields of `Measure`
    every = 10

    [[group]]                       # a comparison, one table of the report
    title = "How many layers"
    grid = {method = ["gradient", "random"], k = [1, 4]}  # every combination is a case
    [[group.case]]                  # a case by name
    name = "all layers"
    k = 0

A setting is one of `nada.presets.SETTINGS` by its flat name, `source`, `clip`, `noise` ("shared" or
"independent"), `noise_strength` (given to all layers of the generator; 0 leaves them as they are),
`crossover` ("paired" or "unpaired"), `pictures` (how many renders of other people in the target's
style guide the run) or `words` (whether its name does). Without a preset or a CLIP, those that suit
the generator are taken. A group may have `targets`, `seeds`, `settings` and `measure` of its own,
and `stopping = true` where the report shall ask when to stop.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from nada.demo.strangers import STRANGERS
from nada.demo.styles import HELD_OUT, TARGETS, TUNED
from nada.experiments.variants import CROSSOVERS, NOISE
from nada.formats.pictures import MOST as MOST_PICTURES
from nada.layers import SELECTORS
from nada.presets import PRESETS, SETTINGS, Preset, preset_for

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

FOLDER = Path(__file__).parent
METHODS = (*SELECTORS, "w_shift_off_by_one", "random")
STYLE_SETS = {"tuned": TUNED, "held out": HELD_OUT, "all": TARGETS, "strangers": tuple(STRANGERS)}
OTHERS = {  # controls, and what a target is made of
    "noise": NOISE[0],
    "noise_strength": 0.0,
    "crossover": CROSSOVERS[0],
    "pictures": 0,
    "words": True,
}
# What an id leaves out: so the library may come to have a setting, and older runs keep their ids.
DEFAULTS = {
    name: value
    for name, value in {**Preset().flat(), **OTHERS}.items()
    if name not in ("method", "k", "templates", "noise", "crossover")
}
CHOICES = {"method": METHODS, "noise": NOISE, "crossover": CROSSOVERS}
COMMON = ("targets", "seeds", "settings", "measure")
KEYS = {
    "spec": {*COMMON, "title", "text", "generator", "clip", "preset", "group"},
    "group": {*COMMON, "title", "text", "grid", "case", "stopping"},
}


class SpecError(ValueError):
    """A specification that cannot be run; the message is a sentence for who wrote it."""


@dataclass(frozen=True)
class Measure:
    """How the runs are looked at.

    clip: the models that give quality, diversity and identity, the same for all runs whatever they
    are trained with. judge: "demo" for the bundled one, a file, or "none" where there is no truth
    to compare with. samples: images at the end; people: at a step; every: steps between looks.
    """

    clip: str = "demo"
    judge: str = "demo"
    samples: int = 128
    people: int = 48
    every: int = 10

    def __post_init__(self):
        for name, least in (("samples", 2), ("people", 2), ("every", 1)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise SpecError(
                    f"{name} is {getattr(self, name)!r}: give a whole number of {least} or more."
                )


@dataclass(frozen=True)
class Trial:
    """One training: what it is made of, and nothing about where or when.

    settings: every setting by its flat name, as JSON holds it.
    """

    generator: str
    target: str
    seed: int
    settings: dict
    measure: Measure

    @property
    def id(self) -> str:
        """The name of its folder; runs that agree in everything have one, in any specification.

        Settings at their default do not count, so that a setting that the library comes to have
        later leaves the names of older runs as they are; nor does the rate of what is not trained.
        """
        own = {k: v for k, v in self.settings.items() if k not in DEFAULTS or v != DEFAULTS[k]}
        if "parameters" not in own:  # weights alone
            own.pop("style_lr", None)
        text = json.dumps({**asdict(self), "settings": own}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        words = "-".join("".join(c if c.isalnum() else " " for c in self.target.lower()).split())
        return f"{words[:40]}-{self.seed}-{digest[:12]}"

    @property
    def preset(self) -> Preset:
        """Its settings as `prepare` and `adapt` take them; ValueError names a bad one."""
        own = {name: value for name, value in self.settings.items() if name in SETTINGS}
        if own["method"] not in SELECTORS:  # a control of `nada.experiments.variants`
            own["method"] = next(iter(SELECTORS))
        return Preset(source=self.settings["source"]).with_({**own, "seed": self.seed})

    @classmethod
    def from_dict(cls, data: Mapping) -> "Trial":
        """What `dataclasses.asdict` gave."""
        return cls(**{**data, "measure": Measure(**data["measure"])})


@dataclass(frozen=True)
class PlannedCase:
    """One line of a comparison: its name, what it sets, and a run for each target and seed."""

    name: str
    settings: dict
    runs: tuple[Trial, ...]


@dataclass(frozen=True)
class PlannedGroup:
    """A comparison; the first case is what the others are held against.

    stopping: whether the report asks when these runs should have stopped.
    """

    title: str
    text: str
    cases: tuple[PlannedCase, ...]
    stopping: bool = False


@dataclass(frozen=True)
class Spec:
    """A file's groups, and its text as it was."""

    name: str
    title: str
    text: str
    groups: tuple[PlannedGroup, ...]
    source: str = field(repr=False, default="")

    @property
    def runs(self) -> list[Trial]:
        """Each run once, case by case."""
        runs = [run for group in self.groups for case in group.cases for run in case.runs]
        return list({run.id: run for run in runs}.values())


def load_spec(path: str | Path) -> Spec:
    """Read a specification: a path, or the name of one that comes with the package.

    Raises:
        SpecError: it is missing, no TOML, or asks for what there is not.
    """
    path = Path(path)
    if not path.is_file() and (FOLDER / f"{path}.toml").is_file():
        path = FOLDER / f"{path}.toml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in FOLDER.glob("*.toml")))
        raise SpecError(f"There is no specification {str(path)!r}: give a TOML file, or {known}.")
    try:
        text = path.read_text(encoding="utf-8")
        return parse(tomllib.loads(text), path.stem, text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name} is no TOML: {error}.") from error
    except ValueError as error:
        raise SpecError(f"{path.name}: {error}") from error


def parse(data: Mapping, name: str, source: str = "") -> Spec:
    """A specification's tables, checked, with all its runs; SpecError or ValueError if bad."""
    _known(data, KEYS["spec"], "The specification")
    if not _tables(data, "group"):
        raise SpecError("There is nothing to compare: add a [[group]] with a grid or cases.")
    groups = tuple(_group(data, group) for group in data["group"])
    return Spec(name, data.get("title", name), data.get("text", ""), groups, source)


def _group(data: Mapping, group: Mapping) -> PlannedGroup:
    _known(group, KEYS["group"], "A group")
    title = group.get("title", "")
    if not title:
        raise SpecError("A group has no title: give it one.")
    common = {**data.get("settings", {}), **group.get("settings", {})}
    cases = []
    for name, varied in _cases(group, title):
        try:
            runs = _runs({**data, **_own(data, group)}, common, varied)
            cases.append(PlannedCase(name, varied, runs))
        except ValueError as error:
            raise SpecError(f"In “{title}”, case “{name}”: {error}") from error
    if len({case.name for case in cases}) < len(cases):
        raise SpecError(f"In “{title}” two cases have one name: tell them apart.")
    return PlannedGroup(title, group.get("text", ""), tuple(cases), bool(group.get("stopping")))


def _own(data: Mapping, group: Mapping) -> dict:
    """What a group sets for itself of targets, seeds and measure."""
    own = {key: group[key] for key in ("targets", "seeds") if key in group}
    return {**own, "measure": {**data.get("measure", {}), **group.get("measure", {})}}


def _cases(group: Mapping, title: str) -> list[tuple[str, dict]]:
    """The name and the settings of each case: those of the grid, then those by name."""
    grid, named = group.get("grid", {}), _tables(group, "case")
    empty = [key for key, values in grid.items() if not isinstance(values, list) or not values]
    if empty or not (grid or named):
        what = f"the grid's {empty[0]} is no list" if empty else "there is neither grid nor case"
        raise SpecError(f"In “{title}” {what}: give a list of values to try.")
    cases = []
    for values in itertools.product(*grid.values()) if grid else ():
        varied = dict(zip(grid, values))
        cases.append((", ".join(f"{key} {_shown(value)}" for key, value in varied.items()), varied))
    for case in named:
        if not isinstance(case.get("name"), str):
            raise SpecError(f"In “{title}” a case has no name: give it one.")
        cases.append((case["name"], {key: value for key, value in case.items() if key != "name"}))
    return cases


def _shown(value) -> str:
    return f"{value:g}" if type(value) in (int, float) else str(value).lower()


def _runs(data: Mapping, common: Mapping, varied: Mapping) -> tuple[Trial, ...]:
    """A run for each target and seed."""
    generator = data.get("generator", "demo")
    suited = preset_for(generator)
    preset, clip = data.get("preset", suited.name), data.get("clip", suited.clip)
    settings = settle(preset, clip, {**common, **varied})
    judge = {} if generator == "demo" else {"judge": "none"}
    _known(data["measure"], {f.name for f in fields(Measure)}, "[measure]")
    measure = Measure(**{**judge, **data["measure"]})
    targets, seeds = _targets(data.get("targets", "tuned")), data.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or any(type(seed) is not int for seed in seeds):
        raise SpecError(f"seeds is {seeds!r}: give a list of whole numbers.")
    strangers = [target for target in targets if target not in (*TARGETS, *STRANGERS)]
    if measure.judge != "none" and strangers:
        raise SpecError(
            f"the judge has never seen {strangers[0]!r}: choose from {', '.join(TARGETS)}, "
            'or set judge = "none".'
        )
    runs = tuple(
        Trial(generator, target, seed, settings, measure) for target in targets for seed in seeds
    )
    for run in runs:
        _ = run.preset  # notices a bad number
    return runs


def _targets(value) -> Sequence[str]:
    if isinstance(value, str) and value in STYLE_SETS:
        return STYLE_SETS[value]
    if isinstance(value, list) and value and all(isinstance(v, str) and v.strip() for v in value):
        return value
    raise SpecError(
        f"targets is {value!r}: give a list of texts, or one of {', '.join(STYLE_SETS)}."
    )


def settle(preset_name: str, clip: str, given: Mapping) -> dict:
    """Every setting of a run by its flat name: the preset's, and what is given instead.

    Raises:
        SpecError: no such preset, setting or choice.
    """
    if preset_name not in PRESETS:
        raise SpecError(f"there is no preset {preset_name!r}: use {', '.join(PRESETS)}.")
    preset = PRESETS[preset_name]
    given = {"global_" if key == "global" else key: value for key, value in given.items()}
    given = {key: None if value == "none" else value for key, value in given.items()}
    settings = {**_flat(preset), **OTHERS, "clip": clip}
    _known(given, set(settings), "The settings")
    for key, choices in CHOICES.items():
        _one_of(key, given.get(key, settings[key]), choices)
    strength = given.get("noise_strength", 0.0)
    if type(strength) not in (int, float) or not 0 <= strength < float("inf"):
        raise SpecError(f"noise_strength is {strength!r}: give a number of 0 or more.")
    # the controls among the methods are the experiments' own
    own = {key: value for key, value in given.items() if key in SETTINGS and key not in CHOICES}
    changed = {key: preset.with_(own).flat()[key] for key in (*own, "final_lr")}
    settled = {**settings, **given, **changed}
    if type(settled["pictures"]) is not int or not 0 <= settled["pictures"] <= MOST_PICTURES:
        raise SpecError(f"pictures is {settled['pictures']!r}: give 0 to {MOST_PICTURES}.")
    if not (settled["pictures"] or settled["words"]):
        raise SpecError("there are neither words nor pictures: set one of them.")
    return settled


def _flat(preset: Preset) -> dict:
    """A preset's settings, but for the seed, which a run has of its own."""
    flat = {name: value for name, value in preset.flat().items() if name != "seed"}
    return {**flat, "source": preset.source}


def _one_of(key: str, value, choices) -> None:
    if value not in choices:
        raise SpecError(f"{key} is {value!r}: use one of {', '.join(choices)}.")


def _known(table: Mapping, keys: set[str], what: str) -> None:
    if not isinstance(table, Mapping):
        raise SpecError(f"{what} must be a table, got {table!r}: write key = value below it.")
    strangers = sorted(set(table) - keys)
    if strangers:
        raise SpecError(f"{what} cannot have {strangers[0]!r}: use {', '.join(sorted(keys))}.")


def _tables(data: Mapping, key: str) -> list[Mapping]:
    value = data.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise SpecError(f"{key} must be tables: write [[{key}]] before each.")
    return value
