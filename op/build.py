"""Building the compiled backends: with what, into which folder, and one process at a time.

A build lies in a folder of its own below `TORCH_EXTENSIONS_DIR` (or PyTorch's default for it, or a
temporary folder where that cannot be written to), named after all that it depends on. So it is
found again by every later process, and never by one that it does not fit. Nothing here runs on
import.
"""

import hashlib
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._appdirs  # not loaded by torch itself

HERE = Path(__file__).parent
STALE = 15 * 60  # seconds after which a build in the background is given up for dead

_builders: list[subprocess.Popen] = []  # kept, since Python complains of one that it loses sight of


class Unavailable(RuntimeError):
    """A backend that cannot be had: the sentence says why, and what to do about it."""


@dataclass(frozen=True)
class Backend:
    """A compiled backend.

    Args:
        name: as users ask for it.
        device_type: of the tensors that it works on.
        dtypes: that it works on.
        source: the file to compile; it includes all others.
        parts: all files that the build depends on.
        flags: gives the compiler's flags beside PyTorch's own.
        facts: gives what else of this machine the build depends on.
        missing: says in a sentence what it lacks here, None if nothing is known to be missing.
    """

    name: str
    device_type: str
    dtypes: tuple[torch.dtype, ...]
    source: str
    parts: tuple[str, ...]
    flags: Callable[[], list[str]]
    facts: Callable[[], list[object]]
    missing: Callable[[], str | None]


def _cpp_flags() -> list[str]:
    if sys.platform == "win32":
        return ["/O2", "/openmp:experimental"]
    # OpenMP only where compilers have it: the functions then come from the one that PyTorch loaded
    openmp = ["-fopenmp"] if sys.platform == "linux" else []
    return ["-O3", "-fno-math-errno", "-fno-trapping-math", *openmp, *_vector_flags()]


