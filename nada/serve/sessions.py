"""The visitors of a server: who they are, how long they are remembered, and who makes room.

A page or a client is known by an id that lasts as long as it does, and that stands in addresses and
logs; a browser by a secret key of its own, under which its visitor is found again. Where there is
too much, who nobody has looked at longest makes room: nobody whose page is open, nobody whose run
goes on.
"""

import contextlib
import hashlib
import itertools
import re
import secrets
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from nada.machine import give_back_memory
from nada.serve.disk import NAMELESS, SHOWN_SECONDS, TOTAL_BYTES, Home, Shown
from nada.serve.line import Line
from nada.serve.service import Service
from nada.serve.session import Session
from nada.serve.validate import BadInput

MAX_SESSIONS = 200  # of visitors who have made something
SESSIONS_PER_ADDRESS = 50  # of them
MAX_EMPTY = 1000  # of visitors who only look
KEEP_SECONDS = 60 * 60  # since a visitor was last heard of
LEFT = 1 / 30  # of that time: one who has nothing, or no key to come back by
LINGER = 1 / 120  # of that time: a run that nobody follows; a lost line comes back
PAGES = 20  # closed ones of a visitor whose line may yet come back
CLOSING_SECONDS = 8  # for runs to save what they have when the server ends
KEY = re.compile(r"[0-9a-f]{64}")


