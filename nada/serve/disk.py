"""What a server writes: its folder, files that answers hand out, and bounds on all of it.

All of a server's files lie in one folder, which is the page library's cache as well, so that what
a visitor downloads need not be copied. `visitors/` holds what visitors keep (`nada.serve.session`),
`shown/` what was made for one answer; everything else are uploads.
"""

import contextlib
import errno
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from nada.formats.files import UNFINISHED

SHOWN_SECONDS = 600  # for which an answer's files, and uploads, can be fetched
FETCH_SECONDS = 60  # for which they surely can
MAX_SHOWN = 16  # files of answers for one visitor
SHOWN_BYTES = 128 * 2**20  # of them
FETCHED = 4  # files that go at no size, since they are on their way
ANSWER_BYTES = UPLOAD_BYTES = 512 * 2**20  # of all answers, and of all uploads
PART = "tmp"  # begins the names of files that the page library is receiving
PART_SECONDS = 60  # between two writes to one
NAMELESS = "tab-"  # begins the folder of a visitor whom nothing finds again
FULL = r"No space left on device|[Dd]isk quota exceeded"  # as libraries say it
FULL_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
TOTAL_BYTES = 8 * 2**30  # of all that all visitors keep, or a third of a smaller disk


class Home:
    """The folder of a server, which no other one uses while it runs.

    A server that died leaves its folder to the next of the same name: what visitors keep is there
    again, all else is removed. Folders of other servers that died are removed once what they hold
    is too old to be offered.

    Args:
        root: where the folders of all servers lie.
        name: of this one; two that run at once under one name get folders of their own.
        keep_seconds: for how long what a visitor keeps is offered again.

    Raises:
        OSError: it cannot be made or written to.
    """

    def __init__(self, root: Path, name: str, keep_seconds: float):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock, self.folder = _first_free(root, name)
        nameless, half = f"{NAMELESS}*", f"**/{UNFINISHED}*"
        kept = [path for name in (nameless, half) for path in self.visitors.glob(name)]
        for left in (*_passing(self.folder), *kept):
            _remove(left)
        self.visitors.mkdir(parents=True, exist_ok=True)
        self.shown.mkdir(exist_ok=True)
        _remove_abandoned(root, keep_seconds)

    @property
    def visitors(self) -> Path:
        """Where what visitors keep lies, a folder for each."""
        return self.folder / "visitors"

    @property
    def shown(self) -> Path:
        """Where files lie that were made for one answer."""
        return self.folder / "shown"

    def tidy(self, seconds: float = SHOWN_SECONDS) -> None:
        """Remove what passes once it is `seconds` old, and the oldest uploads where there is too
        much of them, or of their parts; `Shown` bounds answers, so that no upload drives one out.

        Args:
            seconds: since it was last written to.
        """
        uploads = [path for path in _passing(self.folder) if path.parent == self.folder]
        parts = list(filter(_is_part, uploads))
        _remove_oldest(self.shown.glob("*"), seconds)
        _remove_oldest(parts, PART_SECONDS, UPLOAD_BYTES)
        _remove_oldest((path for path in uploads if path not in parts), seconds, UPLOAD_BYTES)

    def remove_parts(self) -> None:
        """Remove what the page library leaves of uploads that failed; while none is on its way."""
        for path in filter(_is_part, self.folder.glob(f"{PART}*")):
            with contextlib.suppress(OSError):
                os.truncate(path, 0)  # one that is still open would take room until it is closed
                _remove(path)

    def remove_old(self, known: Container[str], seconds: float) -> None:
        """Remove what visitors of an earlier server kept who did not come back for so long.

        Args:
            known: names of folders of visitors who are here.
            seconds: since they were last heard of.
        """
        for folder in self.visitors.glob("*"):
            if folder.name not in known and time.time() - _newest(folder) > seconds:
                _remove(folder)

    @property
    def disk_bytes(self) -> int:
        """The size of the disk that the folder is on."""
        return shutil.disk_usage(self.folder).total

    def usage(self) -> dict[str, int]:
        """Bytes on disk by kind."""
        passing = sum(usage(path) for path in _passing(self.folder))
        return {"kept": usage(self.visitors), "passing": passing}

    def close(self) -> None:
        """Leave the folder to the next server; it goes if nobody keeps anything in it."""
        for passing in _passing(self.folder):
            _remove(passing)
        with contextlib.suppress(OSError):  # not empty
            self.visitors.rmdir()
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()


