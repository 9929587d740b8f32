"""What a visitor keeps while they are here: their run, their domains, what they look at.

A visitor is known by the secret id of their session. All of it lies in a folder of its own, is
bounded in number and bytes, and goes when the visitor does or has not been seen for a while.
"""

import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from nada.delta import Delta
from nada.facts import file_name, title
from nada.serve.jobs import Job, Train, TrainingRun
from nada.serve.worker import Blend

MAX_DOMAINS = 12  # of a visitor
MAX_VISITORS = 200
VISITOR_BYTES = 512 * 2**20  # of one visitor's domains
TOTAL_BYTES = 8 * 2**30  # of all that all of them keep
KEEP_SECONDS = 60 * 60  # since a visitor was last heard of
LEFT = 1 / 30  # of that time is left to one who closed the page: a lost line comes back


@dataclass(frozen=True)
class Kept:
    """A domain in a library: its file, what the file says of itself, and pictures to show."""

    id: str
    path: Path
    base_fingerprint: str
    facts: dict
    faces: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What to call it: the target, or what was mixed."""
        return title(self.facts)


class Session:
    """One session: a run, a library of domains, and the recipe that is looked at."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="nada-visitor-")
        self.run: TrainingRun | None = None
        self.kept: OrderedDict[str, Kept] = OrderedDict()
        self.recipe: Blend = ()
        self.generator: str | None = None  # what they chose to work with, if they did
        self.seen = time.monotonic()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """What the visitor's files take on disk."""
        files = [kept.path for kept in self.kept.values()]
        files += list(self.run.snapshots.values()) if self.run else []
        return sum(path.stat().st_size for path in files if path.exists())

    def keep(self, delta: Delta, faces: tuple[str, ...] = ()) -> Kept:
        """Add a domain; the oldest go where there are too many or they are too large."""
        number = secrets.token_hex(8)
        path = Path(self.folder.name) / number / file_name(title(delta.metadata))
        delta.save(path)
        kept = Kept(number, path, delta.base_fingerprint, delta.metadata, faces)
        with self._lock:
            self.kept[number] = kept
            sizes = [entry.path.stat().st_size for entry in self.kept.values()]
            while len(sizes) > 1 and (len(sizes) > MAX_DOMAINS or sum(sizes) > VISITOR_BYTES):
                self._drop(next(iter(self.kept)))
                sizes.pop(0)
        return kept

    def forget(self, number: str) -> None:
        """Let go of a domain, if it is there."""
        with self._lock:
            if number in self.kept:
                self._drop(number)

    def _drop(self, number: str) -> None:
        shutil.rmtree(self.kept.pop(number).path.parent, ignore_errors=True)

    def stop(self) -> None:
        """Stop the run, if one goes on."""
        if self.run:
            self.run.stop.set()


class Sessions:
    """The visitors of a server by the secret ids of their sessions.

    keep_seconds: how long one is remembered who is not heard of.
    """

    def __init__(self, keep_seconds: float = KEEP_SECONDS):
        self.keep_seconds = keep_seconds
        self._visitors: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self._purger: threading.Timer | None = None

    def __len__(self) -> int:
        return len(self._visitors)

    def get(self, number: str | None) -> Session:
        """The visitor of a session, a new one if there is none; a session without id is new."""
        with self._lock:
            number = number or secrets.token_urlsafe(16)
            visitor = self._visitors.setdefault(number, Session())
            self._visitors.move_to_end(number)
            visitor.seen = time.monotonic()
            surplus = list(self._visitors)[: max(0, len(self._visitors) - MAX_VISITORS)]
        for other in surplus:
            self.forget(other)
        self.purge()
        return visitor

    def find(self, number: str | None) -> Session | None:
        """The visitor of a session, if there is one."""
        with self._lock:
            return self._visitors.get(number)

    def start(self, number: str | None, job: Job, training: Train) -> TrainingRun:
        """A new run for a visitor, whose earlier one stops."""
        visitor = self.get(number)
        visitor.stop()
        visitor.run = TrainingRun(job, training)
        return visitor.run

    def forget(self, number: str | None) -> None:
        """Stop a visitor's run and let go of all they keep."""
        with self._lock:
            visitor = self._visitors.pop(number, None)
        if visitor:
            visitor.stop()

    def leave(self, number: str | None) -> None:
        """A visitor closed the page: their run stops, and they are soon forgotten."""
        visitor = self.find(number)
        if visitor:
            visitor.stop()
            visitor.seen = time.monotonic() - self.keep_seconds * (1 - LEFT)
            self._again(self.keep_seconds * LEFT)

    def purge(self) -> None:
        """Forget who was not heard of for long, but nobody whose run goes on; now and again."""
        now = time.monotonic()
        with self._lock:
            idle = {
                number: visitor
                for number, visitor in self._visitors.items()
                if visitor.run is None or visitor.run.finished.is_set()
            }
        old = [n for n, visitor in idle.items() if now - visitor.seen >= self.keep_seconds]
        for number in old:
            self.forget(number)
        excess = sum(visitor.bytes for visitor in list(self._visitors.values())) - TOTAL_BYTES
        for number in [n for n in list(idle)[:-1] if n not in old] if excess > 0 else ():
            excess -= idle[number].bytes
            self.forget(number)
            if excess <= 0:
                break
        self._again(self.keep_seconds / 4)

    def _again(self, seconds: float) -> None:
        """Purge after a while, as long as there is anybody, even if nobody comes any more."""
        with self._lock:
            if self._purger and self._purger is not threading.current_thread():
                self._purger.cancel()
            self._purger = None
            if self._visitors:
                left = min(
                    visitor.seen + self.keep_seconds - time.monotonic()
                    for visitor in self._visitors.values()
                )
                wait = min(max(0.5, left + 0.1), max(0.5, seconds + 0.1))
                self._purger = threading.Timer(wait, self.purge)
                self._purger.daemon = True
                self._purger.start()
