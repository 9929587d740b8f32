"""Building in broken surroundings: the reference runs, the reason is told, and nothing waits."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import op
from op import backends
from op.build import BACKENDS, CPP, _cause, folder
from tests.helpers import wait_for

REPOSITORY = Path(__file__).parent.parent
# what the page does on start: import, make a picture, tell which operations run
START = """
import json, time, warnings
import torch
from nada.generator import Generator, GeneratorConfig
began = time.monotonic()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    generator = Generator(GeneratorConfig(8, 8, 8, 2, (4, 4)))
    image = generator(torch.randn(1, 8))
    generator(torch.randn(1, 8))
    import op
    found = op.describe()
assert image.isfinite().all()
found["warnings"] = [str(w.message) for w in caught if "Failed to" not in str(w.message)]
found["seconds"] = time.monotonic() - began
print(json.dumps(found))
"""


def surroundings(cache: Path, **changes: str | None) -> dict[str, str]:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(cache), "PYTHONPATH": str(REPOSITORY)}
    environment.update(OMP_NUM_THREADS="1", NADA_OP="auto")
    for key, value in changes.items():
        environment.pop(key, None)
        if value is not None:
            environment[key] = value
    return environment


def python(*arguments: str, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments],
        env=surroundings(**environment),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
    )


def start(**environment) -> dict:
    """Start as the page does in such surroundings; what `describe` says, and what was warned."""
    ended = python("-c", START, **environment)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


def script(folder: Path, name: str, text: str) -> str:
    """A program of that name, in a folder of its own; the folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_no_compiler(tmp_path):
    found = start(cache=tmp_path / "cache", CXX=str(tmp_path / "absent-compiler"))
    assert found["runs"] == "reference" and not found["warnings"]
    assert "install g++" in found["why_not"]["cpp"]


def test_no_ninja(tmp_path, monkeypatch):
    monkeypatch.setattr("op.build._path", lambda: str(tmp_path))
    assert "pip install ninja" in op.build.missing(CPP)


@pytest.mark.slow
def test_a_compiler_that_fails(tmp_path):
    broken = script(tmp_path / "bin", "g++", "echo 'ops.cpp:1: error: out of cheese' >&2; exit 1")
    built = python("-m", "op", "build", "cpp", cache=tmp_path / "cache", CXX=broken)
    assert built.returncode == 1 and "out of cheese" in built.stdout
    found = start(cache=tmp_path / "cache", CXX=broken)
    assert found["runs"] == "reference"
    assert len(found["warnings"]) == 1
    for sentence in (found["warnings"][0], found["why_not"]["cpp"]):
        assert "out of cheese" in sentence and "NADA_OP=reference" in sentence


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for cache in (tmp_path / "file" / "cache", Path("/proc/no-such-folder")):
        found = start(cache=cache)
        assert found["runs"] == "reference"
        assert "TORCH_EXTENSIONS_DIR" in found["why_not"]["cpp"]
        named = python("-m", "op", "build", "cpp", cache=cache)
        assert named.returncode == 1 and "TORCH_EXTENSIONS_DIR" in named.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_cuda_home_that_points_nowhere(tmp_path, name):
    changes = {name: str(tmp_path / "nowhere"), "CXX": str(tmp_path / "absent-compiler")}
    found = start(cache=tmp_path / "cache", **changes)
    assert found["runs"] == "reference" and not found["warnings"]


def test_no_nvcc_is_told_where_there_is_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    assert "install the CUDA toolkit 13.0" in op.build.missing(BACKENDS["cuda"])


@pytest.mark.slow
def test_a_backend_asked_for_by_name_raises_with_the_same_words(tmp_path):
    compiler = str(tmp_path / "absent-compiler")
    ended = python("-c", START, cache=tmp_path / "cache", NADA_OP="cpp", CXX=compiler)
    assert ended.returncode != 0
    assert "cpp: there is no C++ compiler; install g++ or set CXX to one." in ended.stderr


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="There is no backend 'fast'"):
        op.use_backend("fast")
    ended = python("-m", "op", "build", "fast", cache=Path("/tmp"))
    assert ended.returncode == 2 and "There is no backend 'fast'" in ended.stdout


