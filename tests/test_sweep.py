"""Specifications, single runs and whole sweeps, with tiny models and a judge that knows nothing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nada.__main__ import main
from nada.adapt import DivergedError, adapt
from nada.checkpoint import save_generator, write_safetensors
from nada.clip import save_clip
from nada.delta import Delta, blend
from nada.demo.judge import Judge
from nada.demo.render import Z_DIM
from nada.demo.strangers import STRANGERS
from nada.experiments import spec as specs
from nada.experiments.folder import read_summary, summarise
from nada.experiments.measure import Ensemble, Probe, references
from nada.experiments.report import write_report
from nada.experiments.spec import SpecError, load_spec, parse, settle
from nada.experiments.stopping import knee, past_plateau, plateau
from nada.experiments.sweep import result_line
from nada.experiments.trial import frozen_twin, perform
from nada.experiments.variants import (
    CachingGenerator,
    RandomLayers,
    UnpairedGenerator,
    select_by_w_shift_off_by_one,
    with_noise,
)
from nada.experiments.workbench import Workbench
from nada.generator import Generator
from nada.guidance import target_loss
from nada.layers import candidates, w_shifts
from nada.presets import PRESETS
from tests.helpers import TINY, equal, tiny_generator, wait_for

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def models(tmp_path_factory, clip_tiny) -> Path:
    """A folder with a generator of the judged world's z, a CLIP and a judge."""
    folder = tmp_path_factory.mktemp("models")
    generator = tiny_generator(replace(TINY, z_dim=Z_DIM))
    save_generator(generator, folder / "generator.safetensors")
    save_clip(clip_tiny.model, folder / "clip.safetensors", range(49408), ["photo"])
    torch.manual_seed(0)
    write_safetensors(Judge().state_dict(), folder / "judge.safetensors", {})
    return folder


@pytest.fixture(scope="module")
def workbench() -> Workbench:
    return Workbench("cpu")


def table(models: Path, **more) -> dict:
    """A specification of runs that take moments."""
    clip = str(models / "clip.safetensors")
    judge = str(models / "judge.safetensors")
    return {
        "generator": str(models / "generator.safetensors"),
        "preset": "demo-weights",
        "clip": clip,
        "targets": ["zombie"],
        "settings": {"steps": 3, "batch": 2, "select_batch": 2, "views": 0},
        "measure": {"clip": clip, "judge": judge, "samples": 4, "people": 3, "every": 2},
        **more,
    }


def only_run(models: Path, **settings):
    """A single run."""
    group = {"title": "one", "case": [{"name": "it", **settings}]}
    return parse(table(models, group=[group]), "t").runs[0]


def figures_of(result: dict) -> dict:
    """What of a result is the same whenever and wherever it is made."""
    return {key: value for key, value in result.items() if key not in ("seconds", "made_by")}


# Specifications


def small(**more) -> dict:
    common = {"generator": "g", "preset": "demo-weights", "seeds": [1, 2]}
    return {"targets": ["a b", "c"], **common, **more}


def test_a_grid_is_every_combination_and_cases_come_after_it():
    grid = {"k": [1, 2], "method": ["gradient", "random"]}
    group = {"title": "t", "grid": grid, "case": [{"name": "own", "k": 0}]}
    (group,) = parse(small(group=[group]), "s").groups
    assert [case.name for case in group.cases] == [
        "k 1, method gradient",
        "k 1, method random",
        "k 2, method gradient",
        "k 2, method random",
        "own",
    ]
    runs = group.cases[3].runs
    assert [(run.target, run.seed) for run in runs] == [("a b", 1), ("a b", 2), ("c", 1), ("c", 2)]
    assert {(run.settings["k"], run.settings["method"]) for run in runs} == {(2, "random")}
    assert runs[1].preset.selection.k == 2 and runs[1].preset.config.seed == 2
    assert runs[0].id.startswith("a-b-1-")


def test_equal_runs_of_two_groups_are_one_and_different_ones_are_apart():
    groups = [
        {"title": "k", "grid": {"k": [PRESETS["demo-weights"].selection.k, 3]}},
        {"title": "lr", "grid": {"lr": [PRESETS["demo-weights"].config.lr, 0.5]}},
    ]
    spec = parse(small(group=groups), "s")
    assert len(spec.runs) == 3 * 4 == len({run.id for run in spec.runs})


