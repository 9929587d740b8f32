"""Files from the Hugging Face Hub, each whole and checked, or one sentence that says why not.

`huggingface_hub` does the work: cache, retries, resuming, offline mode, the token and the endpoint
from the environment (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT). Added here: the check of what
came against the checksum that the Hub states, which catches a damaged cache as well, an end to
waiting for as long as a server likes, and errors that name cause and remedy.

A connection that breaks is resumed a few times within a call. A later call begins anew: since 2.4
the library gives each download a temporary file of its own, and removes it when the call fails.
"""

import errno
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path

import huggingface_hub as hf
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    _http,
    get_session,
    hf_raise_for_status,
    parse_ratelimit_headers,
    tqdm,
)

from nada.formats.files import CheckpointError, file_digest
from nada.formats.messages import first_line

Report = Callable[[int, int | None, str], None]  # bytes there, bytes in all, of what
SUFFIXES = (".safetensors", ".pt", ".pth", ".pkl")  # what may hold a generator
PATIENCE = 60  # longest wait in seconds that a server may ask for; longer ones end in a sentence
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class HubError(CheckpointError):
    """A file that cannot be had. `unreachable`: no other repository of the Hub can be either."""

    def __init__(self, message: str, unreachable: bool = False):
        super().__init__(message)
        self.unreachable = unreachable


class NoFileError(HubError):
    """A file that its repository does not have."""


@dataclass(frozen=True)
class HubFile:
    """A file on the Hub; `str` gives "org/repo:file@revision"."""

    repo: str
    file: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repo}:{self.file}" + (f"@{self.revision}" if self.revision else "")


def fetch(wanted: HubFile, progress: Report | None = None, local: bool = False) -> tuple[Path, str]:
    """The file in the Hub's cache, downloaded when it is not there, and its SHA-256.

    Args:
        wanted: which.
        progress: called while downloading, with bytes there, bytes in all (None if unknown) and a
            name; what it raises ends the download.
        local: look in the cache only.

    Raises:
        HubError: it cannot be had; nothing that is damaged stays in the cache.
    """
    for _ in (1, 2):
        path = _download(wanted, progress, local)
        sha256 = file_digest(path)
        stated = path.resolve().name  # the cache names contents by the Hub's checksum
        if _agrees(path, stated, sha256):
            return path, sha256
        _discard(path)
        local = False
    raise HubError(
        f"{wanted} arrives damaged: its checksum is {sha256[:12]}… and the Hub states "
        f"{stated[:12]}…; nothing was kept: try another network, or download it by hand."
    )


def fetch_first(
    repo: str, names: Sequence[str], revision: str | None = None, progress: Report | None = None
) -> Path | None:
    """The first of these files that a repository has, those in the cache before others; None if it
    has none of them.

    Args:
        repo: "org/repo".
        names: of the files, the best first.
        revision, progress: as `fetch` takes them.

    Raises:
        HubError: nobody can say, or it cannot be had.
    """
    wanted = [HubFile(repo, name, revision) for name in names]
    for file in sorted(wanted, key=lambda file: not cached(file)):
        try:
            return fetch(file, progress)[0]
        except NoFileError:
            continue
        except HubError as error:
            if not (error.unreachable and _known_to_miss(file)):
                raise
    return None


def _known_to_miss(wanted: HubFile) -> bool:
    """Whether the cache remembers that the repository does not have the file."""
    found = hf.try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    return found is hf._CACHED_NO_EXIST


def find(repo: str, revision: str | None = None) -> HubFile:
    """The one file of a repository that may hold a generator.

    Raises:
        HubError: none, several, or the repository cannot be looked at.
    """
    try:
        with no_long_waits():
            names = hf.HfApi().list_repo_files(repo, revision=revision)
    except Exception as error:
        names = _cached_names(repo, revision)
        if not names:
            raise _explained(error, HubFile(repo, "", revision)) from error
    fitting = sorted(name for name in names if name.endswith(SUFFIXES))
    if len(fitting) != 1:
        what = ", ".join(fitting[:8]) or f"no file that ends in {', '.join(SUFFIXES)}"
        raise HubError(
            f"{repo} holds {what}: name one of its files, as {repo}:{(fitting or ['FILE'])[0]}."
        )
    return HubFile(repo, fitting[0], revision)


