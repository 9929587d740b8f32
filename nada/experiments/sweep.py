"""Many runs from one specification: `python -m nada sweep SPEC`.

Each run has a folder of its own below FOLDER/runs: `settings.json`, `metrics.jsonl` with a line
for each look along the way, `delta.safetensors`, `grid.png` and, last of all, `result.json`. A run
counts once that file is there, so a sweep that was killed goes on where it was: the same command
again. FOLDER/plans says which runs make which comparison, for `python -m nada report`.

A run uses one thread wherever it is done, in a process here or on a Ray cluster: its result then
does not depend on how many went on beside it.
"""

import argparse
import copy
import functools
import json
import math
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from nada.adapt import DivergedError, Progress, adapt
from nada.checkpoint import CHECKPOINTS, fingerprint, load_generator, sha256
from nada.clip import CLIP, load_clips
from nada.delta import diff
from nada.demo.judge import Judge, load_judge, verdicts
from nada.demo.render import Z_DIM
from nada.demo.styles import render
from nada.experiments.evaluate import PSI, SHEET_SEEDS, assess, distance_to_truth, people, shown
from nada.experiments.spec import Spec, Trial, load_spec
from nada.experiments.variants import (
    CachingGenerator,
    RandomLayers,
    UnpairedGenerator,
    select_by_w_shift_off_by_one,
    with_noise,
)
from nada.facts import run_facts
from nada.formats.files import written_whole
from nada.generator import Generator
from nada.guidance import prompt_features
from nada.layers import SELECTORS
from nada.machine import keep_freed_memory, pick_device
from nada.metrics import diversity, identity, kernel_distance, quality
from nada.presets import prepare
from nada.sample import image_grid, latents, sample

RESULT, SETTINGS, CURVE = "result.json", "settings.json", "metrics.jsonl"
SUMMARY = "summary.jsonl"  # of a report
DELTA, GRID, ERROR = "delta.safetensors", "grid.png", "error.txt"
BYTES_PER_PIXEL = 3 * 4  # of a picture in float32
OTHERS = 20_000  # seeds of the true renders that the kernel distance compares with


# What a run needs


class Ensemble:
    """Several CLIP models as one: its features' cosine is the mean of theirs."""

    def __init__(self, clips: Sequence[CLIP]):
        self.clips = clips

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features [N, ΣD] of images [N, 3, H, W] in [-1, 1]."""
        return self._joined([clip.encode_image(images) for clip in self.clips])

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Unit features [N, ΣD]."""
        return self._joined([clip.encode_text(prompts) for clip in self.clips])

    def check_prompt(self, prompt: str) -> None:
        """PromptError if one of the models cannot read it."""
        for clip in self.clips:
            clip.check_prompt(prompt)

    def _joined(self, features: list[Tensor]) -> Tensor:
        return torch.cat(features, dim=1) / math.sqrt(len(features))


# One process does many runs with the same models; nothing writes to them.
_generator = functools.cache(load_generator)


@functools.cache
def _clips(spec: str, device: torch.device) -> list[CLIP]:
    """As `load_clips`; "checkpoints/clip-resnet.safetensors" is found from any folder."""
    ours = (CHECKPOINTS.parent / name for name in spec.split("+"))
    names = [str(o) if o.is_file() else n for o, n in zip(ours, spec.split("+"))]
    return load_clips("+".join(names), device)


@functools.cache
def _judge(name: str, device: torch.device) -> Judge | None:
    if name == "none":
        return None
    path = CHECKPOINTS / "judge.safetensors" if name == "demo" else Path(name)
    return load_judge(path, device)


@dataclass(frozen=True, eq=False)
class TrialModels:
    """What a run reads. eye: the CLIP that measures, the same for all runs; judge: None where
    there is no truth. Runs that read the same share one of these."""

    base: Generator
    clips: list[CLIP]
    eye: Ensemble
    judge: Judge | None

    @classmethod
    def of(cls, run: Trial, device: str) -> "TrialModels":
        """The run's models. ValueError or OSError for one that cannot be had, or does not fit."""
        where, measure = pick_device(device), run.measure
        base = _base(run.generator, run.settings["noise_strength"], where)
        return _models(base, run.settings["clip"], measure.clip, measure.judge, where)

    def digests(self, run: Trial) -> dict[str, str]:
        """What the run's model names stand for: {name: SHA-256}."""
        base = _generator(run.generator, self.base.mean_latent.device)
        found = {f"generator {run.generator}": fingerprint(base)}
        for spec, clips in ((run.settings["clip"], self.clips), (run.measure.clip, self.eye.clips)):
            found[f"clip {spec}"] = sha256({
                f"{i}.{key}": value
                for i, clip in enumerate(clips)
                for key, value in clip.state_dict().items()
            })  # fmt: skip
        if self.judge:
            found[f"judge {run.measure.judge}"] = sha256(self.judge.state_dict())
        return found


