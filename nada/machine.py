"""This machine: its allocator, the device to compute on, and the memory that is free.

glibc maps every large tensor anew and unmaps it when it goes, so that a training step spends much
of its time in page faults. `keep_freed_memory` cures it at the start of a program: freed blocks
stay, and PyTorch asks for huge pages. `app.py` and the command line call it; the library does not,
since memory belongs to the program.
"""

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path

import torch

from nada.formats.messages import first_line

# from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

_kept = False


def keep_freed_memory() -> bool:
    """Have freed blocks stay with the process; call it before PyTorch allocates.

    Without effect where another allocator (jemalloc, tcmalloc) is preloaded, and on systems whose
    C library has no such settings. `give_back_memory` still gives it back.

    Returns:
        Whether the settings could be made.
    """
    global _kept
    if not sys.platform.startswith("linux") or in_use() != "default":
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by PyTorch at its first tensor
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    _kept = mallopt(M_MMAP_MAX, 0) == 1 and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) == 1
    return _kept


def speak_utf8() -> None:
    """Begin this program anew in Python's UTF-8 mode where names of files and arguments are read in
    another encoding, as with LC_ALL=C: what people write in their own alphabet has no place there.
    """
    if sys.getfilesystemencoding() == "utf-8" or sys.flags.utf8_mode:
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def give_back_memory() -> None:
    """Return freed memory to the system; glibc would keep it for each thread that ever ran."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other systems lack the call
        ctypes.CDLL(None).malloc_trim(0)


def in_use() -> str:
    """The allocator in use: a preloaded library's name, "glibc, freed memory kept" or "default"."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    for name in ("jemalloc", "tcmalloc", "mimalloc"):
        if name in preloaded:
            return name
    return "glibc, freed memory kept" if _kept else "default"


def pick_device(name: str) -> torch.device:
    """The device called `name`, such as "cpu"; "auto" is an accelerator if torch has one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"The device {name!r} cannot be used ({first_line(error)}); 'auto' takes what there is."
        ) from error
    return torch.device(name)


# Free memory


def free_bytes(device: torch.device) -> int | None:
    """Memory that could be taken on the device; None where that is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    limits = [limit for limit in (_available(), _left_in_group()) if limit is not None]
    return min(limits, default=None)


def _available() -> int | None:
    """What Linux calls available: free, or used for what can be read again."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


def peak_bytes() -> int:
    """The most memory that this process has had at once.

    Linux states it in a file; what getrusage says there counts from before a fork.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def restart_peak() -> None:
    """Let `peak_bytes` count from what is held now, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


# usage, limit, statistics, of version 2 and 1
GROUP_FILES = (
    ("memory.current", "memory.max", "memory.stat"),
    (
        "memory/memory.usage_in_bytes",
        "memory/memory.limit_in_bytes",
        "memory/memory.stat",
    ),
)


def _left_in_group(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What the control group of a container leaves; files it has read count as free."""
    for names in GROUP_FILES:
        try:
            used, limit, statistics = ((root / name).read_text() for name in names)
        except OSError:
            continue
        if limit.strip().isdigit() and int(limit) < 2**60:  # not "max", nor beyond all memory
            words = dict(line.split()[:2] for line in statistics.splitlines())
            return max(0, int(limit) - int(used) + int(words.get("inactive_file", 0)))
    return None