def test_settings_are_the_presets_but_for_what_is_given():
    settings = settle("demo", "demo", {"lr": 0.012, "global": 0.5, "templates": ["a {}", "{}"]})
    config = PRESETS["demo"].config
    assert settings["final_lr"] == pytest.approx(config.final_lr * 0.012 / config.lr)
    assert settings["global_"] == 0.5 and settings["directional"] == 1.0
    assert settings["beta2"] == config.beta2 and settings["k"] == PRESETS["demo"].selection.k
    assert settle("demo", "demo", {"final_lr": "none"})["final_lr"] is None
    group = {"title": "t", "case": [{"name": "n", "templates": ["a {}", "{}"]}]}
    run = parse(small(group=[group]), "s").runs[0]
    assert run.preset.guidance.templates == ("a {}", "{}")


def test_a_new_setting_at_its_default_leaves_the_names_of_runs_alone(monkeypatch):
    group = {"title": "t", "grid": {"k": [1]}}
    run = parse(small(group=[group]), "s").runs[0]
    monkeypatch.setitem(specs.DEFAULTS, "brand_new", 7)
    later = replace(run, settings={**run.settings, "brand_new": 7})
    assert later.id == run.id
    assert replace(run, settings={**run.settings, "brand_new": 8}).id != run.id
    rates = [{**run.settings, "style_lr": rate} for rate in (0.1, 0.2)]
    assert {replace(run, settings=rate).id for rate in rates} == {run.id}
    styles = [replace(run, settings={**rate, "parameters": "styles"}).id for rate in rates]
    assert len({run.id, *styles}) == 3


@pytest.mark.parametrize("name", sorted(path.stem for path in specs.FOLDER.glob("*.toml")))
def test_the_specifications_that_come_along_compare_different_runs(name):
    spec = load_spec(name)
    for group in spec.groups:
        runs = [run.id for case in group.cases for run in case.runs]
        assert len(set(runs)) == len(runs), group.title
        first, *others = [{run.seed for run in case.runs} for case in group.cases]
        assert first >= {0, 1, 2} and all(seeds == first for seeds in others), group.title
        assert name == "ffhq" or group.cases[0].runs[0].settings["clip"] == "demo"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"group": []}, r"nothing to compare: add a \[\[group\]\]"),
        ({"groop": []}, "cannot have 'groop'"),
        ({"targets": []}, "targets is"),
        ({"seeds": ["1"]}, "seeds is"),
        ({"preset": "fast"}, "no preset 'fast': use demo, demo-weights, ffhq"),
        ({"settings": {"learning_rate": 1}}, "cannot have 'learning_rate'"),
        ({"settings": {"batch": 0}}, "batch is 0: give a whole number from 1"),
        ({"settings": {"method": "best"}}, "method is 'best': use one of gradient, w_shift"),
        ({"settings": {"templates": "many"}}, "templates is 'many'"),
        ({"settings": {"k": -1}}, "k is -1: give a whole number from 0"),
        ({"settings": {"global": "x"}}, "global is 'x': give a number"),
        ({"settings": {"pictures": 17}}, "pictures is 17: give 0 to 16"),
        ({"settings": {"words": False}}, "neither words nor pictures"),
        ({"measure": {"every": 0}}, "every is 0"),
        ({"measure": {"judge": "demo"}}, "the judge has never seen 'a b'"),
        ({"group": [{"title": "t"}]}, "neither grid nor case"),
        ({"group": [{"title": "t", "grid": {"k": 3}}]}, "the grid's k is no list"),
        ({"group": [{"title": "t", "case": [{"k": 3}]}]}, "a case has no name"),
        ({"group": [{"grid": {"k": [3]}}]}, "A group has no title"),
    ],
)
def test_a_bad_specification_is_told_in_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse(small(**{"group": [{"title": "t", "grid": {"views": [1]}}], **change}), "s")


def test_a_file_that_cannot_be_read_is_told_in_a_sentence(tmp_path):
    with pytest.raises(SpecError, match=r"no specification 'nowhere': give a TOML file, or"):
        load_spec("nowhere")
    (tmp_path / "bad.toml").write_text("title = ")
    with pytest.raises(SpecError, match=r"bad\.toml is no TOML"):
        load_spec(tmp_path / "bad.toml")