def answers(wanted: HubFile, timeout: float = 5) -> bool:
    """Whether the file is in the cache, or the Hub would give it; takes a few seconds at most."""
    if cached(wanted):
        return True
    url = hf.hf_hub_url(wanted.repo, wanted.file, revision=wanted.revision)
    try:
        with no_long_waits():
            return hf.get_hf_file_metadata(url, timeout=timeout).etag is not None
    except Exception:  # any reason not to answer
        return False


def cached(wanted: HubFile) -> bool:
    """Whether the file is in the cache."""
    found = hf.try_to_load_from_cache(wanted.repo, wanted.file, revision=wanted.revision)
    return isinstance(found, str)


def _download(wanted: HubFile, progress: Report | None, local: bool) -> Path:
    where = {"repo_id": wanted.repo, "filename": wanted.file, "revision": wanted.revision}
    bar = progress_bar(progress, str(wanted)) if progress else None
    for last in (False, True):
        try:
            with no_long_waits():
                return Path(hf.hf_hub_download(**where, tqdm_class=bar, local_files_only=local))
        except Exception as error:
            if last or not worth_another_try(error):
                raise _explained(error, wanted) from error
    raise AssertionError("the loop returns or raises")


# Long waits

_impatient: ContextVar[bool] = ContextVar("impatient", default=False)


@contextmanager
def no_long_waits() -> Iterator[None]:
    """Raise at once when the server asks for a longer wait than PATIENCE; huggingface_hub would
    sleep through it. Only for requests of this context: other users of the library, in other
    threads too, get from it what they always get."""
    token = _impatient.set(True)
    try:
        with _WATCH:
            yield
    finally:
        _impatient.reset(token)


def _refuse_to_wait_long(response) -> None:
    if _impatient.get() and response.is_error and _asked_to_wait(response) > PATIENCE:
        hf_raise_for_status(response)


class _Watch:
    """While it is entered, by any number of threads, `_refuse_to_wait_long` sees each response that
    huggingface_hub gets; afterwards the library is as it was. Its `set_client_factory` would close
    the client that requests of other threads may be using."""

    def __init__(self):
        self.lock, self.entered = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            self.entered += 1
            if self.entered == 1:
                self.make = _http._GLOBAL_CLIENT_FACTORY
                _http._GLOBAL_CLIENT_FACTORY = (
                    self._client
                )  # for one made after a broken connection
                get_session().event_hooks["response"].append(_refuse_to_wait_long)

    def __exit__(self, *_) -> None:
        with self.lock:
            self.entered -= 1
            if self.entered == 0:
                if _http._GLOBAL_CLIENT_FACTORY == self._client:
                    _http._GLOBAL_CLIENT_FACTORY = self.make
                hooks = get_session().event_hooks["response"]
                hooks[:] = [hook for hook in hooks if hook is not _refuse_to_wait_long]

    def _client(self):
        client = self.make()
        client.event_hooks["response"].append(_refuse_to_wait_long)
        return client


_WATCH = _Watch()