def _vector_flags() -> list[str]:
    """The vector instructions that this processor has, as PyTorch found them."""
    avx2 = ["-mavx2", "-mfma"]
    avx512 = [f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")]
    known = {"AVX2": avx2, "AVX512": [*avx2, *avx512]}
    return known.get(torch.backends.cpu.get_cpu_capability(), [])


def _cuda_facts() -> list[object]:
    devices = range(torch.cuda.device_count())
    capabilities = sorted({torch.cuda.get_device_capability(device) for device in devices})
    return [torch.version.cuda, os.environ.get("TORCH_CUDA_ARCH_LIST"), capabilities]


def _cuda_missing() -> str | None:
    if torch.version.cuda is None:
        return "cuda: this PyTorch was built without CUDA; install one with it to use a GPU."
    if not torch.cuda.is_available():
        return "cuda: PyTorch finds no CUDA device; check `nvidia-smi` and the driver."
    if _nvcc() is None:
        return (
            "cuda: there is no nvcc; install the CUDA toolkit "
            f"{torch.version.cuda} and set CUDA_HOME to its folder."
        )
    return None


def _nvcc() -> str | None:
    """nvcc where PyTorch will look for it: CUDA_HOME before PATH before the usual place."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home is None:
        return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    return shutil.which(str(Path(home) / "bin" / "nvcc"))


CPP = Backend(
    name="cpp",
    device_type="cpu",
    dtypes=(torch.float32, torch.float64, torch.bfloat16),
    source="cpp/ops.cpp",
    parts=("interface.h", "cpp/ops.cpp"),
    flags=_cpp_flags,
    facts=lambda: [],
    missing=lambda: None,
)
CUDA = Backend(
    name="cuda",
    device_type="cuda",
    dtypes=(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    source="cuda/binding.cu",
    parts=("interface.h", "cuda/kernels.cuh", "cuda/binding.cu"),
    flags=lambda: ["-O3"],
    facts=_cuda_facts,
    missing=_cuda_missing,
)
BACKENDS = {backend.name: backend for backend in (CPP, CUDA)}


def folder(backend: Backend) -> Path:
    """Where the build of `backend` lies or would lie."""
    digest = hashlib.sha256()
    for part in backend.parts:
        digest.update((HERE / part).read_bytes())
    machine = [torch.__version__, platform.system(), platform.machine()]
    digest.update(repr([*machine, backend.flags(), *backend.facts()]).encode())
    name = f"nada_op_{backend.name}_{digest.hexdigest()[:12]}"
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen) / name
    usual = Path(torch._appdirs.user_cache_dir(appname="torch_extensions"))
    if can_be_written(usual) or (usual / name / "built").exists():
        return usual / name
    return (private_folder("nada-op") or usual) / name


def can_be_written(folder: Path) -> bool:
    """Whether files can be put into a folder, which may have to be made first."""
    if not folder.is_absolute():  # "~" of a user without a home
        return False
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def private_folder(name: str) -> Path | None:
    """A folder for what should outlive a process where nothing else can be written to: a temporary
    one that belongs to this user alone, since what lies in it is run. None if there is none."""
    mine = os.getuid() if hasattr(os, "getuid") else None
    try:
        folder = Path(tempfile.gettempdir()) / (name if mine is None else f"{name}-{mine}")
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    if mine is None:  # Windows, where the folder for temporary files is the user's own
        return folder
    safe = stat.S_ISDIR(found.st_mode) and found.st_uid == mine and not found.st_mode & 0o022
    return folder if safe else None


def library_path(backend: Backend) -> Path | None:
    """The shared library, if it is there and complete."""
    place = folder(backend)
    try:
        return place / (place / "built").read_text()
    except OSError:
        return None


def missing(backend: Backend) -> str | None:
    """Why a build need not be tried, in one sentence; None if nothing is known to be missing."""
    if reason := backend.missing():
        return reason
    if _compiler() is None:
        return f"{backend.name}: there is no C++ compiler; install g++ or set CXX to one."
    if shutil.which("ninja", path=_path()) is None:
        return f"{backend.name}: there is no ninja; install it with `pip install ninja`."
    return None


def _compiler() -> str | None:
    default = "cl" if sys.platform == "win32" else "c++"
    return shutil.which(os.environ.get("CXX", default).split()[0])


def _path() -> str:
    """PATH, and where `pip install ninja` puts ninja even if that environment is not activated."""
    beside_python = os.path.dirname(sys.executable)
    return os.pathsep.join(filter(None, [os.environ.get("PATH"), beside_python]))


@contextmanager
def _ninja_in_path() -> Iterator[None]:
    """The process's PATH is `_path` inside, for PyTorch, and afterwards what it was."""
    before = os.environ.get("PATH")
    os.environ["PATH"] = _path()
    try:
        yield
    finally:
        if before is None:
            del os.environ["PATH"]
        else:
            os.environ["PATH"] = before


def failure(backend: Backend) -> str | None:
    """The sentence that the last build ended with, if it failed."""
    try:
        return (folder(backend) / "failure.txt").read_text()
    except OSError:
        return None


def build(backend: Backend) -> Path:
    """The shared library, built now if it is not there; waits for another process that builds it.

    Raises:
        Unavailable: it cannot be built.
    """
    if path := library_path(backend):
        return path
    if reason := missing(backend):
        raise Unavailable(reason)
    place = folder(backend)
    try:
        place.mkdir(parents=True, exist_ok=True)
        with _lock(place):
            return library_path(backend) or _build(backend, place)
    except OSError as error:
        raise Unavailable(
            f"{backend.name}: the folder for builds, {place.parent}, cannot be written to "
            f"({error.strerror or error}); set TORCH_EXTENSIONS_DIR to one that can."
        ) from error


def _lock(place: Path) -> AbstractContextManager:
    """A lock that the system takes back when its process dies, unlike a file that merely exists."""
    from filelock import FileLock  # comes with torch

    return FileLock(place / "one-at-a-time")


def _build(backend: Backend, place: Path) -> Path:
    (place / "failure.txt").unlink(missing_ok=True)
    try:
        path = _compile(backend, place)
    except Exception as error:  # anything that a compiler, a linker or PyTorch can come up with
        sentence = (
            f"{backend.name}: the build failed ({_cause(str(error))}); see {place / 'log.txt'}, "
            f"repair it and run `python -m op build {backend.name}`, or set NADA_OP=reference."
        )
        (place / "log.txt").write_text(str(error))
        (place / "failure.txt").write_text(sentence)
        raise Unavailable(sentence) from error
    (place / "built").write_text(path.name)
    return path


def _compile(backend: Backend, place: Path) -> Path:
    from torch.utils import cpp_extension  # slow to import, and looks for CUDA when it is

    # what a process that was killed while it built left behind, and the next would wait for
    (place / "lock").unlink(missing_ok=True)
    flags = backend.flags()
    with _ninja_in_path():
        cpp_extension.load(
            name=place.name,
            sources=[str(HERE / backend.source)],
            extra_cflags=flags,  # of C++ sources
            extra_cuda_cflags=flags,  # of CUDA's
            build_directory=str(place),
            is_python_module=False,
        )
    return place / f"{place.name}{cpp_extension.LIB_EXT}"


def _cause(message: str) -> str:
    """The line of a compiler's many that names the error."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\berror\b|not found|cannot", line, re.I)]
    return (telling[1:] or telling or lines or ["no message"])[0][:200]


def build_in_background(backend: Backend) -> bool:
    """Start a process that builds `backend`, unless one does; whether one is building now."""
    place = folder(backend)
    started = place / "started"
    try:
        place.mkdir(parents=True, exist_ok=True)
        if started.exists() and time.time() - started.stat().st_mtime > STALE:
            started.unlink()
        started.touch(exist_ok=False)
    except FileExistsError:
        return True
    except OSError:
        return False
    command = [sys.executable, "-m", "op", "build", backend.name, "--background"]
    try:
        builder = subprocess.Popen(
            command,
            cwd=HERE.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return False
    _builders.append(builder)
    return True
