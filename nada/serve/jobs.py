"""Adaptation in the background: jobs in threads, for programs that serve several people at once.

`train` does the work and reports it as events of plain data on the CPU, so that it may run in
another process as well. A `TrainingRun` waits in a thread for its turn, follows the work and keeps
what there is: the latest images, the last good snapshots, the domain file. Who looks on may come
and go. A flag that is read between two steps stops it, and what was trained by then is kept. Runs
share what nobody writes to, the base generator and CLIP.
"""

import contextlib
import contextvars
import shutil
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nada.adapt import DivergedError, Progress, adapt, trainable_copy
from nada.delta import Delta, DeltaError, blend, diff
from nada.facts import file_name, measured_facts, run_facts, target_name, title
from nada.formats.files import check_place
from nada.generator import Generator
from nada.guidance import Target
from nada.machine import give_back_memory
from nada.memory import fit_preset
from nada.presets import Preset, prepare
from nada.sample import ImageError, sample
from nada.serve.disk import is_full, linked
from nada.serve.images import LARGE, shrunk
from nada.serve.line import TICK, LinePlace
from nada.serve.models import ServedModels

MAX_SECONDS = 30 * 60  # of one run
MAX_SNAPSHOTS = 8  # kept of one run, however long it is
SNAPSHOT_BYTES = 256 * 2**20  # on disk, for one run
KEPT = "kept"
GOING = ("waiting", "starting", "running")  # the states of a run that has not ended
FULL = (
    "The server's disk is full: {}. Forget domains that you do not need, or try again in a few "
    "minutes."
)
NO_IMAGES = "The domain is that of step {}: later ones draw no images."

LoadModels = Callable[[], ServedModels]


@dataclass(frozen=True)
class Job:
    """What to adapt to, and with which settings.

    Args:
        target: the target prompt, or words and pictures.
        preset: the source prompt and all settings.
        start: a domain of the same generator to go on from; None for the generator itself.
    """

    target: str | Target
    preset: Preset
    start: Path | None = None

    @property
    def file_name(self) -> str:
        """Of the domain."""
        return file_name(target_name(self.target))