def _asked_to_wait(response) -> int:
    """Seconds until another try, as the library reads them from a response; 0 if it names none."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit and limit.remaining == 0:
        return limit.reset_in_seconds
    after = re.fullmatch(r"\s*(\d{1,9})\d*\s*", response.headers.get("retry-after", ""), re.ASCII)
    return int(after[1]) if after else 0


def when(error: HfHubHTTPError) -> str:
    """When to try again, for a sentence."""
    wait = _asked_to_wait(error.response)
    return f"in {wait} seconds" if wait else "later"


def worth_another_try(error: Exception) -> bool:
    """A connection that was reset, or a part that the server could not give: once more, whole."""
    return of_transport(error) or (
        isinstance(error, HfHubHTTPError) and error.response.status_code == 416
    )


def _agrees(path: Path, stated: str, sha256: str) -> bool:
    """Whether contents and the Hub's name for them agree; large files have a SHA-256, small ones
    Git's SHA-1, and where the cache cannot link, the name is the file's own and says nothing."""
    if len(stated) == 64 and stated.isalnum():
        return stated == sha256
    if len(stated) == 40 and stated.isalnum():
        size = path.stat().st_size
        return size > 10**7 or stated == file_digest(path, b"blob %d\0" % size, "sha1")
    return True


def _discard(path: Path) -> None:
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _cached_names(repo: str, revision: str | None) -> list[str]:
    try:
        folder = Path(hf.snapshot_download(repo, revision=revision, local_files_only=True))
    except Exception:
        return []
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]


def progress_bar(report: Report, name: str) -> type:
    """A tqdm class that calls `report` and draws nothing."""

    class Bar(tqdm):
        def __init__(self, *args, total=None, initial=0, **kwargs):
            super().__init__(*args, **{**kwargs, "disable": True})
            self.total, self.done = total, initial
            report(self.done, self.total, name)

        def update(self, n=1):
            self.done += n
            report(self.done, self.total, name)

    return Bar


# Errors → sentences


def _explained(error: Exception, wanted: HubFile) -> Exception:
    """The error as a `HubError`; one that is not of the Hub or the disk comes back as it is."""
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
        return HubError(
            f"{wanted} is not in the cache, and offline mode is on: unset HF_HUB_OFFLINE once to "
            "download it, or use 'demo'.",
            unreachable=True,
        )
    response = next((c for c in causes if isinstance(c, HfHubHTTPError)), None)
    if response is not None:
        return _of_status(response, wanted)
    if any(of_transport(cause) for cause in causes):
        return HubError(
            f"{wanted} could not be downloaded, since {constants.ENDPOINT} does not answer or cuts "
            "off: check the connection and try again, or use 'demo'.",
            unreachable=True,
        )
    if isinstance(error, HFValidationError):
        return HubError(f"{wanted.repo!r} is not a name on the Hub: give org/repo:file.")
    if isinstance(error.__cause__ or error, FileMetadataError | JSONDecodeError):
        return HubError(
            f"{constants.ENDPOINT} does not answer as the Hub does when asked for {wanted}: "
            "check HF_ENDPOINT and the proxy.",
            unreachable=True,
        )
    if isinstance(error, LocalEntryNotFoundError):
        return HubError(f"{wanted} is not in the cache.", unreachable=True)
    if isinstance(error, OSError):
        return HubError(of_disk(error, str(wanted), constants.HF_HUB_CACHE), unreachable=True)
    return error


def of_transport(error: BaseException | None) -> bool:
    """Whether the connection is at fault; `huggingface_hub` speaks through httpx or its like."""
    return type(error).__module__.startswith("httpx") and not isinstance(error, HfHubHTTPError)


def _of_status(error: HfHubHTTPError, wanted: HubFile) -> HubError:
    status = error.response.status_code
    token = "set HF_TOKEN to a token that may read it"
    if isinstance(error, GatedRepoError):
        return HubError(
            f"{wanted.repo} is gated: accept its terms at {constants.ENDPOINT}/{wanted.repo} and "
            f"{token}."
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError(f"{wanted.repo} has no revision {wanted.revision!r}: check it, or omit it.")
    if isinstance(error, EntryNotFoundError):
        return NoFileError(f"{wanted.repo} has no file {wanted.file!r}: look at its list of files.")
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return HubError(
            f"There is no {wanted.repo!r} on the Hub, or it is private: check the name, or {token}."
        )
    if status == 401:
        return HubError(f"The Hub does not accept the token (401) for {wanted}: {token}, or none.")
    if status == 403:
        return HubError(f"The Hub refuses {wanted} (403): {token}.")
    if status == 429:
        return HubError(
            f"The Hub gives no more files for now (429): try {wanted} again {when(error)}, "
            "or set HF_TOKEN, which allows more.",
            unreachable=True,
        )
    if status == 416:
        return HubError(f"The Hub cannot go on with {wanted} where it was cut off: try again.")
    return HubError(
        f"The Hub has trouble of its own ({status}) with {wanted}: try again {when(error)}, or use "
        "'demo'.",
        unreachable=status >= 500,
    )


def of_disk(error: OSError, what: str, folder: str | Path) -> str:
    """A sentence for a file that could not be written into `folder`."""
    if error.errno in FULL:
        return (
            f"The disk is full: {what} does not fit into {folder}; free some space there, or set "
            "HF_HOME to a folder on another disk."
        )
    if error.errno is None:  # the library's own, of a length that does not fit
        return f"{what} came with another length than announced: try again."
    return (
        f"{what} could not be put into {folder} ({first_line(error)}): check the folder, or set "
        "HF_HOME to one that can be written to."
    )
