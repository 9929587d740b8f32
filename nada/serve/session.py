"""What a visitor has: a run, kept domains, what they look at, and what their page's form holds.

All that is theirs lies in a folder of its own, made with the first thing that they make, and is
bounded. A server that is started again finds it there.
"""

import contextlib
import json
import math
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nada.delta import Delta, Strength
from nada.film import visits, write_mp4
from nada.formats.files import written_whole
from nada.formats.messages import quote
from nada.serve.disk import Shown, linked, usage
from nada.serve.domains import KeptDomain, KeptDomains
from nada.serve.jobs import FULL, Job, TrainingRun, unkept
from nada.serve.line import Line
from nada.serve.service import Service
from nada.serve.validate import (
    CARRY_OVER,
    MAX_MIX,
    STRENGTH,
    TRUNCATION,
    BadInput,
    check_flag,
    check_number,
    check_seeds,
    check_strength,
    check_weights,
)
from nada.serve.worker import Blend

SHOWN = 8  # images that are drawn while a run goes on
STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)  # strengths
FILM_SEEDS = 3
MAKING_SECONDS = 60  # from the admission of a visitor until there is what they make
ANSWER_SECONDS = 5  # in which an answer is written out once it is there
LONGEST = 1000  # characters that are remembered of a field
STATE = "visitor.json"


