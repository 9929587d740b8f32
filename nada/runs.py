"""Adaptation in the background: jobs in threads, for programs that serve several people at once.

A run is told to stop by a flag that its thread reads between two steps, so that a Stop button, a
closed page and a lost client all mean the same, and whatever was trained by then is kept. Runs
share what nobody writes to, the base generator and CLIP; each trains a copy of its own.
"""

import contextlib
import copy
import ctypes
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from nada.adapt import DivergedError, Preset, Progress, adapt, file_name, prepare, record
from nada.clip import CLIP
from nada.delta import diff
from nada.generator import Generator
from nada.sample import sample

MAX_SECONDS = 30 * 60  # of one run
MAX_RUNS = 20  # remembered by a server; each keeps a domain file
KEEP_SECONDS = 60 * 60


@dataclass(frozen=True)
class Models:
    """What all runs read and none writes to."""

    generator: Generator
    clips: list[CLIP]


@dataclass(frozen=True)
class Job:
    """What to adapt to, and how; `preset` holds the source prompt and all settings."""

    target: str
    preset: Preset


class Run:
    """One job in a thread of its own, started at once.

    Set `stop` to end it after the step it is in; `finished` is set when nothing more will change.
    All else is for reading: state is "starting", "running", "finished", "stopped" or "failed";
    progress and losses (one per step) are the latest; before and after are pictures [N, 3, H, W]
    of the preview seeds, None at first; domain is the file of changed weights, there once
    `finished` is set if a step was done; error says why the run failed. The file lives as long as
    the run does.

    turn: held during each step, since a device does one at a time.
    """

    def __init__(self, job: Job, models: Models, turn: threading.Lock):
        self.job, self.models, self.turn = job, models, turn
        self.born = time.monotonic()
        self.stop, self.finished = threading.Event(), threading.Event()
        self.state, self.error = "starting", None
        self.progress: Progress | None = None
        self.losses: list[float] = []
        self.before: Tensor | None = None
        self.after: Tensor | None = None
        self.domain: Path | None = None
        self.folder = tempfile.TemporaryDirectory(prefix="nada-")  # goes when the run is let go of
        threading.Thread(target=self._thread, daemon=True).start()

    def _thread(self) -> None:
        self._work()  # a call of its own, so that all it used is free by now
        _give_back_memory()

    def _work(self) -> None:
        preset = self.job.preset
        try:
            with self.turn:
                trainable = copy.deepcopy(self.models.generator)
                self.before = self._sample(trainable)
                parts = prepare(self.models.clips, preset.source, self.job.target, preset)
            end = self._train(trainable, *parts)
            with self.turn:
                self.after = self._sample(trainable)
                self.domain = self._save(trainable) if self.progress else None
            self.state = end  # only now: who reads of the end finds the file
        except Exception as error:  # whoever reads the run must learn of it, whatever it is
            self.state, self.error = "failed", error
        finally:
            self.finished.set()

    def _train(self, trainable: Generator, loss, select) -> str:
        """Take steps until they end, or somebody or the clock says stop; how it ended."""
        steps = adapt(self.models.generator, trainable, loss, self.job.preset.config, select)
        self.state = "running"
        try:
            while not self.stop.is_set() and time.monotonic() - self.born < MAX_SECONDS:
                with self.turn:
                    progress = next(steps, None)
                if progress is None:
                    return "finished"
                self._note(progress)
                time.sleep(0.001)  # the lock is not fair: let whoever waits for it have a turn
            return "stopped"
        except DivergedError as error:  # the last good weights are left, and worth keeping
            self.error = error
            return "failed"
        finally:
            steps.close()

    def _note(self, progress: Progress) -> None:
        if progress.preview is not None:
            self.after = progress.preview
        self.losses.append(progress.loss)
        self.progress = replace(progress, preview=None)

    def _sample(self, generator: Generator) -> Tensor:
        config = self.job.preset.config
        return sample(generator, config.preview_seeds, config.preview_psi)

    def _save(self, trainable: Generator) -> Path:
        job, progress = self.job, self.progress
        metadata = record(self.models.clips, job.target, job.preset, progress)
        path = Path(self.folder.name) / file_name(job.target)
        diff(self.models.generator, trainable, metadata).save(path)
        return path


def _give_back_memory() -> None:
    """Return freed memory to the system; glibc would keep it for each thread that ever ran."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems lack the call
        ctypes.CDLL(None).malloc_trim(0)


class Runs:
    """The runs of a server by the secret id of their owner: one each, and only the latest ones."""

    def __init__(self):
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._lock = threading.Lock()

    def start(self, owner: str, job: Job, models: Models, turn: threading.Lock) -> Run:
        """A new run for an owner, whose earlier one stops; old and surplus runs are forgotten."""
        self.forget(owner)
        run = Run(job, models, turn)
        with self._lock:
            self._runs[owner] = run
            old = [o for o, r in self._runs.items() if run.born - r.born > KEEP_SECONDS]
            surplus = list(self._runs)[: max(0, len(self._runs) - MAX_RUNS)]
        for other in {*old, *surplus}:
            self.forget(other)
        return run

    def get(self, owner: str | None) -> Run | None:
        """The owner's latest run, if there is one."""
        with self._lock:
            return self._runs.get(owner)

    def forget(self, owner: str | None) -> None:
        """Stop the owner's run and let go of it."""
        with self._lock:
            run = self._runs.pop(owner, None)
        if run:
            run.stop.set()
