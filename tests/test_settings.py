"""A setting stands once: each is walked through all that derives from it, and one more is added."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

import app
from nada.__main__ import build_parser, chosen, flag
from nada.adapt import AdaptConfig, Progress
from nada.delta import Delta
from nada.experiments.spec import Measure, Trial, settle
from nada.facts import run_facts
from nada.guidance import GuidanceConfig
from nada.presets import PRESETS, SERVED, SETTINGS, Preset, preset_for
from nada.serve.api import Api
from nada.serve.jobs import ServedModels
from nada.serve.validate import BadInput, check_job
from nada.serve.view import texts
from nada.settings import Range, Setting
from tests.served import ROOT

DEMO = PRESETS["demo"]


def another(known: Setting, value):
    """A value of a setting, other than the given one."""
    if known.kind is bool:
        return not value
    if known.kind is tuple:
        return (2.0,)
    if known.choices is not None:
        return next(choice for choice in known.choices if choice != value)
    bounds = known.served or known.range
    if known.kind is int:
        return bounds.low + 1 if value != bounds.low + 1 else bounds.low + 2
    fourth, half = (bounds.low + (bounds.high - bounds.low) * share for share in (0.25, 0.5))
    return fourth if value != fourth else half


CHANGES = [
    pytest.param(name, another(place.setting, DEMO.flat()[name]), id=name)
    for name, place in SETTINGS.items()
]


def written(value) -> list[str]:
    """A value as words of a command line."""
    return [",".join(map(str, value))] if isinstance(value, tuple) else [str(value)]


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_the_command_line_takes_every_setting_and_says_what_it_does(name, value):
    option = flag(name)
    words = [option] if value is True else [option.replace("--", "--no-", 1)]
    words = words if isinstance(value, bool) else [option, *written(value)]
    args = build_parser().parse_args(["adapt", "--target", "sketch", *words])
    assert chosen(args).preset.flat()[name] == value
    (commands,) = (a for a in build_parser()._actions if a.dest == "command")
    (action,) = (a for a in commands.choices["adapt"]._actions if option in a.option_strings)
    assert SETTINGS[name].setting.help in action.help


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_sweep_varies_every_setting(name, value):
    if name == "seed":  # a run's own
        trial = Trial("demo", "zombie", value, settle("demo", "demo", {}), Measure())
        assert trial.preset.config.seed == value
        return
    trial = Trial("demo", "zombie", 0, settle("demo", "demo", {name: value}), Measure())
    assert trial.settings[name] == value and trial.preset.flat()[name] == value


@pytest.mark.parametrize(("name", "value"), CHANGES)
def test_a_domain_file_tells_every_setting(clip_tiny, tmp_path, name, value):
    progress = Progress(1, 1, 0.5, {}, ("conv1",), 0.1, 1.0, 0.0)
    facts = run_facts([clip_tiny], "zombie", DEMO.with_({name: value}), progress)
    Delta("0" * 64, {}, facts).save(tmp_path / "d.safetensors")
    facts = Delta.load(tmp_path / "d.safetensors").metadata
    place = SETTINGS[name]
    parts = {"config": facts["config"], "guidance": facts["guidance"], "selection": facts}
    where = parts[place.part]
    key = place.field if place.part == "config" else name
    assert where[key] == json.loads(json.dumps(value))


@pytest.mark.parametrize(
    ("name", "value"),
    [change for change in CHANGES if SETTINGS[change.id].setting.place is not None],
)
def test_the_api_takes_every_setting_that_is_served(generator, clip_tiny, name, value):
    models, api_name = ServedModels(generator, [clip_tiny]), SETTINGS[name].setting.api_name
    asked = {**DEMO.served(), "source": "photo", "target": "zombie", "batch": 2}
    job = check_job(models, DEMO, {**asked, api_name: value})
    assert job.preset.flat()[name] == value
    assert f"{api_name}: {SETTINGS[name].setting.label}. " in Api.adapt.__doc__
    with pytest.raises(BadInput) as caught:
        check_job(models, DEMO, {**asked, api_name: "a lot"})
    assert caught.value.field == api_name


def test_the_page_and_the_api_show_every_setting_that_is_served():
    config = app.demo.get_config_file()
    labels = {c["id"]: c["props"].get("label") for c in config["components"]}
    (job,) = (d for d in config["dependencies"] if d["api_name"] == "adapt")
    shown = [labels[number] for number in job["inputs"]]
    assert shown[2:-3] == [known.label for known in SERVED.values()]
    on_page = str(list(labels.values()))
    for api_name, known in SERVED.items():
        assert f"'nada_{api_name}'" in on_page or f'"nada_{api_name}"' in on_page
        assert texts()["en"][api_name] == known.label
        assert texts()["ru"][api_name] != known.label  # a language of its own


def test_one_field_is_all_that_a_new_setting_needs(tmp_path):
    """In a copy of the project: a line in a dataclass, and it is everywhere."""
    for name in ("nada", "op"):
        ignore = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "app.py", tmp_path)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    source = tmp_path / "nada" / "adapt.py"
    line = (
        '    brand_new: float = setting(0.5, "Brand new", "It is new.", '
        "range=Range(0, 1), place=12, served=Range(0, 1, 0.1))\n"
    )
    text = source.read_text().replace("    preview_every:", line + "    preview_every:", 1)
    source.write_text(text)
    script = """