class Session:
    """One visitor: the service they work with, their run, their domains, what they look at.

    `looked_at` is a blend of domains of `service`, none of them for the generator itself; it
    changes by `look_at` alone. `form` holds what the fields of their page hold, by name.

    Args:
        service: the one to begin with.
        folder: where what they make will lie; `recover` takes up what an earlier server left there.
        line: in which their runs wait.
        shown: takes the files of answers.
        address: see `nada.serve.line.Line.enter`.
        admit: called before something is made where there is nothing yet; raises BadInput where
            there is no room for another visitor's things.
    """

    def __init__(
        self,
        service: Service,
        folder: Path,
        line: Line | None = None,
        shown: Shown | None = None,
        address: str | None = None,
        admit: Callable[["Session"], object] = lambda session: None,
    ):
        self.service, self.folder, self.address = service, folder, address
        self.line = Line() if line is None else line  # an empty one is false
        self._shown, self._admit = shown or Shown(), admit
        self.run: TrainingRun | None = None
        self.looked_at: Blend = ()
        self.form: dict[str, object] = {}
        self.seen = self.heard = time.monotonic()
        self._answered = -math.inf  # when a run of theirs had ended
        self.admitted = -math.inf  # when there was room for what they were about to make
        self._lock = threading.RLock()
        self._gone, self._is_new = False, True
        self._left: list[Path] = []  # folders of runs of an earlier server
        self.domains = KeptDomains(folder / "domains")

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to lose: no run, no domain."""
        return self.run is None and not self.domains

    @property
    def has_place(self) -> bool:
        """Whether they made something, or were just admitted to."""
        return not self.is_empty or time.monotonic() - self.admitted < MAKING_SECONDS

    @property
    def is_training(self) -> bool:
        """Whether a run goes on, or waits for its turn."""
        run = self.run
        return run is not None and not run.finished.is_set()

    @property
    def is_served(self) -> bool:
        """Whether a run goes on, or its answer may still be on its way to one who left."""
        return self.is_training or time.monotonic() - self._answered < ANSWER_SECONDS

    @property
    def bytes(self) -> int:
        """What the visitor's files take on disk, and the images of their run of memory."""
        run = self.run
        return usage(self.folder) + (run.bytes if run else 0)

    def shown(self, name: str) -> Path:
        """Where to write a file for an answer; it goes soon after it can have been fetched."""
        return self._shown.path(self.folder.name, name)

    def work_with(self, service: Service) -> None:
        """Go over to another generator; look at no domain."""
        self._drop_run()
        self.service = service
        self.look_at(())

    def look_at(self, parts: Blend) -> None:
        """Look at a blend of domains, or at none."""
        self.looked_at = tuple(parts)

    # What stays when the page or the server goes

    def remember(self, values: dict) -> None:
        """Note what fields hold: texts that are not too long, numbers, ticks; by name."""
        kept = (str, int, float, bool)
        self.form |= {
            name: value
            for name, value in values.items()
            if isinstance(value, kept) and len(str(value)[: LONGEST + 1]) <= LONGEST
        }

    def save(self) -> None:
        """Write down what a restarted server needs to know, if there is anything to come back to;
        what was written earlier is left where the disk is full."""
        ids = {domain.path: domain.id for domain in self.domains}
        looked_at = [
            (ids[path], asdict(weight) if isinstance(weight, Strength) else weight)
            for path, weight in self.looked_at
            if path in ids
        ]
        state = json.dumps({"form": self.form, "looked_at": looked_at})
        if self.folder.is_dir():
            with contextlib.suppress(OSError), written_whole(self.folder / STATE) as path:
                path.write_text(state)

    def touch(self) -> None:
        """Note on the disk that the visitor is here."""
        with contextlib.suppress(OSError):
            os.utime(self.folder / STATE)

    def recover(self) -> None:
        """Take up what an earlier server left: domains, the form, what was looked at; once."""
        with self._lock:
            if not self._is_new:
                return
            self._is_new = False
            if not self.folder.is_dir():
                return
            self.domains.find()
            own = self.run and self.run.folder
            self._left = [path for path in self.folder.glob("run-*") if path != own]
            with contextlib.suppress(OSError, ValueError, TypeError, LookupError):
                state = json.loads((self.folder / STATE).read_text())
                self.remember(dict(state["form"]))
                parts = [(self.domains.get(id), weight) for id, weight in state["looked_at"]]
                self.look_at(
                    (domain.path, Strength(**weight) if isinstance(weight, dict) else float(weight))
                    for domain, weight in parts
                    if domain
                )

    def recover_runs(self) -> None:
        """Keep what runs made that an earlier server did not end, with its generator at hand; where
        the disk is full they stay as they are for another time."""
        with self._lock, contextlib.suppress(OSError):
            while self._left:
                path, delta = unkept(self._left[-1]) or (None, None)
                if delta and delta.base_fingerprint == self.service.worker.loaded().fingerprint:
                    self.look_at([(self.keep(delta, path).path, 1.0)])
                shutil.rmtree(self._left.pop(), ignore_errors=True)

    def leave_nothing(self) -> None:
        """Stop the run and remove all that is the visitor's."""
        with self._lock:
            self._gone = True
        self._drop_run()
        self._shown.forget(self.folder.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    # Runs

    def job(self, settings: dict, start, seeds, truncation, pictures=None) -> Job:
        """What to train, with previews of what is looked at where that can be drawn.

        Args:
            settings: as `nada.serve.validate.check_job` takes them.
            start: the id of a kept domain to go on from; "" for the generator itself.
            seeds: of the previews, as text.
            truncation: of the previews.
            pictures: of the target, uploads.
        """
        start = None if start == "" else self._kept(start).path
        job = self.service.job(settings, start, pictures)
        try:
            shown = check_seeds(seeds)[:SHOWN]
            truncation = check_number("truncation", TRUNCATION, truncation)
        except BadInput:
            return job
        config = replace(job.preset.config, preview_seeds=tuple(shown), preview_psi=truncation)
        return replace(job, preset=replace(job.preset, config=config))

    def train(
        self,
        job: Job,
        service: Service | None = None,
        hints: Sequence[str] = (),
        keep: bool = True,
    ) -> TrainingRun:
        """Start a job; an earlier run stops.

        Args:
            job: what to do.
            service: the one to do it, the visitor's own unless given.
            hints: sentences about its settings.
            keep: whether to keep and look at what it makes.

        Raises:
            LineFull: there is no place for it.
            DiskFull: there is no room for it.
        """
        train = (service or self.service).worker.train
        self._admit(self)
        with self._lock:
            folder = self.folder / f"run-{secrets.token_hex(8)}"
            place = self.line.enter(self.address)
            try:
                last = partial(self._end_run, keep=keep)
                run = TrainingRun(job, train, folder, place, hints, last)
            except OSError:
                place.leave()
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._drop_run()
            self.run, self.heard = run, time.monotonic()
        self.save()
        return run

    def stop(self) -> None:
        """Stop the run, if one goes on."""
        run = self.run
        if run:
            run.stop.set()

    def _end_run(self, run: TrainingRun, keep: bool) -> None:
        """A run's last act: what it made is kept, and looked at if no other has begun, or handed
        out; nothing is left of a visitor who was forgotten meanwhile."""
        self._answered = time.monotonic()
        if self._gone:
            shutil.rmtree(self.folder, ignore_errors=True)
        elif run.domain and not keep:
            run.domain = linked(run.domain, self.shown(run.domain.name))
        elif run.domain:
            path = self._keep_made(run)
            if run is self.run:
                self.look_at([(path, 1.0)])
            self.save()

    def _keep_made(self, run: TrainingRun) -> Path:
        """Keep what a run made. On a full disk that takes the room of its earlier snapshots; where
        there is too little all the same, it stays the run's."""
        for make_room in (lambda: None, run.drop_earlier):
            make_room()
            try:
                path = self.keep(Delta.load(run.domain), run.domain).path
            except OSError:
                continue
            run.mark_kept()
            return path
        run.plan = FULL.format("the domain has no card, and goes with the next run")
        return run.domain

    def _drop_run(self) -> None:
        """Let go of the run, which stops; what was looked at of it is looked at no more."""
        with self._lock:
            run, self.run = self.run, None
            if run:
                if any(run.folder in path.parents for path, _ in self.looked_at):
                    self.look_at(())
                run.discard()

    def back_to(self, number: int) -> None:
        """Look at a snapshot of the run, the first being 1; the last if there are fewer."""
        paths = list(self.run.snapshots.values()) if self.run else []
        if paths:
            self.look_at([(paths[min(number, len(paths)) - 1], 1.0)])

    # Kept domains

    def keep(self, delta: Delta, file: Path | None = None) -> KeptDomain:
        """Keep a domain, with thumbnails for its card; `file` is where it is saved already."""
        if self._gone:
            raise BadInput("session", "This session was forgotten: open the page again.")
        self._admit(self)
        return self.domains.add(delta, self.service.thumbnails, file)

    def load(self, upload, carry_over=False) -> None:
        """Keep the domain of an uploaded file and look at it; an error if it cannot be used."""
        domain = self.service.uploaded("domain_file", upload, carry_over)
        self.look_at([(self.keep(domain).path, 1.0)])
        self.save()

    def open(self, id, carry_over=False) -> str:
        """Look at a kept domain; the id of what is looked at, which is another where it had to be
        carried over from another generator."""
        domain = self._usable(id, carry_over)
        self.look_at([(domain.path, 1.0)])
        return domain.id

    def forget(self, id) -> None:
        """Let go of a kept domain."""
        domain = self._kept(id)
        if any(path == domain.path for path, _ in self.looked_at):
            self.look_at(())
        self.domains.forget(domain.id)
        self.save()

    def _usable(self, id, carry_over) -> KeptDomain:
        """A kept domain of this generator: the one asked for, or, where that may be carried over
        and has to be, what is kept of it then."""
        domain = self._kept(id)
        may = check_flag("carry_over", CARRY_OVER, carry_over)
        if may and domain.base_fingerprint != self.service.worker.loaded().fingerprint:
            delta = self.service.carried(Delta.load(domain.path))
            facts = (delta.base_fingerprint, delta.metadata)
            kept = (d for d in self.domains if (d.base_fingerprint, d.metadata) == facts)
            return next(kept, None) or self.keep(delta)
        return self.service.check_fits(domain)

    def mix(self, ids, weights: Sequence, carry_over=False) -> None:
        """Look at a mix of two or three kept domains; there may be more weights than domains."""
        if not isinstance(ids, list) or not 2 <= len(ids) <= MAX_MIX:
            raise BadInput("domains", f"Choose two or three domains to mix, not {quote(ids)}.")
        paths = [self._usable(id, carry_over).path for id in ids]
        self.look_at(zip(paths, check_weights(len(paths), list(weights)[: len(paths)])))

    def keep_mix(self, strength) -> None:
        """Keep what is looked at, at the strength that is shown, as a domain of its own."""
        strength = Strength.of(check_strength("strength", STRENGTH, strength))
        if not self.looked_at:
            raise BadInput("domains", "There is nothing to keep yet: adapt, or open a domain.")
        self.look_at([(self.keep(self.service.mixed(self._at(strength))).path, 1.0)])
        self.save()

    def _kept(self, id) -> KeptDomain:
        domain = self.domains.get(id)
        if domain is None:
            raise BadInput("domains", "That domain is not kept any more: load its file again.")
        return domain

    # What is drawn

    def explore(self, seeds, strength, truncation) -> tuple[list[int], Tensor, Tensor | None]:
        """Seeds, and their images before and after; None where no domain is looked at."""
        seeds = check_seeds(seeds)
        strength = Strength.of(check_strength("strength", STRENGTH, strength))
        truncation = check_number("truncation", TRUNCATION, truncation)
        before = self.service.frozen(tuple(seeds), truncation)
        if not self.looked_at:
            return seeds, before, None
        return seeds, before, self.service.draw(self._at(strength), seeds, truncation)

    def strip(self, seeds, strength, truncation) -> tuple[Tensor, int]:
        """Images of the first seeds at the strengths of STRIP, row by row, and the columns.

        STRIP is of the largest of coarse, middle and fine; the others keep their proportion to it.
        """
        seeds = check_seeds(seeds)[:FILM_SEEDS]
        strength = Strength.of(check_strength("strength", STRENGTH, strength))
        truncation = check_number("truncation", TRUNCATION, truncation)
        blends = [self._at(strength.scaled() * share) for share in STRIP]
        columns = [self.service.draw(parts, seeds, truncation) for parts in blends]
        return torch.stack(columns, dim=1).flatten(0, 1), len(STRIP)

    def film(self, seeds, strength, truncation) -> Path:
        """An mp4 that wanders between the first seeds and their strengths."""
        seeds = check_seeds(seeds)[:FILM_SEEDS]
        strength = check_strength("strength", STRENGTH, strength) or 1.0
        truncation = check_number("truncation", TRUNCATION, truncation)
        worker, parts = self.service.worker, self._at(Strength.of(1.0))
        between = 12 if worker.models().generator.size <= 256 else 6
        frames = worker.film(
            parts, visits(seeds, strength), between=between, truncation_psi=truncation
        )
        write_mp4(frames, path := self.shown("film.mp4"))
        return path

    def _at(self, strength: Strength) -> Blend:
        """What is looked at, at some strength."""
        if not self.looked_at:
            raise BadInput("domains", "There is no domain yet: adapt first, or load a domain file.")
        return [(path, weight * strength) for path, weight in self.looked_at]