@functools.cache
def _base(name: str, noise_strength: float, device: torch.device) -> Generator:
    return with_noise(_generator(name, device), noise_strength)


@functools.cache
def _models(base: Generator, clip: str, eye: str, judge: str, device: torch.device) -> TrialModels:
    judge = _judge(judge, device)
    if judge and base.z_dim != Z_DIM:
        raise ValueError(
            f"The generator takes z of {base.z_dim} and the judged world has {Z_DIM}: "
            'set judge = "none".'
        )
    return TrialModels(base, _clips(clip, device), _eye(eye, device), judge)


@functools.cache
def _eye(spec: str, device: torch.device) -> Ensemble:
    return Ensemble(_clips(spec, device))


def selector(run: Trial, usual: partial) -> Callable:
    """The run's choice of layers; `usual` is what `prepare` gave."""
    others = {
        "w_shift_off_by_one": select_by_w_shift_off_by_one,
        "random": RandomLayers(zlib.crc32(f"{run.target} {run.seed}".encode())),
    }
    return partial({**SELECTORS, **others}[run.settings["method"]], **usual.keywords)


def frozen_twin(run: Trial, base: Generator) -> Generator:
    """A copy of the base that does not match the other twin where the run asks for that; else the
    base itself, as `CachingGenerator` where there is room for all its pictures."""
    noise = run.settings["noise"] == "independent"
    crossover = run.settings["crossover"] == "unpaired"
    if noise or crossover:
        return UnpairedGenerator.like(base, noise, crossover, run.seed)
    config = run.preset.config
    pixels = config.steps * config.batch * config.synthesis_options(base).resolution ** 2
    return _recalling(base) if pixels * BYTES_PER_PIXEL <= CachingGenerator.ROOM else base


_recalling = functools.cache(CachingGenerator.like)


# What a run is measured by


class Probe:
    """Looks at a generator on its way to a target: cheap enough for every few steps.

    quality, identity, clip_diversity: see `nada.metrics`; the eye's features, truncation 0.7.
    Where there is a judge also judged, lp and diversity as in `nada.experiments.evaluate.Row`.
    """

    @torch.no_grad()
    def __init__(self, models: TrialModels, target: str, count: int):
        self.models, self.target, self.count = models, target, count
        self.text = prompt_features(models.eye, target, ("{}",))
        before = pictures_of(models.base, models, count)
        self.source = models.eye.encode_image(before.narrow)
        if models.judge:
            self.truth = render(people(models.base, count), target, models.base.size)
            self.far = distance_to_truth(before.wide, self.truth)
            self.spread = diversity(models.judge.features(before.wide))
        self.start = self.figures(before)

    def __call__(self, generator: Generator) -> dict[str, float]:
        return self.figures(pictures_of(generator, self.models, self.count))

    @torch.no_grad()
    def figures(self, pictures: "Pictures") -> dict[str, float]:
        """Of pictures that a generator has shown; more of them than `count` do not count."""
        narrow = pictures.narrow[: self.count]
        features = self.models.eye.encode_image(narrow)
        figures = {
            "quality": quality(features, self.text),
            "identity": identity(features, self.source),
            "clip_diversity": diversity(features),
        }
        if self.models.judge:
            figures |= self._against_truth(narrow, pictures.wide[: self.count])
        return figures

    def _against_truth(self, narrow: Tensor, wide: Tensor) -> dict[str, float]:
        judge, called = self.models.judge, verdicts(self.models.judge, narrow)
        return {
            "judged": called.count(self.target) / len(called),
            "lp": distance_to_truth(wide, self.truth) / self.far,
            "diversity": diversity(judge.features(wide)) / self.spread,
        }


@functools.cache
def _gauge(models: TrialModels, target: str, count: int) -> Probe:
    return Probe(models, target, count)