PLANS = sorted((specs.FOLDER / "results" / "plans").glob("*.json"))


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_the_runs_that_were_done_are_those_of_the_specifications(path):
    """Names of runs stay: a changed one would have its run done again, and its result forgotten."""
    plan, done = json.loads(path.read_text()), read_summary(path.parent.parent)
    expected = {
        (group["title"], case["name"]): case["runs"]
        for group in plan["groups"]
        for case in group["cases"]
    }
    found = {
        (group.title, case.name): [trial.id for trial in case.runs]
        for group in load_spec(path.stem).groups
        for case in group.cases
    }
    assert found == expected
    assert {key for keys in expected.values() for key in keys} <= set(done)


# Variants


def test_random_layers_are_all_alike_and_follow_the_seed(generator):
    z, names = torch.zeros(1, generator.z_dim), candidates(generator)
    draw = RandomLayers(3)
    draws = [tuple(draw(generator, z, k=2, objective=None)) for _ in range(500)]
    again = RandomLayers(3)
    assert draws[:5] == [tuple(again(generator, z, k=2, objective=None)) for _ in range(5)]
    assert all(len(set(drawn)) == 2 for drawn in draws)
    shares = [sum(name in drawn for drawn in draws) / 500 for name in names]
    assert all(abs(share - 2 / len(names)) < 0.08 for share in shares)  # 3.6 standard deviations
    assert RandomLayers(0)(generator, z, k=0) and set(RandomLayers(0)(generator, z, k=0)) == set(
        names
    )


def test_the_originals_table_names_the_layer_below(generator, clip_tiny):
    z, objective = torch.randn(3, generator.z_dim), target_loss([clip_tiny], "sketch")
    shifts = w_shifts(generator, z, objective)
    rows = [0, *range(2, len(generator.convs) + 2)]  # row 1 stands for to_rgb1, no candidate
    rows.sort(key=lambda row: -shifts[row])
    expected = ["conv1" if row == 0 else f"convs.{row - 2}" for row in rows]
    got = select_by_w_shift_off_by_one(generator, z, objective, len(expected))
    assert got == expected
    with_rgb = select_by_w_shift_off_by_one(
        generator, z, objective, len(expected) + 1, candidates(generator, to_rgb=True)
    )
    assert "to_rgb1" in with_rgb and [n for n in with_rgb if n != "to_rgb1"] == expected


def test_unpaired_twins_differ_in_what_was_asked_for_alone(generator):
    ws = generator.mapping(torch.randn(2, generator.z_dim))
    noise = generator.make_noise(2, torch.Generator().manual_seed(1))
    expected = generator.synthesis(ws, noise)
    plain = UnpairedGenerator.like(generator, noise=False, crossover=False, seed=0)
    assert torch.equal(plain.synthesis(ws, noise), expected)
    own = UnpairedGenerator.like(generator, noise=True, crossover=False, seed=0)
    assert torch.equal(own.synthesis(ws), generator.synthesis(ws))  # the stored noise stays
    assert not torch.allclose(own.synthesis(ws, noise), expected)
    assert torch.equal(own.mean_latent, generator.mean_latent)


def test_an_unpaired_crossover_falls_on_a_row_of_its_own(generator):
    first, second = generator.mapping(torch.randn(2, generator.z_dim))[:, None]
    rows = range(1, generator.num_ws)
    mixed = {row: torch.cat([first[:, :row], second[:, row:]], dim=1) for row in rows}
    twin = UnpairedGenerator.like(generator, noise=False, crossover=True, seed=0)
    assert torch.equal(twin.synthesis(first), generator.synthesis(first))
    found = set()
    for _ in range(30):
        picture = twin.synthesis(mixed[2])
        found |= {r for r in rows if torch.equal(picture, generator.synthesis(mixed[r]))}
    assert found == set(rows)


def test_noise_is_added_to_a_copy_and_of_no_strength_is_none(generator):
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    noisy = with_noise(generator, 0.5)
    for key, value in noisy.state_dict().items():
        assert torch.equal(generator.state_dict()[key], before[key])
        assert torch.equal(value, before[key]) != key.endswith("noise.weight"), key
    ws = generator.mapping(torch.randn(2, generator.z_dim))
    assert not torch.allclose(noisy.synthesis(ws), generator.synthesis(ws))
    assert with_noise(generator, 0.0) is generator


def test_twins_with_noise_of_their_own_learn_something_else(models, workbench, tmp_path):
    shared, own = (only_run(models, noise_strength=0.5, noise=n) for n in ("shared", "independent"))
    results = [perform(run, tmp_path / run.settings["noise"], workbench) for run in (shared, own)]
    assert results[0]["figures"] != results[1]["figures"]
    without = perform(only_run(models), tmp_path / "without", workbench)
    assert "noise_strength" in shared.settings and without["figures"] != results[0]["figures"]
    assert workbench.digests(shared) == workbench.digests(only_run(models))