@dataclass(frozen=True)
class TrainingEvent:
    """What `train` reports; None for what has not changed. All tensors are on the CPU.

    Args:
        before: images [N, 3, H, W] of the preview seeds by the base generator, LARGE at most.
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


class DiskFull(OSError):
    """A domain that there is no room for; the message is a sentence for the visitor."""


class StopFile:
    """A flag that other processes see too: a file that is there until the flag is set, since a
    file can be removed when the disk is full. `set` and `is_set` as of a threading.Event."""

    def __init__(self, path: Path):
        self.path = path
        path.touch()

    def set(self) -> None:
        self.path.unlink(missing_ok=True)

    def is_set(self) -> bool:
        return not self.path.exists()


def train(
    load: LoadModels, job: Job, stop: StopFile, turn: AbstractContextManager | None = None
) -> Iterator[TrainingEvent]:
    """Do a job step by step; the last event has an `end`, and a snapshot if a step was done, unless
    that draws no images any more, as all earlier snapshots do.

    Args:
        load: the models to train with, which are only read.
        job: what to do.
        stop: read between two steps.
        turn: held during each step, since a device does one at a time; never across a yield.

    Raises:
        PromptError, DeltaError, ImageError, TooLittleMemory: the job cannot be done; nothing was
            trained.
    """
    turn, models, born = turn or nullcontext(), load(), time.monotonic()
    base = models.generator
    with turn:
        preset, plan = fit_preset(base, models.clips, job.preset)  # of the device that does it
        job, config = replace(job, preset=preset), preset.config
        before = _preview(base, job)
        start = base if job.start is None else blend(base, [(Delta.load(job.start), 1.0)])
        loss, select = prepare(models.clips, job.target, job.preset, start)
        trainable = trainable_copy(start, config)
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
                if due and step.preview is None:  # of which it is not known whether it draws
                    _preview(trainable, job)
                snapshot = _delta(base, trainable, models, job, step) if due else None
            if step is None:
                break
            progress = step
            preview = None if step.preview is None else shrunk(step.preview.cpu(), LARGE)
            yield TrainingEvent(None, preview, replace(step, preview=None), snapshot)
    except (DivergedError, ImageError) as failure:  # what is left may be worth keeping
        end, error = "failed", failure
    finally:
        steps.close()
    after = snapshot = None
    with turn:
        try:
            after = _preview(trainable, job)
            snapshot = _delta(base, trainable, models, job, progress, True) if progress else None
        except ImageError as failure:
            end, error = "failed", error or failure
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
    return shrunk(sample(generator, config.preview_seeds, config.preview_psi).cpu(), LARGE)


def _delta(
    base, trainable, models: ServedModels, job: Job, progress: Progress, measured=False
) -> Delta:
    """The domain as it is, with the facts that a card shows."""
    facts = run_facts(models.clips, job.target, job.preset, progress) | models.facts
    if job.start is not None:
        facts["started_from"] = title(Delta.load(job.start).metadata)
    if measured:
        facts |= measured_facts(trainable, models.clips[0], job.target)
    return diff(base, trainable, facts)


Train = Callable[[Job, StopFile], Iterator[TrainingEvent]]


class TrainingRun:
    """One job in a thread of its own, started at once; it trains when its turn comes.

    Set `stop` to end it after the step it is in; `finished` is set when nothing more will change.
    All else is for reading:

    - `state`: "waiting", "starting", "running", "finished", "stopped" or "failed"; `error`: why it
      failed;
    - `before_it`: how many runs have their turn earlier, while it waits;
    - `progress`, `losses`: the latest step, and the loss of each;
    - `before`, `after`: images [N, 3, H, W] of the preview seeds, None at first;
    - `snapshots`: domain files by step, spread over the run;
    - `plan`: a sentence where memory or disk is too little for what was asked, or "";
    - `domain`: the file of changed weights, there once `finished` is set if a step was done.

    Args:
        job: what to do.
        training: what to follow, `train` with models and turn filled in.
        folder: where its files lie, and only they; it goes with `discard`.
        place: its place in the line.
        hints: sentences about its settings, for all who look on.
        last: called with the run in its thread before `finished` is set.

    Raises:
        DiskFull: nothing could be saved of it.
        OSError: its folder cannot be made or written to.
    """

    def __init__(
        self,
        job: Job,
        training: Train,
        folder: Path,
        place: LinePlace,
        hints: Sequence[str] = (),
        last: Callable[["TrainingRun"], object] = lambda run: None,
    ):
        _make(folder, job.file_name)
        if job.start is not None and job.start.exists():  # it may be removed while the run needs it
            job = replace(job, start=linked(job.start, folder / job.start.name))
        self.job = job
        self.training, self.folder, self.place = training, folder, place
        self.hints = tuple(hints)
        self.born = time.monotonic()
        self.stop = StopFile(folder / "go")
        self.finished = threading.Event()
        self.end, self.error = "failed", None  # unless an event says otherwise
        self.plan = ""
        self.progress: Progress | None = None
        self.losses: list[float] = []
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        self.snapshots: OrderedDict[int, Path] = OrderedDict()
        self.domain: Path | None = None
        self._waits, self._discarded, self._last = True, False, last
        context = contextvars.copy_context()  # whose run it is, for a device that is lent by quota
        threading.Thread(target=context.run, args=(self._work,), daemon=True).start()

    @property
    def state(self) -> str:
        """What the run is doing; an end only once nothing will change any more."""
        if self.finished.is_set():
            return self.end
        if self._waits:
            return "waiting" if self.before_it else "starting"
        return "running" if self.progress else "starting"

    @property
    def before_it(self) -> int:
        """How many runs have their turn before this one."""
        return self.place.before if self._waits else 0

    def follow(self) -> Iterator[str]:
        """The state now and then, an end last and once.

        Raises:
            Exception: what the run failed of, if nothing came of it.
        """
        while (state := self.state) in GOING:
            yield state
            self.finished.wait(TICK)
        if self.error and not self.domain:
            raise self.error
        yield state

    def pairs(self) -> Tensor | None:
        """Images before and after, [2N, 3, H, W]; None as long as there are none, or no more."""
        before, after = self.before, self.after
        return None if before is None or after is None else torch.cat([before, after])

    @property
    def bytes(self) -> int:
        """What its images take of memory."""
        return sum(images.nbytes for images in (self.before, self.after) if images is not None)

    def let_go_of_images(self) -> None:
        """Free the images of a run that has ended, once all who look on have had them."""
        if self.finished.is_set():
            self.before = self.after = None

    def mark_kept(self) -> None:
        """Note beside the files that what the run made is kept elsewhere; see `unkept`."""
        with contextlib.suppress(OSError):
            (self.folder / KEPT).touch()

    def drop_earlier(self) -> None:
        """Let go of all snapshots but the latest, for the room that they take."""
        while len(self.snapshots) > 1:
            self._drop(next(iter(self.snapshots)))

    def discard(self) -> None:
        """Stop the run, and remove its files when it has ended."""
        self._discarded = True
        self.stop.set()
        if self.finished.is_set():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        event = events = None
        try:
            if self.place.wait(self.stop):
                self._waits = False
                with contextlib.closing(self.training(self.job, self.stop)) as events:
                    for event in events:
                        self._note(event)
                        time.sleep(0.001)  # a lock is not fair: let others who wait have a turn
                if event is None or event.end is None:
                    raise RuntimeError("The training ended without an event that says so.")
            else:
                self.end = "stopped"
        except Exception as error:  # readers of the run must learn of it, whatever it is
            self.end, self.error = "failed", error
        del event, events  # and with them all that the training used
        self.job = replace(self.job, target=target_name(self.job.target))  # no pictures stay here
        for error in filter(None, (self.error, self.error and self.error.__cause__)):
            traceback.clear_frames(error.__traceback__)  # they hold tensors
        self._finish()
        give_back_memory()

    def _finish(self) -> None:
        """Give way to the next run, and leave what this one made to whoever wants it."""
        self.place.leave()
        try:
            self._last(self)
        except Exception as error:
            self.error = self.error or error
        finally:
            self.finished.set()
        if self._discarded:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _note(self, event: TrainingEvent) -> None:
        self.before = self.before if event.before is None else event.before
        self.after = self.after if event.after is None else event.after
        self.plan = event.plan or self.plan
        if event.progress and event.end is None:
            self.losses.append(event.progress.loss)
            self.progress = event.progress
        if event.end:
            self.error, self.end = event.error, event.end
        if event.snapshot:
            self._keep(event.snapshot, event.progress.step, event.end is not None)
        elif event.end and self.snapshots:
            step, self.domain = next(reversed(self.snapshots.items()))
            self.plan = NO_IMAGES.format(step)

    def _keep(self, delta: Delta, step: int, last: bool) -> None:
        """Write a snapshot; beyond what there is room for, others go (`snapshot_to_drop`).

        On a full disk a run goes on without it. The last one takes the room of the others; where
        that is too little, the latest of them is the domain.

        Raises:
            DiskFull: there is none.
        """
        path = self.folder / f"{step:05d}" / self.job.file_name
        written = self._write(delta, path)
        if last and not written:
            self.drop_earlier()
            written = self._write(delta, path)
        if written:
            self.snapshots[step] = path
        elif last and not self.snapshots:
            raise DiskFull(FULL.format("the domain could not be saved"))
        else:
            self.plan = FULL.format("some snapshots are left out")
        if last:
            step, self.domain = next(reversed(self.snapshots.items()))
            if not written:
                self.plan = FULL.format(f"the domain is that of step {step}")
        sizes = {number: file.stat().st_size for number, file in self.snapshots.items()}
        while len(sizes) > 1 and (
            len(sizes) > MAX_SNAPSHOTS or sum(sizes.values()) > SNAPSHOT_BYTES
        ):
            del sizes[gone := snapshot_to_drop(list(sizes))]
            self._drop(gone)

    def _write(self, delta: Delta, path: Path) -> bool:
        """Save a file whole or not at all; whether there was room for it."""
        try:
            delta.save(path)
        except OSError:
            shutil.rmtree(path.parent, ignore_errors=True)
            return False
        return True

    def _drop(self, step: int) -> None:
        shutil.rmtree(self.snapshots.pop(step).parent, ignore_errors=True)


def _make(folder: Path, name: str) -> None:
    """A run's folder, if there is room in it for a file of that name."""
    try:
        folder.mkdir(parents=True)
        check_place(folder / name)
    except OSError as error:
        if is_full(error):
            raise DiskFull(FULL.format("no run could be saved")) from error
        raise


def unkept(folder: Path) -> tuple[Path, Delta] | None:
    """The latest domain in the folder of a run whose process died before it was kept elsewhere, and
    its file."""
    if (folder / KEPT).exists():
        return None
    for path in sorted(folder.glob("*/*.safetensors"), reverse=True):
        with contextlib.suppress(DeltaError):
            return path, Delta.load(path)
    return None
