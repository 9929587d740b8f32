"""Many trials from one specification: `python -m nada sweep SPEC`.

Each trial has a folder of its own (`nada.experiments.folder`) and counts once its result is there,
so a sweep that was killed goes on where it was: the same command again. A trial uses one thread
wherever it is done, in a process here or on a Ray cluster: its result then does not depend on how
many went on beside it.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from nada.experiments.folder import pending, remember_models, write_plan
from nada.experiments.pool import Outcome, in_processes, through_ray
from nada.experiments.spec import Trial, load_spec
from nada.experiments.workbench import Workbench
from nada.formats.messages import json_line
from nada.generator import Generator


def add_sweep(commands) -> None:
    """Options of `sweep`; models and settings are the specification's."""
    summary = "Train many settings, targets and seeds from a specification; resumable."
    parser = commands.add_parser("sweep", help=summary, description=summary)
    parser.set_defaults(run=run_sweep)
    parser.add_argument("spec", nargs="+", metavar="SPEC",
                        help="a TOML file, or one that comes along, such as selection")  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder of the runs (default: build/sweeps/SPEC)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default: 1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="do the runs on this Ray cluster, or on "
                        "one that is started here for the purpose: local")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="of each run (default: cpu)")
    parser.add_argument("--dry", action="store_true", help="count the runs and do none")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a run")


def run_sweep(args: argparse.Namespace) -> int:
    """Do what is left to do; exit status 1 when a run failed."""
    if args.jobs < 1:
        raise ValueError(f"--jobs is {args.jobs}: give 1 or more.")
    specs = [load_spec(spec) for spec in args.spec]
    folder = args.out or Path("build/sweeps") / specs[0].name
    trials = {trial.id: trial for spec in specs for trial in spec.runs}
    by_seed = sorted(trials.values(), key=lambda trial: trial.seed)  # early results span all cases
    left = [trials[key] for key in pending(folder, (trial.id for trial in by_seed))]
    _say(f"{len(trials)} runs in {folder}, {len(trials) - len(left)} of them done.")
    if args.dry:
        return 0
    check_models(folder, by_seed, args.device)
    for spec in specs:
        write_plan(folder, spec)
    if args.ray:
        outcomes = through_ray(left, folder, args.device, args.ray)
    else:
        outcomes = in_processes(left, folder, args.device, args.jobs)
    return say_outcomes(outcomes, len(left), args.json)


def check_models(folder: Path, trials: Sequence[Trial], device: str) -> None:
    """Load every model that the trials need, and make sure that the folder's trials had the same.

    Raises:
        ValueError: a model cannot be had, k is more than there are layers, or the folder holds
            trials of other models.
    """
    workbench, kinds, digests = Workbench(device), {}, {}
    for trial in trials:
        kinds[trial.generator, trial.settings["clip"], trial.measure] = trial
        _check_k(trial, workbench.generator(trial.generator))
    for trial in kinds.values():
        digests |= workbench.digests(trial)
    remember_models(folder, digests)


def _check_k(trial: Trial, base: Generator) -> None:
    layers = len(trial.preset.config.chosen_among(base))
    if trial.settings["k"] > layers:
        raise ValueError(
            f"k is {trial.settings['k']}, but {trial.generator} has {layers} layers to choose "
            "from: use fewer, or 0 for all."
        )


# What is said as trials end


def say_outcomes(outcomes: Iterator[Outcome], total: int, as_json: bool) -> int:
    """Say how each trial ended, and the time still to go; the exit status."""
    start, failed = time.monotonic(), 0
    for done, (trial, outcome) in enumerate(outcomes, 1):
        eta = (time.monotonic() - start) / done * (total - done)
        if isinstance(outcome, BrokenProcessPool):
            _say(KILLED)
            return 1
        failed += isinstance(outcome, Exception)
        line = failure_line(outcome) if isinstance(outcome, Exception) else result_line(outcome)
        _say(f"{done}/{total} {trial.target}, seed {trial.seed}: {line}; {duration(eta)} to go")
        if as_json and not isinstance(outcome, Exception):
            print(json_line(outcome), flush=True)
    if failed:
        _say(f"{failed} of {total} runs failed; the same command tries them again.")
    return 1 if failed else 0


KILLED = (
    "A process was killed from outside, perhaps for want of memory: run the same command again to "
    "go on, with fewer --jobs if it happens again."
)


def failure_line(error: Exception) -> str:
    """A failure in a line."""
    return f"failed ({type(error).__name__}: {str(error).strip() or 'no message'})"


def result_line(result: dict) -> str:
    """A result in a line."""
    figures = result["figures"]
    wanted = ("judged", "lp") if "lp" in figures else ("quality", "identity")
    names = [name for name in wanted if figures[name] is not None]
    shown = ", ".join(f"{name} {figures[name]:.2f}" for name in names)
    return ("diverged, " if result["diverged"] else "") + f"{shown}, {result['seconds']:.0f} s"


def duration(seconds: float) -> str:
    """In words that suit its length: "40 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