def test_a_recalling_twin_draws_the_same_thing_once(generator, monkeypatch):
    ws = generator.mapping(torch.randn(2, generator.z_dim))
    noise, other = (generator.make_noise(2, torch.Generator().manual_seed(i)) for i in (1, 2))
    asked = [(ws, noise), (ws + 1, noise), (ws, other), (ws, noise[:3], 8)]
    expected = [generator.synthesis(*inputs) for inputs in asked]
    twin = CachingGenerator.like(generator)
    for inputs, pictures in zip(asked, expected):
        assert torch.equal(twin.synthesis(*inputs), pictures)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = twin.synthesis(ws, noise)
    assert not torch.equal(coarse, expected[0])
    monkeypatch.setattr(Generator, "synthesis", None)  # nothing is drawn any more
    for inputs, pictures in zip(asked, expected):
        assert torch.equal(twin.synthesis(*inputs), pictures)


def test_a_recalling_twin_forgets_the_oldest_pictures_for_want_of_room(generator, monkeypatch):
    twin, noise = CachingGenerator.like(generator), generator.make_noise(1, torch.Generator())
    latents = list(generator.mapping(torch.randn(3, generator.z_dim))[:, None])
    monkeypatch.setattr(CachingGenerator, "ROOM", 2 * generator.synthesis(latents[0]).nbytes)
    for ws in latents:
        twin.synthesis(ws, noise)
    assert len(twin.made) == 2
    monkeypatch.setattr(Generator, "synthesis", lambda *_: pytest.fail("drawn again"))
    twin.synthesis(latents[2], noise), twin.synthesis(latents[1], noise)


def test_a_run_recalls_pictures_only_where_there_is_room_for_all(models, workbench, monkeypatch):
    run = only_run(models)
    assert type(frozen_twin(run, workbench)) is CachingGenerator
    monkeypatch.setattr(CachingGenerator, "ROOM", 100)
    assert frozen_twin(run, workbench) is workbench.base(run)


# When to stop


def test_the_knee_of_a_saturating_curve_is_where_its_slope_is_that_of_the_chord():
    steps = list(range(0, 101))
    values = [1 - 2.718281828 ** (-step / 10) for step in steps]
    assert knee(steps, values) == 23  # 10 ln(10 / (1 − e⁻¹⁰)) = 23.03
    assert knee(steps, [5 - value for value in values]) == 0
    assert knee([0, 10, 20], [0, 1, 0.2]) == 10


def test_the_plateau_is_told_from_the_past_alone():
    steps, values = [0, 10, 20, 30, 40, 50], [0.0, 0.1, 0.5, 0.7, 0.75, 2.0]
    assert plateau(steps, values) == 40  # gains 0.1, 0.4, 0.2, 0.05: below a fifth of 0.4
    assert plateau(steps[:5], values[:5]) == 40
    assert plateau(steps[:4], values[:4]) == 30
    with pytest.raises(ValueError, match="give one value for each step"):
        plateau([0, 1], [0.0])


def test_half_as_long_again_is_counted_from_the_plateau_in_looks_that_were_taken():
    steps, values = [0, 10, 20, 30, 40, 50], [0.0, 0.5, 0.51, 0.7, 0.75, 2.0]  # flat at 20
    assert past_plateau(steps, values) == 30
    assert past_plateau(steps, values, more=0.6) == 40  # 32 was not looked at
    assert past_plateau(steps, values, more=5) == 50


# One run


def test_an_ensembles_cosine_is_the_mean_of_its_models(clip_tiny, clip_a):
    pictures = torch.rand(3, 3, 16, 16) * 2 - 1
    together = Ensemble([clip_tiny, clip_a]).encode_image(pictures)
    alone = [clip.encode_image(pictures) for clip in (clip_tiny, clip_a)]
    expected = sum(f @ f.T for f in alone) / 2
    assert torch.allclose(together @ together.T, expected, atol=1e-6)


def test_a_workbench_makes_each_model_once_and_keeps_a_bounded_number(models, workbench):
    runs = [only_run(models, k=k) for k in (1, 2)]
    for what in (workbench.base, workbench.guides, workbench.observer):
        assert what(runs[0]) is what(runs[1])
    caches = [kept for kept in vars(workbench).values() if hasattr(kept, "cache_info")]
    assert len(caches) > 5 and all(cache.cache_info().maxsize for cache in caches)