def temporary_root() -> Path:
    """Where servers of this user have their folders unless told otherwise."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    root = Path(tempfile.gettempdir()) / f"nada-{user}"
    if root.exists() and hasattr(os, "getuid") and root.stat().st_uid != os.getuid():
        return Path(tempfile.mkdtemp(prefix="nada-"))  # somebody else took the name
    return root


def _first_free(root: Path, name: str) -> tuple[FileLock, Path]:
    """The first folder of that name that no living server has, locked."""
    for number in range(1, 1000):
        folder = root / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(Timeout):
            return _locked(folder), folder
    raise OSError(f"1000 servers run in {root}; end one of them.")


def _locked(folder: Path) -> FileLock:
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    lock.acquire(timeout=0)
    return lock


def _remove_abandoned(root: Path, keep_seconds: float) -> None:
    """Remove folders of servers that died, once all in them is old."""
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        with contextlib.suppress(Timeout, OSError):
            lock = _locked(folder)
            for passing in _passing(folder):
                _remove(passing)
            kept = list((folder / "visitors").glob("*"))
            if all(time.time() - _newest(path) > keep_seconds for path in kept):
                shutil.rmtree(folder, ignore_errors=True)
                Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _passing(folder: Path) -> Iterator[Path]:
    """Uploads and answers."""
    for path in folder.glob("*"):
        if path.name == "shown":
            yield from path.glob("*")
        elif path.name != "visitors":
            yield path


def _remove_oldest(paths: Iterable[Path], seconds: float, most: float = math.inf) -> None:
    """Remove what was written to longest ago: over `seconds`, or beyond `most` bytes of all."""
    found = sorted((_newest(path), usage(path), path) for path in paths)
    excess = sum(size for _, size, _ in found) - most
    for changed, size, path in found:
        old = time.time() - changed > seconds
        if (old or excess > 0) and _newest(path) == changed:  # or the same was uploaded again
            _remove(path)
            excess -= size


def _is_part(path: Path) -> bool:
    return path.name.startswith(PART) and path.is_file()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _files(path: Path) -> Iterator[os.stat_result]:
    """The states of a file, or of a folder and of all in it; of those that are still there."""
    inside = (
        os.path.join(folder, name)
        for folder, folders, files in os.walk(path)  # which passes over what goes meanwhile
        for name in (*folders, *files)
    )
    for file in (path, *inside):
        with contextlib.suppress(OSError):
            yield os.lstat(file)


def _newest(path: Path) -> float:
    """When anything in it was last written to."""
    return max((state.st_mtime for state in _files(path)), default=0.0)


def usage(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; each file counts once, whatever its names."""
    files = {(f.st_dev, f.st_ino): f.st_size for f in _files(path) if stat.S_ISREG(f.st_mode)}
    return sum(files.values())


def is_full(error: Exception) -> bool:
    """Whether a disk was full; not every library says so by an OSError's number."""
    return getattr(error, "errno", None) in FULL_NUMBERS or bool(re.search(FULL, str(error)))


def linked(path: Path, other: Path) -> Path:
    """Another name of a file, under which it stays when the first one goes."""
    try:
        os.link(path, other)
    except OSError:  # another disk, or one without links
        shutil.copyfile(path, other)
    return other


@dataclass
class _File:
    owner: str
    path: Path
    made: float

    @property
    def bytes(self) -> int:
        """Of the file, written or not."""
        return usage(self.path)


class Shown:
    """Files made for one answer each, by the visitor who gets them.

    Args:
        folder: where they lie; None for one that is made when it is needed.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        self._own: tempfile.TemporaryDirectory | None = None  # goes with the server
        self._files: list[_File] = []  # the oldest first
        self._lock = threading.Lock()

    def path(self, owner: str, name: str) -> Path:
        """Where to write a file for a visitor; earlier ones go that have surely been fetched, and
        the oldest where there is too much of this visitor's, or of all.

        Args:
            owner: whose file it is.
            name: what to call it.
        """
        with self._lock:
            if self._folder is None:
                self._own = tempfile.TemporaryDirectory(prefix="nada-shown-")
                self._folder = Path(self._own.name)
            self._files = [file for file in self._files if file.path.parent.exists()]
            own = [file for file in self._files if file.owner == owner]
            surplus = own[: max(0, len(own) - MAX_SHOWN)]
            self._drop([file for file in surplus if time.monotonic() - file.made > FETCH_SECONDS])
            self._bound([file for file in own if file in self._files], SHOWN_BYTES)
            self._bound(self._files, ANSWER_BYTES)
            path = self._folder / secrets.token_hex(16) / name
            path.parent.mkdir(parents=True)
            self._files.append(_File(owner, path, time.monotonic()))
        return path

    def forget(self, owner: str) -> None:
        """Remove what was made for a visitor."""
        with self._lock:
            self._drop([file for file in self._files if file.owner == owner])

    def _bound(self, files: list[_File], limit: int) -> None:
        """Drop the oldest of many bytes; the last few are being fetched."""
        excess = sum(file.bytes for file in files) - limit
        for file in files[:-FETCHED]:
            if excess <= 0:
                break
            excess -= file.bytes
            self._drop([file])

    def _drop(self, files: list[_File]) -> None:
        for file in files:
            shutil.rmtree(file.path.parent, ignore_errors=True)
            self._files.remove(file)
