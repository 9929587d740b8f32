"""What the README prints works as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from nada.adapt import PRESETS
from nada.checkpoint import load_generator
from tests.served import ROOT, serve_app

README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The app as `python app.py` starts it, with the bundled models."""
    with serve_app(tmp_path_factory.mktemp("bundled")) as server:
        yield server


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def block_with(language: str, words: str) -> str:
    (block,) = (block for block in blocks(language) if words in block)
    return block


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_front_matter_is_what_a_space_reads():
    facts = yaml.safe_load(README.split("---\n")[1])
    assert facts["sdk"] == "gradio" and facts["app_file"] == "app.py"
    assert f"gradio=={facts['sdk_version']}" in (ROOT / "requirements.txt").read_text()
    assert len(facts["short_description"]) <= 60


def test_the_two_commands_are_there():
    commands = "".join(blocks("sh"))
    assert "pip install -r requirements.txt && python app.py\n" in commands
    assert (
        "pip install -r requirements.txt -r tests/requirements.txt && python -m pytest\n"
        in commands
    )


def test_the_library_example_makes_sketches(tmp_path):
    printed = run(block_with("python", "load_generator"), tmp_path)
    assert printed.count("step ") == PRESETS["demo"].config.steps
    side = load_generator("demo").size
    assert Image.open(tmp_path / "sketches.png").size == (8 * side, 2 * side)
    assert (tmp_path / "pencil-sketch.safetensors").stat().st_size < 8e6


def test_the_client_script_adapts_and_samples(tmp_path, bundled):
    code = block_with("python", "gradio_client").replace("http://127.0.0.1:7860", bundled.url)
    printed = run(code, tmp_path)
    assert "Done: 60 steps." in printed
    assert printed.splitlines()[-1].startswith("demo ") and printed.strip().endswith(".png")


def test_the_examples_run_as_printed(tmp_path, bundled):
    printed = block_with("sh", "examples/").replace("http://127.0.0.1:7860", bundled.url)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line in printed.strip().splitlines():
        command = line.replace("python ", f"{sys.executable} ", 1)
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True,
                              timeout=280)  # fmt: skip
        assert done.returncode == 0, (line, done.stderr)
    assert "fits: True" in done.stdout and "title: zombie + pencil sketch" in done.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "examples", "zombie.safetensors", "sketch.safetensors", "samples.png", "mix.safetensors",
    }  # fmt: skip
    told = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert told == set(re.findall(r"examples/(\w+\.py)", printed))


@pytest.mark.parametrize("endpoint", ["adapt", "info"])
def test_the_curl_calls_answer(bundled, endpoint):
    code = block_with("sh", "curl").replace("http://127.0.0.1:7860", bundled.url)
    if endpoint == "info":
        code = code.replace("/adapt", "/info")
        code = re.sub(r"-d '\{.*?\}'", "-d '{}'", code)
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "event: complete" in done.stdout, done.stdout[-2000:]
    assert {"adapt": "Done: 20 steps.", "info": "fingerprint"}[endpoint] in done.stdout


def test_the_pictures_exist():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README):
        assert Image.open(ROOT / path).width > 300
