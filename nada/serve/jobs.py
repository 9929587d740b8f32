"""Adaptation in the background: jobs in threads, for programs that serve several people at once.

`train` does the work and reports it as events of plain data on the CPU, so that it may run in
another process as well. A `TrainingRun` follows it in a thread and keeps what there is: the latest
images, the last good snapshots, the domain file. A flag that is read between two steps stops it, so
that a Stop button, a closed page and a lost client all mean the same, and what was trained by then
is kept. Runs share what nobody writes to, the base generator and CLIP.
"""

import contextlib
import contextvars
import copy
import ctypes
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nada.adapt import DivergedError, Progress, adapt
from nada.delta import Delta, blend, diff
from nada.facts import file_name, measured_facts, run_facts
from nada.generator import Generator
from nada.memory import fit_preset
from nada.presets import Preset, prepare
from nada.sample import sample
from nada.serve.models import ServedModels

MAX_SECONDS = 30 * 60  # of one run
MAX_SNAPSHOTS = 8  # kept of one run, however long it is
SNAPSHOT_BYTES = 256 * 2**20  # on disk, for one run
TICK = 0.4  # seconds between two looks at a run, which bounds how long Stop takes
GOING = ("starting", "running")  # the states of a run that has not ended

LoadModels = Callable[[], ServedModels]


@dataclass(frozen=True)
class Job:
    """What to adapt to, and with which settings.

    Args:
        target: the target prompt.
        preset: the source prompt and all settings.
        start: a domain of the same generator to go on from; None for the generator itself.
    """

    target: str
    preset: Preset
    start: Path | None = None


@dataclass(frozen=True)
class TrainingEvent:
    """What `train` reports; None for what has not changed. All tensors are on the CPU.

    Args:
        before: images [N, 3, H, W] of the preview seeds by the base generator.
        after: the same by the trained generator.
        progress: of the latest step.
        snapshot: the domain as it is after that step.
        end: "finished", "stopped" or "failed".
        error: why it failed.
        plan: how the run fits into memory, a sentence where that changes what was asked.
    """

    before: Tensor | None = None
    after: Tensor | None = None
    progress: Progress | None = None
    snapshot: Delta | None = None
    end: str | None = None
    error: Exception | None = None
    plan: str | None = None


class StopFile:
    """A flag that other processes see too: a file. `set` and `is_set` as of a threading.Event."""

    def __init__(self, path: Path):
        self.path = path

    def set(self) -> None:
        with contextlib.suppress(OSError):  # the folder may be gone, and the run with it
            self.path.touch()

    def is_set(self) -> bool:
        return self.path.exists() or not self.path.parent.exists()


def train(
    load: LoadModels, job: Job, stop: StopFile, turn: AbstractContextManager | None = None
) -> Iterator[TrainingEvent]:
    """Do a job step by step; the last event has an `end`, and a snapshot if a step was done.

    Args:
        load: the models to train with, which are only read.
        job: what to do.
        stop: read between two steps.
        turn: held during each step, since a device does one at a time; never across a yield.

    Raises:
        PromptError, DeltaError, TooLittleMemory: the job cannot be done; nothing was trained.
    """
    turn, models, born = turn or nullcontext(), load(), time.monotonic()
    base = models.generator
    with turn:
        preset, plan = fit_preset(base, models.clips, job.preset)  # of the device that does it
        job, config = replace(job, preset=preset), preset.config
        before = _preview(base, job)
        start = base if job.start is None else blend(base, [(Delta.load(job.start), 1.0)])
        loss, select = prepare(models.clips, job.target, job.preset)
        trainable = copy.deepcopy(start)
    yield TrainingEvent(before, before if start is base else _preview(trainable, job), plan=plan)
    progress, end, error = None, "finished", None
    steps = adapt(start, trainable, loss, config, select)
    try:
        while True:
            if stop.is_set() or time.monotonic() - born > MAX_SECONDS:
                end = "stopped"
                break
            with turn:
                step = next(steps, None)
                due = step and snapshot_due(step.step) and step.step < config.steps
                snapshot = _delta(base, trainable, models, job, step) if due else None
            if step is None:
                break
            progress = step
            preview = step.preview if step.preview is None else step.preview.cpu()
            yield TrainingEvent(None, preview, replace(step, preview=None), snapshot)
    except DivergedError as diverged:  # the last good weights are left, and worth keeping
        end, error = "failed", diverged
    finally:
        steps.close()
    with turn:
        after = _preview(trainable, job)
        snapshot = _delta(base, trainable, models, job, progress, True) if progress else None
    progress = progress and replace(progress, preview=None)
    yield TrainingEvent(None, after, progress, snapshot, end, error)


def snapshot_due(step: int) -> bool:
    """Whether a snapshot is taken after a step: after each up to MAX_SNAPSHOTS, then half as often
    each time the run has become twice as long, since nobody knows when it will be stopped."""
    apart = 1
    while step > MAX_SNAPSHOTS * apart:
        apart *= 2
    return step % apart == 0


