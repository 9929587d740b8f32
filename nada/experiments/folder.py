"""The folder of a sweep: the names of its files, and all that writes and reads them.

plans/SPEC.json                 which trials make which comparison
models.json                     what the models' names stood for
runs/ID/settings.json           a trial, before it begins
runs/ID/metrics.jsonl           a line for each look along the way
runs/ID/delta.safetensors       the domain
runs/ID/grid.png                some people, frozen above and adapted below
runs/ID/result.json             last of all: a trial counts once it is there
runs/ID/error.txt               instead of a result, why there is none
summary.jsonl, report.md, figures/  by a report; plans and summary are enough for the next one
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from nada.experiments.spec import PlannedCase, PlannedGroup, Spec
from nada.formats.files import written_whole

SETTINGS, CURVE, DELTA = "settings.json", "metrics.jsonl", "delta.safetensors"
GRID, RESULT, ERROR = "grid.png", "result.json", "error.txt"
SUMMARY, MODELS, REPORT = "summary.jsonl", "models.json", "report.md"
CURVES = ("quality", "identity", "clip_diversity", "judged", "lp", "diversity")
DIGITS = 4  # significant, of every number in the summary


def write_json(path: Path, data: dict) -> None:
    """The file whole or not at all."""
    write_text(path, json.dumps(data, indent=1))


def write_text(path: Path, text: str) -> None:
    """The file whole or not at all."""
    with written_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    """The objects of a file with one a line."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# One trial


def home(folder: Path, trial_id: str) -> Path:
    """Where a trial's files are."""
    return folder / "runs" / trial_id


def is_done(folder: Path, trial_id: str) -> bool:
    """Whether a trial has a result."""
    return (home(folder, trial_id) / RESULT).is_file()


def read_result(folder: Path, trial_id: str) -> dict:
    """What a finished trial came to."""
    return read_json(home(folder, trial_id) / RESULT)


# The plans


def write_plan(folder: Path, spec: Spec) -> None:
    """What a report needs to know of a specification: which trials make which case."""
    plan = {
        "name": spec.name,
        "title": spec.title,
        "text": spec.text,
        "groups": [_planned(group) for group in spec.groups],
        "spec": spec.source,
    }
    write_json(folder / "plans" / f"{spec.name}.json", plan)


def _planned(group: PlannedGroup) -> dict:
    first = group.cases[0].runs[0]
    return {
        "title": group.title,
        "text": group.text,
        "cases": [_planned_case(case) for case in group.cases],
        "generator": first.generator,
        "measure": asdict(first.measure),
        "stopping": group.stopping,
    }


def _planned_case(case: PlannedCase) -> dict:
    return {
        "name": case.name,
        "settings": case.settings,
        "all_settings": case.runs[0].settings,
        "runs": [trial.id for trial in case.runs],
    }


def read_plans(folder: Path) -> list[dict]:
    """What the folder's sweep was to compare, a specification each, ordered by name."""
    return [read_json(path) for path in sorted(folder.glob("plans/*.json"))]


# The summary


def read_summary(folder: Path) -> dict[str, dict]:
    """The trials by id that a report has put into the folder's summary; their own folders may be
    gone."""
    path = folder / SUMMARY
    lines = read_lines(path) if path.is_file() else []
    return {trial["id"]: trial for trial in lines}


def write_summary(folder: Path, trials: dict[str, dict]) -> None:
    """A line a trial, ordered by id."""
    lines = (json.dumps(trials[key], sort_keys=True) + "\n" for key in sorted(trials))
    write_text(folder / SUMMARY, "".join(lines))


def finished(folder: Path) -> dict[str, dict]:
    """The finished trials by id, as the summary has them: those of the summary, and those with a
    folder, which count where both are there."""
    homes = [path.parent for path in sorted(folder.glob(f"runs/*/{RESULT}"))]
    return read_summary(folder) | {home.name: summarise(home) for home in homes}


def summarise(home: Path) -> dict:
    """A trial's line of the summary, from its folder."""
    result, looks = read_json(home / RESULT), read_lines(home / CURVE)
    figures = {**result["figures"], "seconds": result["seconds"]}
    for name in set(looks[-1]) & set(CURVES) - set(figures):
        figures[name] = looks[-1][name]  # what only the looks along the way say
    return {
        "id": result["id"],
        "target": result["target"],
        "seed": result["seed"],
        "figures": {name: _rounded(value) for name, value in sorted(figures.items())},
        "curve": _curve(looks),
        "steps": result["steps_done"],
        "layers": result["layers"],
        "diverged": result["diverged"] is not None,
        "made_by": result["made_by"],
    }


def _curve(looks: list[dict]) -> dict[str, list]:
    names = [name for name in CURVES if looks[0].get(name) is not None]
    curve = {name: [_rounded(look[name]) for look in looks] for name in names}
    return {"step": [look["step"] for look in looks], **curve}


def _rounded(value: float | None) -> float | None:
    return value if value is None else float(f"{value:.{DIGITS}g}")


# The models


def remember_models(folder: Path, digests: dict[str, str]) -> None:
    """Keep what the models' names stand for, {name: SHA-256}.

    Raises:
        ValueError: the folder holds trials of other models of these names.
    """
    path = folder / MODELS
    known = read_json(path) if path.is_file() else {}
    changed = [name for name in digests if known.get(name, digests[name]) != digests[name]]
    if changed:
        raise ValueError(
            f"{folder} holds runs of another {changed[0]}: give --out another folder, so that one "
            "report does not mix the two."
        )
    write_json(path, {**known, **digests})


def pending(folder: Path, ids: Iterable[str]) -> list[str]:
    """Those of the trials that have neither a result nor a line in the summary, in order."""
    known = read_summary(folder)
    return [key for key in ids if key not in known and not is_done(folder, key)]