class Sessions:
    """The sessions of a server.

    Args:
        service: the one that visitors begin with.
        keep_seconds: for how long one is remembered who is not heard of.
        home: where the server's files lie; a folder of its own by default.
    """

    def __init__(
        self, service: Service, keep_seconds: float = KEEP_SECONDS, home: Home | None = None
    ):
        self.service, self.keep_seconds, self.home = service, keep_seconds, home
        self.line = Line()
        self.shown = Shown(home and home.shown)
        self._folder: Path | None = home and home.visitors
        self._own: tempfile.TemporaryDirectory | None = None  # goes with the server
        self._tabs: dict[str, Session] = {}  # by the id of a page or a client
        self._keyed: dict[str, Session] = {}  # by the digest of a browser's key
        self._present: Counter[str] = Counter()  # open lines of each page or client
        self._lock = threading.RLock()
        self._keeper: threading.Thread | None = None
        self._closed = False
        if home:  # there may be what visitors of an earlier server kept
            self._keep_house()

    def __len__(self) -> int:
        return len(self._all())

    def __contains__(self, id: str) -> bool:
        return id in self._tabs

    def _all(self) -> list[Session]:
        """All sessions, the one that was heard of longest ago first."""
        with self._lock:
            sessions = {id(s): s for s in (*self._tabs.values(), *self._keyed.values())}
        return sorted(sessions.values(), key=lambda session: session.seen)

    # Who it is

    def get(self, id: str | None, address: str | None = None) -> Session:
        """The session of a page or a client, a new one if there is none; without an id always new.

        Args:
            id: of the page or the client.
            address: from where, as `nada.serve.line.address_group` gives it.
        """
        with self._lock:
            id = id or secrets.token_urlsafe(16)
            if id not in self._tabs:
                self._tabs[id] = self._new(f"{NAMELESS}{secrets.token_hex(16)}", address)
            session = self._tabs[id]
            session.seen = time.monotonic()
        self._forget_surplus(session)
        self._keep_house()
        return session

    def come_back(self, id: str, key, address: str | None = None) -> Session:
        """The session of a browser, which a page of its finds again by the browser's key.

        Args:
            id: of the page.
            key: 64 hexadecimal digits that nobody else knows; anything else opens nothing.
            address: as `get` takes it.
        """
        if not isinstance(key, str) or not KEY.fullmatch(key):
            return self.get(id, address)
        digest = hashlib.sha256(key.encode()).hexdigest()
        with self._lock:
            if digest not in self._keyed:
                self._keyed[digest] = self._new(digest, address)
            session = self._tabs[id] = self._keyed[digest]
            closed = [one for one, its in self._tabs.items() if its is session and one != id]
            closed = [one for one in closed if one not in self._present]
            for one in closed[:-PAGES]:
                del self._tabs[one]
        return self.get(id, address)

    def _new(self, name: str, address: str | None) -> Session:
        if self._folder is None:
            self._own = tempfile.TemporaryDirectory(prefix="nada-visitors-")
            self._folder = Path(self._own.name)
        folder = self._folder / name
        return Session(self.service, folder, self.line, self.shown, address, self._admit)

    # Who is there

    def arrive(self, id: str) -> None:
        """A page or a client opened a line to the server."""
        with self._lock:
            self._present[id] += 1

    def depart(self, id: str) -> None:
        """It closed one."""
        with self._lock:
            self._present[id] -= 1
            if self._present[id] <= 0:
                del self._present[id]
                if session := self._tabs.get(id):
                    session.seen = session.heard = time.monotonic()

    def listens(self, id: str) -> bool:
        """Whether a page or a client holds a line open."""
        return id in self._present

    def is_watched(self, session: Session) -> bool:
        """Whether a page of the visitor's is open, or a client of theirs connected."""
        with self._lock:
            return any(self._tabs.get(id) is session for id in self._present)

    # Who goes

    def forget(self, id: str | None) -> None:
        """Let go of the visitor of a page or a client."""
        if session := self._tabs.get(id or ""):
            self.drop(session)

    def drop(self, session: Session) -> None:
        """Stop a visitor's run and remove all they keep; no page and no key finds it again."""
        self._let_go(session)
        session.leave_nothing()

    def _let_go(self, session: Session) -> None:
        with self._lock:
            for known in (self._tabs, self._keyed):
                for name in [name for name, other in known.items() if other is session]:
                    del known[name]

    def _idle(self, but: Session) -> list[Session]:
        """Who may make room, in the order in which they would."""
        return [
            session
            for session in self._all()
            if session is not but and not session.is_served and not self.is_watched(session)
        ]

    def _forget_surplus(self, latest: Session) -> None:
        """Forget those who only looked, where they are too many."""
        surplus = len(self._tabs) + len(self._keyed) - MAX_EMPTY
        if surplus > 0:
            for session in [one for one in self._idle(latest) if one.is_empty][:surplus]:
                self.drop(session)

    def _admit(self, session: Session) -> None:
        """Make room for a visitor who is about to make something.

        Raises:
            BadInput: there is none, since all others are here or train.
        """
        gone = []
        with self._lock:
            if session.has_place:
                return
            full = [one for one in self._all() if one.has_place]
            near = [one for one in full if session.address and one.address == session.address]
            for crowd, most, whose in (
                (near, SESSIONS_PER_ADDRESS, "from your address "),
                (full, MAX_SESSIONS, ""),
            ):
                if len(crowd) - len(gone) < most:
                    continue
                idle = [one for one in self._idle(session) if one in crowd and one not in gone]
                if not idle:
                    raise BadInput(
                        "session",
                        f"{len(crowd)} visitors {whose}keep domains here, and all of them are here "
                        "now: try again later, or run the program on a machine of your own.",
                    )
                gone.append(idle[0])
            for other in gone:
                self._let_go(other)
            session.admitted = time.monotonic()
        for other in gone:
            other.leave_nothing()

    # Keeping house

    def _keep_house(self) -> None:
        with self._lock:
            if self._keeper is None or not self._keeper.is_alive():
                self._keeper = threading.Thread(target=self._housekeeping, daemon=True)
                self._keeper.start()

    def _housekeeping(self) -> None:
        """Look after runs, visitors and files now and then, as long as there are any."""
        pause = min(1.0, self.keep_seconds * LINGER)
        for beat in itertools.count():
            time.sleep(pause)
            with contextlib.suppress(OSError):  # files that went meanwhile
                self.end_unheard()
                if beat % 4 == 0:
                    self.purge()
            with self._lock:
                nobody = not self._tabs and not self._keyed
                if self._closed or (nobody and not (self.home and any(self.home.usage().values()))):
                    self._keeper = None
                    return

    def end_unheard(self) -> None:
        """Stop runs that nobody has followed for a while, and free images that nobody looks at."""
        now = time.monotonic()
        for session in self._all():
            if self.is_watched(session):
                session.heard = now
            elif now - session.heard > self.keep_seconds * LINGER and (run := session.run):
                run.stop.set()
                run.let_go_of_images()

    def purge(self) -> None:
        """Forget who was not heard of for long, and the first ones where all keep too much."""
        now = time.monotonic()
        for session in self._idle(None):
            stays = session.folder.name in self._keyed and not session.is_empty
            if now - session.seen >= self.keep_seconds * (1 if stays else LEFT):
                self.drop(session)
        sessions = self._all()
        if not any(session.is_training for session in sessions):  # which would take it again
            give_back_memory()
        if self.home:
            for session in filter(self.is_watched, sessions):
                session.touch()
            self.home.remove_old({session.folder.name for session in sessions}, self.keep_seconds)
            self.tidy()
        excess = sum(session.bytes for session in sessions) - self.room
        for session in self._idle(None) if excess > 0 else ():
            excess -= session.bytes
            self.drop(session)
            if excess <= 0:
                break

    def tidy(self) -> None:
        """Remove uploads and answers beyond what there is room for."""
        if self.home:
            self.home.tidy(min(self.keep_seconds, SHOWN_SECONDS))

    def tidy_uploads(self) -> None:
        """The same when something is uploaded, which may be all that anybody does here."""
        self.tidy()
        self._keep_house()

    def remove_parts(self) -> None:
        """Remove what is left of uploads that failed; while none is on its way."""
        if self.home:
            self.home.remove_parts()

    @property
    def room(self) -> int:
        """Bytes that all together may keep."""
        return min(TOTAL_BYTES, self.home.disk_bytes // 3) if self.home else TOTAL_BYTES

    def usage(self) -> dict:
        """What there is, for `/info`."""
        sessions = self._all()
        runs = [run for session in sessions if (run := session.run) and not run.finished.is_set()]
        disk = self.home.usage() if self.home else {}
        return {
            "visitors": len(sessions),
            "domains": sum(len(session.domains) for session in sessions),
            "runs": {"training": min(1, len(runs)), "waiting": max(0, len(runs) - 1)},
            "bytes": {**disk, "images": sum(run.bytes for run in runs), "room": self.room},
        }

    def close(self, seconds: float = CLOSING_SECONDS) -> None:
        """End all runs with what they have, and leave to the next server what can come back.

        A run that takes longer leaves its latest snapshot, which the next server keeps.
        """
        self._closed = True
        sessions, deadline = self._all(), time.monotonic() + seconds
        for session in sessions:
            session.stop()
        for run in [run for session in sessions if (run := session.run)]:
            run.finished.wait(max(0, deadline - time.monotonic()))
        for session in sessions:
            if session.folder.name in self._keyed and not session.is_empty:
                session.save()
            else:
                session.leave_nothing()
        if self.home:
            self.home.close()
