"""What each visitor has while they are here: a run, kept domains, what they look at.

A visitor is known by the secret id of their session, which a server translates once
(`Sessions.get`); from there on everything takes the session. All that is theirs lies in a folder of
its own, is bounded, and goes when they do or have not been seen for a while.
"""

import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from nada.delta import Delta
from nada.film import visits, write_mp4
from nada.formats.messages import quote
from nada.serve.domains import KeptDomain, KeptDomains
from nada.serve.jobs import Job, TrainingRun
from nada.serve.service import Service
from nada.serve.validate import (
    MAX_MIX,
    STRENGTH,
    TRUNCATION,
    BadInput,
    check_number,
    check_seeds,
    check_weights,
)
from nada.serve.worker import Blend

MAX_SESSIONS = 200
TOTAL_BYTES = 8 * 2**30  # of all that all visitors keep
KEEP_SECONDS = 60 * 60  # since a visitor was last heard of
LEFT = 1 / 30  # of that time is left to one who closed the page: a lost line comes back
SHOWN = 8  # images that are drawn while a run goes on
STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)  # strengths
FILM_SEEDS = 3


class Session:
    """One visitor: the service they work with, their run, their domains, what they look at.

    `looked_at` is a blend of domains of `service`, none of them for the generator itself; it
    changes by `look_at` alone.

    Args:
        service: the one to begin with.
    """

    def __init__(self, service: Service):
        self.service = service
        self.folder = tempfile.TemporaryDirectory(prefix="nada-visitor-")
        self.domains = KeptDomains(Path(self.folder.name))
        self.run: TrainingRun | None = None
        self.looked_at: Blend = ()
        self.seen = time.monotonic()
        self._settled = False  # whether the domain of the run is among the kept ones

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to lose: no run, no domain."""
        return self.run is None and not self.domains

    @property
    def is_training(self) -> bool:
        """Whether a run goes on."""
        return self.run is not None and not self.run.finished.is_set()

    @property
    def bytes(self) -> int:
        """What the visitor's files take on disk."""
        files = [*self.domains.files, *(self.run.snapshots.values() if self.run else ())]
        return sum(path.stat().st_size for path in files if path.exists())

    def path(self, name: str) -> Path:
        """A place for a file of the visitor's that is not a domain of theirs."""
        return Path(self.folder.name) / name

    def work_with(self, service: Service) -> None:
        """Go over to another generator, once what the run made is kept; look at no domain."""
        self.settle()
        self.service, self.run = service, None
        self.look_at(())

    def look_at(self, parts: Blend) -> None:
        """Look at a blend of domains, or at none."""
        self.looked_at = tuple(parts)

    # Runs

    def job(self, settings: dict, start, seeds, truncation) -> Job:
        """What to train, with previews of what is looked at where that can be drawn.

        Args:
            settings: as `nada.serve.validate.check_job` takes them.
            start: the id of a kept domain to go on from; "" for the generator itself.
            seeds: of the previews, as text.
            truncation: of the previews.
        """
        job = self.service.job(settings, None if start == "" else self._kept(start).path)
        try:
            shown = check_seeds(seeds)[:SHOWN]
            truncation = check_number("truncation", TRUNCATION, truncation)
        except BadInput:
            return job
        config = replace(job.preset.config, preview_seeds=tuple(shown), preview_psi=truncation)
        return replace(job, preset=replace(job.preset, config=config))

    def train(self, job: Job, service: Service | None = None) -> TrainingRun:
        """Start a job; an earlier run stops.

        Args:
            job: what to do.
            service: the one to do it, the visitor's own unless given.
        """
        self.stop()
        self.run = TrainingRun(job, (service or self.service).worker.train)
        self._settled = False
        return self.run

    def stop(self) -> None:
        """Stop the run, if one goes on."""
        if self.run:
            self.run.stop.set()

    def settle(self) -> TrainingRun | None:
        """The end of the run, awaited; what it made is kept and looked at."""
        run = self.run
        if not run:
            return None
        run.stop.set()
        run.finished.wait(120)
        if run.domain and not self._settled:
            self._settled = True
            self.look_at([(self.keep(Delta.load(run.domain)).path, 1.0)])
        return run

    def back_to(self, number: int) -> None:
        """Look at a snapshot of the run, the first being 1; the last if there are fewer."""
        paths = list(self.run.snapshots.values()) if self.run else []
        if paths:
            self.look_at([(paths[min(number, len(paths)) - 1], 1.0)])

    # Kept domains

    def keep(self, delta: Delta) -> KeptDomain:
        """Keep a domain, with thumbnails for its card."""
        return self.domains.add(delta, self.service.thumbnails)

    def load(self, upload) -> None:
        """Keep the domain of an uploaded file and look at it; an error if it cannot be used."""
        self.look_at([(self.keep(self.service.uploaded("domain_file", upload)).path, 1.0)])

    def open(self, id) -> None:
        """Look at a kept domain."""
        self.look_at([(self.service.check_fits(self._kept(id)).path, 1.0)])

    def forget(self, id) -> None:
        """Let go of a kept domain."""
        domain = self._kept(id)
        if any(path == domain.path for path, _ in self.looked_at):
            self.look_at(())
        self.domains.forget(domain.id)

    def mix(self, ids, weights: Sequence) -> None:
        """Look at a mix of two or three kept domains; there may be more weights than domains."""
        if not isinstance(ids, list) or not 2 <= len(ids) <= MAX_MIX:
            raise BadInput("domains", f"Choose two or three domains to mix, not {quote(ids)}.")
        paths = [self.service.check_fits(self._kept(id)).path for id in ids]
        self.look_at(zip(paths, check_weights(len(paths), list(weights)[: len(paths)])))

    def keep_mix(self) -> None:
        """Keep what is looked at as a domain of its own."""
        if not self.looked_at:
            raise BadInput("domains", "There is nothing to keep yet: adapt, or open a domain.")
        self.look_at([(self.keep(self.service.mixed(self.looked_at)).path, 1.0)])

    def _kept(self, id) -> KeptDomain:
        domain = self.domains.get(id)
        if domain is None:
            raise BadInput("domains", "That domain is not kept any more: load its file again.")
        return domain

    # What is drawn

    def explore(self, seeds, strength, truncation) -> tuple[list[int], Tensor, Tensor | None]:
        """Seeds, and their images before and after; None where no domain is looked at."""
        seeds = check_seeds(seeds)
        strength = check_number("strength", STRENGTH, strength)
        truncation = check_number("truncation", TRUNCATION, truncation)
        before = self.service.frozen(tuple(seeds), truncation)
        if not self.looked_at:
            return seeds, before, None
        return seeds, before, self.service.draw(self._at(strength), seeds, truncation)

    def strip(self, seeds, truncation) -> tuple[Tensor, int]:
        """Images of the first seeds at the strengths of STRIP, row by row, and the columns."""
        seeds = check_seeds(seeds)[:FILM_SEEDS]
        truncation = check_number("truncation", TRUNCATION, truncation)
        blends = [self._at(strength) for strength in STRIP]
        columns = [self.service.draw(parts, seeds, truncation) for parts in blends]
        return torch.stack(columns, dim=1).flatten(0, 1), len(STRIP)

    def film(self, seeds, strength, truncation) -> Path:
        """An mp4 that wanders between the first seeds and their strengths."""
        seeds = check_seeds(seeds)[:FILM_SEEDS]
        strength = check_number("strength", STRENGTH, strength) or 1.0
        truncation = check_number("truncation", TRUNCATION, truncation)
        worker, parts = self.service.worker, self._at(1.0)
        between = 12 if worker.models().generator.size <= 256 else 6
        frames = worker.film(
            parts, visits(seeds, strength), between=between, truncation_psi=truncation
        )
        write_mp4(frames, path := self.path("film.mp4"))
        return path

    def _at(self, strength: float) -> Blend:
        """What is looked at, at some strength."""
        if not self.looked_at:
            raise BadInput("domains", "There is no domain yet: adapt first, or load a domain file.")
        return [(path, weight * strength) for path, weight in self.looked_at]