def snapshot_to_drop(steps: list[int]) -> int:
    """Which snapshot goes where there are too many: the one that a wider spacing would not have,
    which leaves the rest spread over the run; never the last."""
    return min(steps[:-1], key=lambda step: step & -step)  # the power of two in it


def _preview(generator: Generator, job: Job) -> Tensor:
    config = job.preset.config
    return sample(generator, config.preview_seeds, config.preview_psi).cpu()


def _delta(
    base, trainable, models: ServedModels, job: Job, progress: Progress, measured=False
) -> Delta:
    """The domain as it is, with the facts that a card shows."""
    facts = run_facts(models.clips, job.target, job.preset, progress)
    if job.start is not None:
        facts["started_from"] = Delta.load(job.start).metadata.get("target", "")
    if measured:
        facts |= measured_facts(trainable, models.clips[0], job.target)
    return diff(base, trainable, facts)


Train = Callable[[Job, StopFile], Iterator[TrainingEvent]]


class TrainingRun:
    """One job in a thread of its own, started at once.

    Set `stop` to end it after the step it is in; `finished` is set when nothing more will change.
    All else is for reading:

    - `state`: "starting", "running", "finished", "stopped" or "failed"; `error`: why it failed;
    - `progress`, `losses`: the latest step, and the loss of each;
    - `before`, `after`: images [N, 3, H, W] of the preview seeds, None at first;
    - `snapshots`: domain files by step, spread over the run;
    - `plan`: a sentence where memory is too little for what was asked, or "";
    - `domain`: the file of changed weights, there once `finished` is set if a step was done.

    The files live as long as the run does.

    Args:
        job: what to do.
        training: what to follow, `train` with models and turn filled in.
    """

    def __init__(self, job: Job, training: Train):
        self.job, self.training = job, training
        self.folder = tempfile.TemporaryDirectory(prefix="nada-")  # goes when the run is let go of
        self.born = time.monotonic()
        self.stop = StopFile(Path(self.folder.name) / "stop")
        self.finished = threading.Event()
        self.end, self.error = "failed", None  # unless an event says otherwise
        self.plan = ""
        self.progress: Progress | None = None
        self.losses: list[float] = []
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        self.snapshots: OrderedDict[int, Path] = OrderedDict()
        self.domain: Path | None = None
        context = contextvars.copy_context()  # whose run it is, for a device that is lent by quota
        threading.Thread(target=context.run, args=(self._work,), daemon=True).start()

    @property
    def state(self) -> str:
        """What the run is doing; an end only once nothing will change any more."""
        if self.finished.is_set():
            return self.end
        return "running" if self.progress else "starting"

    def follow(self) -> Iterator[str]:
        """The state now and then, an end last and once; to leave is to stop the run.

        Raises:
            Exception: what the run failed of, if nothing came of it.
        """
        try:
            while (state := self.state) in GOING:
                yield state
                self.finished.wait(TICK)
            if self.error and not self.domain:
                raise self.error
            yield state
        finally:
            self.stop.set()

    def pairs(self) -> Tensor:
        """Images before and after, [2N, 3, H, W], once there are any."""
        return torch.cat([self.before, self.after])

    def _work(self) -> None:
        event = events = None
        try:
            with contextlib.closing(self.training(self.job, self.stop)) as events:
                for event in events:
                    self._note(event)
                    time.sleep(0.001)  # a lock is not fair: let others who wait for it have a turn
            if event is None or event.end is None:
                raise RuntimeError("The training ended without an event that says so.")
        except Exception as error:  # readers of the run must learn of it, whatever it is
            self.end, self.error = "failed", error
        finally:
            self.finished.set()
        del event, events  # and with them all that the training used
        _give_back_memory()

    def _note(self, event: TrainingEvent) -> None:
        self.before = self.before if event.before is None else event.before
        self.after = self.after if event.after is None else event.after
        self.plan = event.plan or self.plan
        if event.progress and event.end is None:
            self.losses.append(event.progress.loss)
            self.progress = event.progress
        if event.snapshot:
            self._keep(event.snapshot, event.progress.step, event.end is not None)
        if event.end:
            self.error, self.end = event.error, event.end

    def _keep(self, delta: Delta, step: int, last: bool) -> None:
        """Write a snapshot; beyond what there is room for, others go (`snapshot_to_drop`)."""
        path = Path(self.folder.name) / f"{step:05d}" / file_name(self.job.target)
        delta.save(path)
        self.snapshots[step] = path
        if last:
            self.domain = path
        sizes = {number: file.stat().st_size for number, file in self.snapshots.items()}
        while len(sizes) > 1 and (
            len(sizes) > MAX_SNAPSHOTS or sum(sizes.values()) > SNAPSHOT_BYTES
        ):
            del sizes[gone := snapshot_to_drop(list(sizes))]
            self.snapshots.pop(gone).unlink(missing_ok=True)


def _give_back_memory() -> None:
    """Return freed memory to the system; glibc would keep it for each thread that ever ran."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems lack the call
        ctypes.CDLL(None).malloc_trim(0)
