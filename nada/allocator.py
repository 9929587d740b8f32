"""Large tensors without page faults: keep freed memory instead of giving each block back.

glibc maps every large tensor anew and unmaps it when it goes, so that a training step spends much
of its time in page faults. Two settings at the start of a program cure it: freed blocks stay, and
PyTorch asks for huge pages. `app.py` and `python -m nada` take them; the library does not, since
memory belongs to the program.
"""

import ctypes
import os
import sys

# from glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

_kept = False


def keep_freed_memory() -> bool:
    """Make the settings, before PyTorch allocates; whether there are any to make here.

    Without effect where another allocator (jemalloc, tcmalloc) is preloaded, and on systems whose
    C library has no such settings. `malloc_trim` still gives the memory back when it is called.
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


def in_use() -> str:
    """What allocates: a preloaded library's name, "glibc, freed memory kept" or "default"."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    for name in ("jemalloc", "tcmalloc", "mimalloc"):
        if name in preloaded:
            return name
    return "glibc, freed memory kept" if _kept else "default"