class Pictures(NamedTuple):
    """Of `nada.experiments.evaluate.people`, [N, 3, H, W] in [-1, 1]: at truncation 0.7, and, where
    there is a judge to compare them with renders, without."""

    narrow: Tensor
    wide: Tensor | None


def pictures_of(generator: Generator, models: TrialModels, count: int) -> Pictures:
    return Pictures(shown(generator, count), shown(generator, count, 1.0) if models.judge else None)


def final_figures(models: TrialModels, run: Trial, pictures: Pictures) -> dict[str, float | None]:
    """What the run came to, by `samples` people: as a `Probe` looks without a judge; with one,
    `nada.experiments.evaluate.assess` and the kernel distance to true renders of other people."""
    if not models.judge:
        return _gauge(models, run.target, run.measure.samples).figures(pictures)
    pictures = Pictures(*(images[: run.measure.samples] for images in pictures))
    return {
        **assess(models.base, *pictures, models.eye, models.judge, run.target),
        "kernel": kernel_to_truth(models, run.target, pictures.wide),
    }


@torch.no_grad()
def kernel_to_truth(models: TrialModels, target: str, wide: Tensor) -> float:
    """Kernel distance (KID) of adapted pictures, in the judge's features, from true renders of as
    many other people in the target's style."""
    truth = _features_of_others(models.base, models.judge, target, len(wide))
    return kernel_distance(models.judge.features(wide), truth)


@functools.cache
def _features_of_others(base: Generator, judge: Judge, target: str, count: int) -> Tensor:
    z = latents(range(OTHERS, OTHERS + count), base.z_dim)
    return judge.features(render(z.to(base.mean_latent.device), target, base.size))


# One run


def perform(run: Trial, folder: Path, device: str = "cpu") -> dict:
    """Train, measure, write the run's files into `folder`, which is emptied first; the result.

    A run that diverges is a result too: its last good weights are measured, and `diverged` says
    what happened. Any other error leaves its trace in `error.txt` instead of a result.
    """
    torch.set_num_threads(1)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write_json(folder / SETTINGS, {"id": run.id, **asdict(run)})
    try:
        return _perform(run, folder, device)
    except Exception:
        (folder / ERROR).write_text(traceback.format_exc(), encoding="utf-8")
        raise


def _perform(run: Trial, folder: Path, device: str) -> dict:
    models = TrialModels.of(run, device)
    adapted = copy.deepcopy(models.base)
    last, diverged, pictures = follow(run, models, adapted, folder / CURVE)
    keep(run, models, adapted, last, folder)
    result = {
        "id": run.id,
        **asdict(run),
        "figures": final_figures(models, run, pictures),
        "steps_done": last.step if last else 0,
        "layers": list(last.layers) if last else [],
        "seconds": round(last.seconds, 2) if last else 0.0,
        "diverged": diverged,
        "made_by": f"torch {torch.__version__} on {_device_name(device)}",
    }
    _write_json(folder / RESULT, result)
    return result


def follow(
    run: Trial, models: TrialModels, adapted: Generator, curve: Path
) -> tuple[Progress | None, str | None, Pictures]:
    """Train `adapted` and write a line to `curve` at each look; the last step, why the run
    diverged or None, and what the generator shows in the end.

    `Progress.seconds` would count the looks: what is told is the time of the steps alone.
    """
    measure = run.measure
    gauge, last, looking = _gauge(models, run.target, measure.people), None, 0.0
    everybody = max(measure.people, measure.samples)
    with curve.open("w", encoding="utf-8") as file:

        def look(figures: dict[str, float], **told) -> None:
            print(json.dumps(told | figures), file=file, flush=True)

        look(gauge.start, step=0)
        try:
            for progress in training(run, models, adapted):
                last = replace(progress, seconds=progress.seconds - looking)
                if progress.step % measure.every and progress.step < progress.steps:
                    continue
                start = time.monotonic()
                ended = progress.step == progress.steps
                pictures = pictures_of(adapted, models, everybody if ended else gauge.count)
                look(gauge.figures(pictures), step=progress.step, loss=progress.loss,
                     terms=progress.terms, layers=progress.layers,
                     seconds=round(last.seconds, 2))  # fmt: skip
                looking += time.monotonic() - start
        except DivergedError as error:
            return last, str(error), pictures_of(adapted, models, everybody)
    return last, None, pictures


