"""Which backend runs: asked for by name, or the best that is there.

`auto` never waits for a compiler. It takes what is built already; what is not, a process of its own
builds in the background, and the reference runs until the next start or `refresh`. So a process
does not change its numbers in the middle of a run.
"""

import os
import threading
import warnings
from pathlib import Path

import torch
from torch import Tensor

from op.build import (
    BACKENDS,
    Backend,
    Unavailable,
    build,
    build_in_background,
    failure,
    library_path,
    missing,
)
from op.native import Library

NAMES = ("auto", "reference", *BACKENDS)

_lock = threading.RLock()
_asked: str | None = None  # None: not yet, so NADA_OP decides
_libraries: dict[str, Library | None] = {}  # by device type; None is the reference
_why_not: dict[str, str] = {}  # by backend
_warned: set[str] = set()


def library_for(x: Tensor) -> Library | None:
    """The compiled backend that works on `x`, or None for the reference.

    Raises:
        RuntimeError: a backend was asked for by name that cannot be had.
        ValueError: NADA_OP names no backend.
    """
    if torch.compiler.is_compiling():
        return None  # the compiler fuses the reference, and cannot see into a library
    kind = x.device.type
    library = _libraries[kind] if kind in _libraries else _resolve(kind)
    return library if library is not None and x.dtype in library.dtypes else None


class use_backend:
    """Choose the backend for this process: "auto", "reference", "cpp" or "cuda".

    A backend that is named is built now if need be; tensors on other devices, and types that it
    does not know, go through the reference. `with use_backend(name):` chooses for a block of code.

    Raises:
        RuntimeError: the backend cannot be had; the sentence says why and what to do.
        ValueError: there is no such backend.
    """

    def __init__(self, name: str):
        with _lock:
            self._before = _asked, dict(_libraries), dict(_why_not)
            _choose(name)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _restore(*self._before)  # restores even an unavailable choice, without retrying it


def refresh() -> None:
    """Look again for builds that have become ready; for servers, between two runs."""
    with _lock:
        _libraries.clear()
        _why_not.clear()


def asked() -> str:
    """The backend that was asked for, "auto" if none was."""
    return _asked if _asked is not None else os.environ.get("NADA_OP") or "auto"


def describe(device: str | torch.device = "cpu") -> dict:
    """What runs on `device`, and why nothing else; never raises, and never waits for a compiler.

    Returns:
        `runs`: "reference", "cpp" or "cuda"; "nothing" if what was asked for cannot be had.
        `asked`: "auto", or the backend that was asked for.
        `why_not`: a sentence for each compiled backend that does not run.
    """
    kind = torch.device(device).type
    fitting = next((b for b in BACKENDS.values() if b.device_type == kind), None)
    why_not = {
        name: f"{name}: works on {backend.device_type} tensors, and these are on {kind}."
        for name, backend in BACKENDS.items()
        if backend is not fitting
    }
    runs, reason = _running(kind, fitting)
    if fitting is not None and runs != fitting.name:
        why_not[fitting.name] = reason or f"{fitting.name}: {asked()} was asked for."
    return {"runs": runs, "asked": asked(), "why_not": why_not}


def _running(kind: str, fitting: Backend | None) -> tuple[str, str | None]:
    """What runs on devices of this kind, and why `fitting`, the compiled backend for them, does
    not, if that is known."""
    try:
        _check_name(asked())
        if fitting is None:
            _resolve(kind)
            return "reference", None
        if asked() == fitting.name and library_path(fitting) is None:
            return "nothing", failure(fitting) or f"{fitting.name}: is not built yet."
        library = _libraries[kind] if kind in _libraries else _resolve(kind)
        return (fitting.name if library else "reference"), _why_not.get(fitting.name)
    except (RuntimeError, ValueError) as error:
        return "nothing", str(error)


def _choose(name: str) -> None:
    global _asked
    _check_name(name)
    with _lock:
        # first built and loaded, so that a backend that fails leaves all as it was
        named = {BACKENDS[name].device_type: _named(BACKENDS[name])} if name in BACKENDS else {}
        _asked = name
        _libraries.clear()
        _why_not.clear()
        _libraries.update(named)


def _restore(name: str | None, libraries: dict, why_not: dict) -> None:
    global _asked
    with _lock:
        _asked = name
        for now, before in ((_libraries, libraries), (_why_not, why_not)):
            now.clear()
            now.update(before)


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise ValueError(f"There is no backend {name!r}; the backends are {', '.join(NAMES)}.")


def _resolve(kind: str) -> Library | None:
    """The backend for tensors on devices of this kind, decided once."""
    with _lock:
        if kind not in _libraries:
            name = asked()
            _check_name(name)
            fitting = next((b for b in BACKENDS.values() if b.device_type == kind), None)
            library = None
            if fitting is not None and name == "auto":
                library = _automatic(fitting)
            elif fitting is not None and name == fitting.name:
                library = _named(fitting)
            elif name in BACKENDS:
                _named(BACKENDS[name])  # raises where it cannot be had at all
            _libraries[kind] = library
        return _libraries[kind]


def _named(backend: Backend) -> Library:
    return _load(backend, build(backend))


def _load(backend: Backend, path: Path) -> Library:
    try:
        return Library(path, backend.device_type, backend.dtypes)
    except (OSError, AttributeError) as error:
        raise Unavailable(
            f"{backend.name}: its build cannot be loaded ({error}); delete {path.parent} and run "
            f"`python -m op build {backend.name}`."
        ) from error


def _automatic(backend: Backend) -> Library | None:
    """What is built already, or None, with the reason noted."""
    try:
        path = library_path(backend)
        if path is not None:
            return _load(backend, path)
        reason, tried = missing(backend), failure(backend)
    except (Unavailable, OSError) as error:
        reason, tried = None, str(error)
    if reason is None and tried is not None:
        _warn_once(tried)
        reason = tried
    _why_not[backend.name] = reason or _start(backend)
    return None


def _start(backend: Backend) -> str:
    if build_in_background(backend):
        return f"{backend.name}: is being built in the background, for the next start."
    return (
        f"{backend.name}: is not built, and the folder for builds cannot be written to; "
        "set TORCH_EXTENSIONS_DIR to one that can."
    )


def _warn_once(sentence: str) -> None:
    if sentence not in _warned:
        _warned.add(sentence)
        warnings.warn(f"{sentence} The reference runs instead.", RuntimeWarning, stacklevel=2)
