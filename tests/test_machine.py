"""Page faults of programs that make and drop large tensors, counted in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

from nada.machine import in_use

LOOP = """
import resource, sys
from nada.machine import in_use, keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory() and in_use() == "glibc, freed memory kept"
import torch
torch.set_num_threads(1)
for i in range(16):
    if i == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000).add_(1)  # 64 MB: glibc's own threshold ends at 32
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

ONLY_GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")


def faults(how: str, **environment) -> int:
    done = subprocess.run(
        [sys.executable, "-c", LOOP, how],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LD_PRELOAD": "", **environment},
    )
    return int(done.stdout)


@ONLY_GLIBC
def test_freed_memory_is_used_again_without_page_faults():
    kept, default = faults("kept", THP_MEM_ALLOC_ENABLE="0"), faults("default")
    assert default > 10_000 and kept < default / 10


def test_a_preloaded_allocator_is_left_alone(monkeypatch):
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2")
    assert in_use() == "jemalloc"
    code = "from nada.machine import keep_freed_memory as keep; print(keep())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_importing_the_library_changes_nothing():
    assert in_use() in ("default", "jemalloc", "tcmalloc", "mimalloc")