def training(run: Trial, models: TrialModels, adapted: Generator) -> Iterator[Progress]:
    """The steps of the run."""
    preset = run.preset
    loss, usual = prepare(models.clips, run.target, preset)
    twin = frozen_twin(run, models.base)
    yield from adapt(twin, adapted, loss, preset.config, selector(run, usual))


def keep(
    run: Trial, models: TrialModels, adapted: Generator, last: Progress | None, folder: Path
) -> None:
    """The domain file, and a picture of some people, frozen above and adapted below."""
    metadata = run_facts(models.clips, run.target, run.preset, last) if last else {}
    own = {name: run.settings[name] for name in ("method", "noise", "noise_strength", "crossover")}
    diff(models.base, adapted, {**metadata, **own}).save(folder / DELTA)
    rows = [_sheet_of_frozen(models.base), sample(adapted, SHEET_SEEDS, PSI)]
    image_grid(torch.cat(rows), len(SHEET_SEEDS)).save(folder / GRID)


@functools.cache
def _sheet_of_frozen(base: Generator) -> Tensor:
    return sample(base, SHEET_SEEDS, PSI)


def _device_name(device: str) -> str:
    where = pick_device(device)
    return torch.cuda.get_device_name(where) if where.type == "cuda" else platform.machine()


def _write_json(path: Path, data: dict) -> None:
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(data, indent=1), encoding="utf-8")


# Many runs


def home(folder: Path, run: Trial) -> Path:
    """Where the run's files are."""
    return folder / "runs" / run.id


def is_done(folder: Path, run: Trial) -> bool:
    return (home(folder, run) / RESULT).is_file()


def read_summary(folder: Path) -> dict[str, dict]:
    """The runs by id that a report has put into the folder's summary; their own folders may be
    gone."""
    path = folder / SUMMARY
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {run["id"]: run for run in map(json.loads, lines)}


def write_plan(folder: Path, spec: Spec) -> None:
    """What a report needs to know of a specification: which runs make which case."""
    groups = [
        {
            "title": group.title,
            "text": group.text,
            "cases": [
                {
                    "name": case.name,
                    "settings": case.settings,
                    "all_settings": case.runs[0].settings,
                    "runs": [run.id for run in case.runs],
                }
                for case in group.cases
            ],
            "generator": group.cases[0].runs[0].generator,
            "measure": asdict(group.cases[0].runs[0].measure),
            "stopping": group.stopping,
        }
        for group in spec.groups
    ]
    plan = {"name": spec.name, "title": spec.title, "text": spec.text, "groups": groups}
    _write_json(folder / "plans" / f"{spec.name}.json", {**plan, "spec": spec.source})


def check_models(folder: Path, runs: Iterable[Trial], device: str) -> None:
    """Load every model that the runs need, and make sure that the folder's runs had the same.

    Raises:
        ValueError: a model cannot be had, k is more than there are layers, or the folder holds
            runs of other models.
    """
    digests = {}
    kinds = {}
    for run in runs:
        kinds[run.generator, run.settings["clip"], run.measure] = run
        _check_k(run, _generator(run.generator, pick_device(device)))
    for run in kinds.values():
        digests |= TrialModels.of(run, device).digests(run)
    path = folder / "models.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = [name for name in digests if known.get(name, digests[name]) != digests[name]]
    if changed:
        raise ValueError(
            f"{folder} holds runs of another {changed[0]}: give --out another folder, so that one "
            "report does not mix the two."
        )
    _write_json(path, {**known, **digests})


def _check_k(run: Trial, base: Generator) -> None:
    layers = len(run.preset.config.layers(base))
    if run.settings["k"] > layers:
        raise ValueError(
            f"k is {run.settings['k']}, but {run.generator} has {layers} layers to choose from: "
            "use fewer, or 0 for all."
        )


Outcome = tuple[Trial, dict | Exception]  # a run and its result, or what went wrong