class Sessions:
    """The sessions of a server by their secret ids.

    Args:
        service: the one that visitors begin with.
        keep_seconds: for how long one is remembered who is not heard of.
    """

    def __init__(self, service: Service, keep_seconds: float = KEEP_SECONDS):
        self.service, self.keep_seconds = service, keep_seconds
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # the last one heard of last
        self._lock = threading.Lock()
        self._purger: threading.Timer | None = None

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, id: str) -> bool:
        return id in self._sessions

    def get(self, id: str | None) -> Session:
        """The session of an id, a new one if there is none; without an id always a new one."""
        with self._lock:
            id = id or secrets.token_urlsafe(16)
            if id not in self._sessions:
                self._sessions[id] = Session(self.service)
            session = self._sessions[id]
            self._sessions.move_to_end(id)
            session.seen = time.monotonic()
            surplus = self._surplus()
        for other in surplus:
            self.forget(other)
        self.purge()
        return session

    def _surplus(self) -> list[str]:
        """Who goes where there are too many, those first who have nothing; never the latest."""
        others = list(self._sessions)[:-1]
        others.sort(key=lambda id: not self._sessions[id].is_empty)  # stable: the oldest first
        return others[: max(0, len(self._sessions) - MAX_SESSIONS)]

    def forget(self, id: str | None) -> None:
        """Stop a visitor's run and let go of all they keep."""
        with self._lock:
            session = self._sessions.pop(id, None)
        if session:
            session.stop()

    def leave(self, session: Session) -> None:
        """A visitor closed the page: their run stops, and they are soon forgotten."""
        session.stop()
        session.seen = time.monotonic() - self.keep_seconds * (1 - LEFT)
        self._purge_later(self.keep_seconds * LEFT)

    def purge(self) -> None:
        """Forget who was not heard of for long, but nobody whose run goes on; now and again."""
        now = time.monotonic()
        with self._lock:
            sessions = dict(self._sessions)
        idle = {id: session for id, session in sessions.items() if not session.is_training}
        old = [id for id, session in idle.items() if now - session.seen >= self.keep_seconds]
        for id in old:
            self.forget(id)
        excess = sum(s.bytes for id, s in sessions.items() if id not in old) - TOTAL_BYTES
        for id in [id for id in list(idle)[:-1] if id not in old] if excess > 0 else ():
            excess -= idle[id].bytes
            self.forget(id)
            if excess <= 0:
                break
        self._purge_later(self.keep_seconds / 4)

    def _purge_later(self, seconds: float) -> None:
        """Purge after a while, as long as there is anybody, even if nobody comes any more."""
        with self._lock:
            if self._purger and self._purger is not threading.current_thread():
                self._purger.cancel()
            self._purger = None
            if self._sessions:
                oldest = min(session.seen for session in self._sessions.values())
                left = oldest + self.keep_seconds - time.monotonic()
                wait = min(max(0.5, left + 0.1), max(0.5, seconds + 0.1))
                self._purger = threading.Timer(wait, self.purge)
                self._purger.daemon = True
                self._purger.start()