def test_a_run_leaves_what_it_measured_and_the_weights_that_it_measured(
    models, workbench, tmp_path
):
    run = only_run(models, k=2, method="w_shift")
    result = perform(run, tmp_path / "run", workbench)
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {
        "settings.json",
        "metrics.jsonl",
        "delta.safetensors",
        "grid.png",
        "result.json",
    }
    assert json.loads((tmp_path / "run/result.json").read_text()) == json.loads(json.dumps(result))
    curve = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").open()]
    assert [look["step"] for look in curve] == [0, 2, 3] and len(curve[1]["layers"]) == 2
    assert curve[0]["lp"] == 1 and curve[0]["identity"] == 1 and curve[0]["diversity"] == 1

    observer = workbench.observer(run)
    adapted = blend(observer.base, [(Delta.load(tmp_path / "run/delta.safetensors"), 1.0)])
    measured = Probe(observer, run.target, run.measure.people)(adapted)
    assert {name: curve[-1][name] for name in measured} == pytest.approx(measured, abs=1e-6)
    assert measured["lp"] != 1


def test_pictures_guide_a_run_to_a_style_that_nobody_knows(models, workbench, tmp_path):
    (stranger,) = list(STRANGERS)[:1]
    run = replace(only_run(models, words=False, pictures=2), target=stranger)
    result = perform(run, tmp_path / "run", workbench)
    figures, facts = result["figures"], Delta.load(tmp_path / "run/delta.safetensors").metadata
    assert figures["judged"] is None and 0 < figures["lp"] != 1 and -1 <= figures["leak"] <= 1
    assert facts["target"] == "" and facts["pictures"]["count"] == 2
    assert re.fullmatch(r"lp \d\.\d\d, \d+ s", result_line(result))
    kept = summarise(tmp_path / "run")
    assert "judged" not in kept["curve"] and kept["figures"]["judged"] is None
    named = replace(only_run(models, pictures=2), target="zombie")
    other = perform(named, tmp_path / "named", workbench)
    assert other["figures"]["judged"] is not None and "leak" in other["figures"]
    assert "leak" not in perform(only_run(models), tmp_path / "words", workbench)["figures"]
    again = replace(only_run(models, words=False, pictures=2), target=stranger, seed=1)
    assert not torch.equal(references(run, Z_DIM), references(again, Z_DIM))


def test_the_same_run_gives_the_same_result(models, workbench, tmp_path):
    run = only_run(
        models, noise="independent", crossover="unpaired", mixing=0.9, method="random", k=2
    )
    first, second = (figures_of(perform(run, tmp_path / str(i), workbench)) for i in range(2))
    assert first == second
    usual = perform(only_run(models, method="random", k=2), tmp_path / "usual", workbench)
    assert usual["layers"] == first["layers"] and usual["figures"] != first["figures"]


def test_a_run_that_diverges_is_a_result(models, workbench, tmp_path, monkeypatch):
    def diverging(*arguments):
        for progress in adapt(*arguments):
            yield progress
            if progress.step == 2:
                raise DivergedError(2, "The loss is nan.", 0.1)

    monkeypatch.setattr("nada.experiments.trial.adapt", diverging)
    result = perform(only_run(models), tmp_path / "run", workbench)
    assert result["diverged"].startswith("The run stopped in step 3: The loss is nan.")
    assert result["steps_done"] == 2
    monkeypatch.undo()
    short = perform(only_run(models, steps=2), tmp_path / "short", workbench)
    assert 0 < result["figures"]["lp"] != 1 and short["diverged"] is None
    assert (tmp_path / "run/result.json").is_file()


def test_without_a_judge_clip_alone_measures(models, workbench, tmp_path):
    run = only_run(models)
    run = replace(
        run, target="a thing of no known style", measure=replace(run.measure, judge="none")
    )
    result = perform(run, tmp_path / "run", workbench)
    assert set(result["figures"]) == {"quality", "identity", "clip_diversity"}


# Whole sweeps


SPEC = """
generator = "{models}/generator.safetensors"
preset = "demo-weights"
clip = "{models}/clip.safetensors"
targets = ["zombie"]
[settings]
steps = {steps}
batch = 2
select_batch = 2
views = 0
[measure]
clip = "{models}/clip.safetensors"
judge = "{models}/judge.safetensors"
samples = 4
people = 3
every = 2
[[group]]
title = "t"
grid = {{k = [1, 2, 3, 4]}}
[[group.case]]
name = "fails"
in_domain = 1.0
batch = 1
"""