def in_processes(runs: Sequence[Trial], folder: Path, device: str, jobs: int) -> Iterator[Outcome]:
    """The runs, `jobs` at once in processes of this machine; in the order in which they end."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare_process)
    try:
        waiting = {pool.submit(perform, run, home(folder, run), device): run for run in runs}
        for done in as_completed(waiting):
            yield waiting[done], done.exception() or done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare_process() -> None:
    """Freed memory is kept, as by the command itself, and a killed sweep must not leave processes
    behind that work on, beside those of the next."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def through_ray(
    runs: Sequence[Trial], folder: Path, device: str, address: str
) -> Iterator[Outcome]:
    """The runs as independent jobs of a Ray cluster ("local" starts one here); they send their
    files back, so that the nodes need no common disk. The library travels with them.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at `address`.
    """
    ray = _connected_ray(address)
    try:
        needs = {"num_cpus": 1, "num_gpus": int(pick_device(device).type == "cuda")}
        job = ray.remote(**needs)(_perform_away)
        waiting = {job.remote(asdict(run), device): run for run in runs}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            run = waiting.pop(done)
            try:
                yield run, _bring_home(ray.get(done), home(folder, run))
            except ray.exceptions.RayError as error:
                yield run, getattr(error, "cause", None) or error
    finally:
        ray.shutdown()


def _connected_ray(address: str):
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--ray needs the package ray, which is not installed: pip install ray."
        ) from error
    root = CHECKPOINTS.parent
    away = [".git", "build", "tests", "__pycache__", ".venv", "venv", "*.png"]
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address == "local" else None,
            runtime_env={"working_dir": str(root), "excludes": away},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"There is no Ray cluster at {address!r} ({reason}): start one with `ray start "
            "--head`, or use --ray local."
        ) from error
    return ray


def _perform_away(run: dict, device: str) -> dict[str, bytes]:
    """A run on another machine: its files by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        perform(Trial.from_dict(run), folder, device)
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _bring_home(files: dict[str, bytes], folder: Path) -> dict:
    """Write the files of a run, the one that makes it count last; its result."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in sorted(files, key=lambda name: name == RESULT):
        with written_whole(folder / name) as unfinished:
            unfinished.write_bytes(files[name])
    return json.loads(files[RESULT])


# The command


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
    runs = list({run.id: run for spec in specs for run in spec.runs}.values())
    runs.sort(key=lambda run: run.seed)  # so that early results span all cases
    known = read_summary(folder)
    left = [run for run in runs if run.id not in known and not is_done(folder, run)]
    _tell(f"{len(runs)} runs in {folder}, {len(runs) - len(left)} of them done.")
    if args.dry:
        return 0
    check_models(folder, runs, args.device)
    for spec in specs:
        write_plan(folder, spec)
    if args.ray:
        outcomes = through_ray(left, folder, args.device, args.ray)
    else:
        outcomes = in_processes(left, folder, args.device, args.jobs)
    return tell_outcomes(outcomes, len(left), args.json)


def tell_outcomes(outcomes: Iterator[Outcome], total: int, as_json: bool) -> int:
    """Tell each run as it ends, with the time still to go; the exit status."""
    start, failed = time.monotonic(), 0
    for done, (run, outcome) in enumerate(outcomes, 1):
        eta = (time.monotonic() - start) / done * (total - done)
        if isinstance(outcome, BrokenProcessPool):
            _tell("A process was killed from outside, perhaps for want of memory: run the same "
                  "command again to go on, with fewer --jobs if it happens again.")  # fmt: skip
            return 1
        failed += isinstance(outcome, Exception)
        told = told_failure(outcome) if isinstance(outcome, Exception) else told_result(outcome)
        _tell(f"{done}/{total} {run.target}, seed {run.seed}: {told}; {duration(eta)} to go")
        if as_json and not isinstance(outcome, Exception):
            print(json.dumps(outcome), flush=True)
    if failed:
        _tell(f"{failed} of {total} runs failed; the same command tries them again.")
    return 1 if failed else 0


def told_failure(error: Exception) -> str:
    """A failure in a line."""
    return f"failed ({type(error).__name__}: {str(error).strip() or 'no message'})"


def told_result(result: dict) -> str:
    """A result in a line."""
    figures = result["figures"]
    names = ("judged", "lp") if "judged" in figures else ("quality", "identity")
    told = ", ".join(f"{name} {figures[name]:.2f}" for name in names)
    return ("diverged, " if result["diverged"] else "") + f"{told}, {result['seconds']:.0f} s"


def duration(seconds: float) -> str:
    """In words that suit its length: "40 s", "12 min", "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _tell(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
