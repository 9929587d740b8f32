"""What `pip install -e .` reads, and what importing the library does to a process: nothing."""

import fnmatch
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import nada
from nada.checkpoint import CheckpointError, load_generator
from nada.clip import load_clip
from nada.formats import files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NOT_SHIPPED = ("*.md", "nada/experiments/results/*", "op/check_cuda")


def requirements(path: str) -> list[str]:
    lines = (line.strip() for line in (ROOT / path).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


# What is installed


def test_the_command_is_a_function():
    module, function = PROJECT["project"]["scripts"]["nada"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_version_is_the_packages():
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "nada.__version__"}
    assert all(part.isdigit() for part in nada.__version__.split("."))


def test_dependencies_are_the_files():
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
    extras = PROJECT["project"]["optional-dependencies"]
    assert extras["tests"] == requirements("tests/requirements.txt")
    others = {line for name, lines in extras.items() if name != "tests" for line in lines}
    assert others <= set(extras["tests"])


def test_everything_that_the_packages_read_is_installed_with_them():
    listed = subprocess.run(
        ["git", "ls-files", "nada", "op"], capture_output=True, text=True, cwd=ROOT
    )
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("not a checkout of git")
    patterns = [
        f"{package.replace('.', '/')}/{pattern}"
        for package, of_package in PROJECT["tool"]["setuptools"]["package-data"].items()
        for pattern in of_package
    ]
    names = [name for name in listed.stdout.splitlines() if not name.endswith(".py")]
    left = [n for n in names if not any(fnmatch.fnmatch(n, p) for p in (*patterns, *NOT_SHIPPED))]
    assert not left
    assert all(any(fnmatch.fnmatch(name, p) for name in names) for p in patterns)
    for folder in {
        Path(name).parent for name in listed.stdout.splitlines() if name.endswith(".py")
    }:
        assert (ROOT / folder / "__init__.py").is_file()


def test_without_the_bundled_weights_a_sentence_says_how_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "CHECKPOINTS", tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"bundled weights are not here .*pip install -e"):
        load_generator("demo")
    with pytest.raises(CheckpointError, match=r"bundled weights are not here .*pip install -e"):
        load_clip("demo")


# What `import nada` gives and does


def test_every_name_is_there():
    assert nada.__all__ == sorted(set(nada.__all__)) and set(nada.__all__) <= set(dir(nada))
    for name in nada.__all__:
        home = importlib.import_module(f"nada.{nada._HOME[name]}")
        assert getattr(nada, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'load_generators'"):
        nada.load_generators  # noqa: B018


def test_no_name_hides_a_module():
    assert not set(nada.__all__) & {path.stem for path in (ROOT / "nada").iterdir()}


def test_importing_nada_does_not_import_torch():
    assert python("import nada, sys; print('torch' in sys.modules)") == "False"
    assert python("from nada import Generator; print(Generator.__module__)") == "nada.generator"


STATE = """
import os, pkgutil, importlib, signal, socket, sys, threading, warnings, torch, huggingface_hub
from huggingface_hub.utils import _http

def state():
    return {
        "factory": _http._GLOBAL_CLIENT_FACTORY,
        "client": _http._GLOBAL_CLIENT,
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "random": torch.get_rng_state().tolist(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        "timeout": socket.getdefaulttimeout(),
        "running": threading.active_count(),
    }

import filelock, PIL.Image, safetensors.torch, torch.utils.checkpoint, tqdm
before = state()
import nada, op
for package in (nada, op):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
after = state()
print([name for name in before if before[name] != after[name]])
"""


def test_importing_all_of_it_changes_nothing_in_the_process():
    assert python(STATE) == "[]"