def write_spec(models: Path, folder: Path, steps: int = 3) -> Path:
    path = folder / "spec.toml"
    path.write_text(SPEC.format(models=models, steps=steps))
    return path


def children(pid: int) -> set[int]:
    """The processes below one, as Linux tells them."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found |= {child} | children(child)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes in /proc")
def test_a_sweep_goes_on_after_kill_9_and_its_processes_end_with_it(
    models, workbench, tmp_path, capsys
):
    spec, out = write_spec(models, tmp_path), tmp_path / "out"
    command = ["sweep", str(spec), "--out", str(out), "--jobs", "1"]
    sweep = subprocess.Popen(
        [sys.executable, "-m", "nada", *command], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: list(out.glob("runs/*/result.json")), 200)
    workers = children(sweep.pid)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    assert workers
    wait_for(lambda: not any(map(alive, workers)), 30)
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/result.json")}
    assert 1 <= len(before) < 4
    (out / "runs" / "half-done").mkdir()  # no result in it: as a killed run leaves it

    assert main(command) == 1
    told = capsys.readouterr().err
    assert f"5 runs in {out}, {len(before)} of them done." in told
    assert "failed (ValueError: The in-domain term compares images" in told
    results = list(out.glob("runs/*/result.json"))
    assert len(results) == 4 and len(list(out.glob("runs/*/error.txt"))) == 1
    assert all(path.stat().st_mtime_ns == when for path, when in before.items())
    run = load_spec(spec).runs[0]
    alone = perform(run, tmp_path / "alone", workbench)
    there = json.loads((out / "runs" / run.id / "result.json").read_text())
    assert figures_of(there) == figures_of(json.loads(json.dumps(alone)))

    write_report(out)  # whose summary says what was done where only that was kept
    shutil.rmtree(out / "runs")
    assert main([*command, "--dry"]) == 0
    assert f"5 runs in {out}, 4 of them done." in capsys.readouterr().err


def test_a_folder_does_not_mix_two_models_of_one_name(models, tmp_path, capsys):
    mine = tmp_path / "models"
    mine.mkdir()
    for path in models.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    command = ["sweep", str(write_spec(mine, tmp_path)), "--out", str(tmp_path / "out")]
    (tmp_path / "out").mkdir()
    name = f"generator {mine / 'generator.safetensors'}"
    (tmp_path / "out/models.json").write_text(json.dumps({name: "another"}))
    assert main(command) == 2
    assert f"holds runs of another {name}" in capsys.readouterr().err


def test_more_layers_than_there_are_stop_a_sweep_before_it_starts(models, tmp_path, capsys):
    spec = write_spec(models, tmp_path)
    spec.write_text(spec.read_text().replace("[1, 2, 3, 4]", "[1, 9]"))
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out")]) == 2
    assert "k is 9, but" in capsys.readouterr().err
    assert not (tmp_path / "out/runs").exists()


def test_a_dry_sweep_counts_and_does_nothing(models, tmp_path, capsys):
    spec = write_spec(models, tmp_path)
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--dry"]) == 0
    assert "5 runs in" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_local_ray_gives_what_a_run_here_gives(models, workbench, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")  # workers would wait for all else here
    spec, out = write_spec(models, tmp_path), tmp_path / "out"
    spec.write_text(spec.read_text().replace("[1, 2, 3, 4]", "[1]"))
    assert main(["sweep", str(spec), "--out", str(out), "--ray", "local"]) == 1
    assert "failed (ValueError: The in-domain term compares" in capsys.readouterr().err
    run = load_spec(spec).runs[0]
    here = perform(run, tmp_path / "here", workbench)
    files = sorted(path.name for path in (out / "runs" / run.id).iterdir())
    assert files == sorted(path.name for path in (tmp_path / "here").iterdir())
    there = json.loads((out / "runs" / run.id / "result.json").read_text())
    assert figures_of(there) == figures_of(json.loads(json.dumps(here)))
    here, there = (
        Delta.load(path / "delta.safetensors").tensors
        for path in (tmp_path / "here", out / "runs" / run.id)
    )
    assert equal(here, there)


def test_ray_that_is_not_installed_is_told_in_a_sentence(models, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # import fails
    spec = write_spec(models, tmp_path)
    assert main(["sweep", str(spec), "--out", str(tmp_path / "out"), "--ray", "local"]) == 2
    assert "pip install ray" in capsys.readouterr().err