@pytest.mark.slow
def test_two_processes_build_once_and_the_first_start_does_not_wait(tmp_path):
    cache = tmp_path / "cache"
    calls = tmp_path / "calls"
    counted = script(tmp_path / "bin", "g++", f'echo "$@" >> {calls}; exec c++ "$@"')
    environment = surroundings(cache, CXX=counted)
    build = [sys.executable, "-m", "op", "build", "cpp"]
    both = [
        subprocess.Popen(build, env=environment, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    places = [process.communicate(timeout=280)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0] and places[0] == places[1]
    compiled = [line for line in calls.read_text().splitlines() if "ops.cpp" in line]
    assert len(compiled) == 1
    assert start(cache=cache)["runs"] == "cpp"
    assert start(cache=cache, PATH="/nowhere")["runs"] == "cpp"  # built is built


@pytest.mark.slow
def test_what_a_killed_build_leaves_behind_stops_no_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    place = folder(CPP)
    place.mkdir(parents=True)
    (place / "lock").touch()  # PyTorch would wait for this file to go away
    (place / f"{place.name}.so").write_text("half a library")
    built = python("-m", "op", "build", "cpp", cache=tmp_path)
    assert built.returncode == 0, built.stdout
    assert start(cache=tmp_path)["runs"] == "cpp"


def test_auto_builds_in_the_background_for_the_next_start(tmp_path):
    cache = tmp_path / "cache"
    first = start(cache=cache)
    assert first["runs"] == "reference" and not first["warnings"]
    assert "being built in the background" in first["why_not"]["cpp"]
    wait_for(lambda: list(cache.glob("*/built")), 200)
    assert start(cache=cache)["runs"] == "cpp"


def test_importing_starts_nothing(tmp_path):
    ended = python(
        "-c",
        "import op, sys; print('torch.utils.cpp_extension' in sys.modules)",
        cache=tmp_path / "cache",
    )
    assert ended.stdout.strip() == "False" and not (tmp_path / "cache").exists()


def test_choosing_for_a_block_of_code():
    before = backends.asked()
    with op.use_backend("reference"):
        assert op.describe()["runs"] == "reference"
        assert "reference was asked for" in op.describe()["why_not"]["cpp"]
    assert backends.asked() == before
    assert op.describe("meta")["runs"] == "reference"


@pytest.mark.slow
def test_the_report_names_backends_places_and_times(tmp_path):
    compiler = str(tmp_path / "absent-compiler")
    ended = python("-m", "op", cache=tmp_path, CXX=compiler)
    assert ended.returncode == 0, ended.stderr
    for words in ("install g++", "cuda: ", "On cpu tensors runs: reference", "nothing to compare"):
        assert words in ended.stdout


@pytest.mark.slow
def test_the_report_ends_well_where_what_was_asked_for_cannot_be_had(tmp_path):
    for name, words in (("cpp", "install g++"), ("fast", "There is no backend 'fast'")):
        compiler = str(tmp_path / "absent-compiler")
        ended = python("-m", "op", cache=tmp_path, CXX=compiler, NADA_OP=name)
        assert ended.returncode == 0, ended.stderr
        assert f"On cpu tensors runs: nothing ({name} was asked for)." in ended.stdout
        assert words in ended.stdout


def test_after_a_block_all_is_as_it_was_also_what_cannot_be_had(monkeypatch):
    monkeypatch.setattr(backends, "_asked", None)
    monkeypatch.setenv("NADA_OP", "fast")
    with op.use_backend("reference"):
        assert op.fused_leaky_relu(torch.ones(1, 1)).item() == pytest.approx(2**0.5)
    assert backends.asked() == "fast"
    op.refresh()
    with pytest.raises(ValueError, match="There is no backend 'fast'"):
        op.fused_leaky_relu(torch.ones(1, 1))


def test_refreshing_finds_what_was_built_meanwhile(monkeypatch):
    monkeypatch.setattr(backends, "_libraries", {})
    monkeypatch.setattr(backends, "_asked", "auto")
    monkeypatch.setattr(backends, "_automatic", lambda backend: None)
    assert backends.library_for(torch.ones(1)) is None
    found = SimpleNamespace(dtypes=(torch.float32,))
    monkeypatch.setattr(backends, "_automatic", lambda backend: found)
    assert backends.library_for(torch.ones(1)) is None  # numbers stay the same within a run
    op.refresh()
    assert backends.library_for(torch.ones(1)) is found


def test_the_cause_is_the_line_that_tells():
    log = (
        "Error building extension 'x': [1/2] c++ -c a.cpp\na.cpp:3:1: error: no 'y'\nninja: stopped"
    )
    assert _cause(log) == "a.cpp:3:1: error: no 'y'"
    assert _cause("Ninja is required") == "Ninja is required"
    assert _cause("") == "no message"