import json, app
from nada.__main__ import build_parser, chosen
from nada.adapt import Progress
from nada.experiments.spec import settle
from nada.facts import run_facts
from nada.presets import PRESETS
from nada.serve.api import Api
args = build_parser().parse_args(["adapt", "--target", "a", "--brand-new", "0.25"])
preset = chosen(args).preset
config = app.demo.get_config_file()
progress = Progress(1, 1, 0.5, {}, (), 0.1, 1.0, 0.0)
print(json.dumps({
    "command line": preset.config.brand_new,
    "sweep": settle("demo", "demo", {"brand_new": 0.25})["brand_new"],
    "domain file": run_facts([], "a", preset, progress)["config"]["brand_new"],
    "api": "brand_new: Brand new. It is new." in Api.adapt.__doc__,
    "page": sum("rand" in str(c["props"].get("label")) for c in config["components"]),
}))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "command line": 0.25,
        "sweep": 0.25,
        "domain file": 0.25,
        "api": True,
        "page": 2,
    }


def test_names_are_each_settings_own():
    assert set(SETTINGS) >= set(DEMO.flat()) and len(DEMO.flat()) == len(SETTINGS)
    assert len(SERVED) == sum(place.setting.place is not None for place in SETTINGS.values())


def test_a_preset_changes_by_either_name_and_refuses_strangers():
    assert DEMO.with_({"truncation": 0.5}) == DEMO.with_({"truncation_psi": 0.5})
    with pytest.raises(ValueError, match="no setting 'learning_rate': use steps, batch"):
        DEMO.with_({"learning_rate": 1})
    with pytest.raises(ValueError, match=r"batch is 0: give a whole number from 1 to 256\."):
        DEMO.with_({"batch": 0})


def test_what_belongs_to_a_generator_is_told_in_one_place(generator):
    assert preset_for("demo").clip == "demo" and preset_for("demo").preset == DEMO
    for source in ("ffhq", "somebody/cats", "generator.pt"):
        assert preset_for(source)[::2] == ("ffhq", "ViT-B/32")
    most = len(generator.conv_names)
    assert preset_for("ffhq").preset.selection.k == 10 > most
    assert preset_for("ffhq", generator).preset.selection.k == most


@pytest.mark.parametrize(
    ("config", "change", "sentence"),
    [
        (GuidanceConfig, {"lambda_global": -1}, "global is -1: give a number from 0 to 1000"),
        (GuidanceConfig, {"lambda_global": float("nan")}, "global is nan: give a number"),
        (GuidanceConfig, {"templates": "many"}, "templates is 'many': give one of bare, imagenet"),
        (GuidanceConfig, {"templates": ()}, "templates is"),
        (GuidanceConfig, {"clip_weights": ("1",)}, "weights is .*: give a list of numbers"),
        (AdaptConfig, {"train_to_rgb": 1}, "train_to_rgb is 1: give true or false"),
        (AdaptConfig, {"lr": "fast"}, "lr is 'fast': give a number from 0 to 10"),
        (AdaptConfig, {"resolution": False}, "resolution is False: give one of 0, 4, 8"),
    ],
)
def test_a_bad_value_is_named_with_what_would_do(config, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        config(**change)


def test_templates_may_be_ones_own():
    assert GuidanceConfig(templates=("a {}", "{}")).prompt_templates == ("a {}", "{}")
    assert len(GuidanceConfig().prompt_templates) == 79
    assert replace(Preset(), source="face").source == "face"


def test_a_range_holds_its_ends():
    known = Setting("A", "", int, Range(1, 3), name="a")
    assert [known.fits(value) for value in (0, 1, 3, 4, 2.0, True, None)] == [
        False, True, True, False, False, False, False,
    ]  # fmt: skip
