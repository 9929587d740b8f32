"""What the Markdown files print works as printed, and what they point at is there.

Every fenced block of `PAGES` is listed in `BLOCKS` with what becomes of it here: commands are read
by the real parsers, Python is run, and what needs a server is run against one (slow).
"""

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from nada.checkpoint import load_generator
from nada.clip import load_clip
from nada.guidance import GlobalLoss
from nada.sample import sample
from tests.served import ROOT, serve_app

PAGES = (
    "README.md",
    "examples/README.md",
    "checkpoints/README.md",
    "nada/clip/README.md",
    "nada/formats/README.md",
    "nada/experiments/README.md",
    "nada/serve/README.md",
    "op/README.md",
)
EVERY_PAGE = (*PAGES, "REPORT.md")
TEXT = {page: (ROOT / page).read_text() for page in EVERY_PAGE}

COMMANDS, LIBRARY, SERVED, SHOWN = "commands", "library", "served", "shown"
BLOCKS = {  # page: {a block's first line: what it is}
    "README.md": {
        "pip install -r requirements.txt && python app.py": COMMANDS,
        "pip install -r requirements.txt -r tests/requirements.txt && python -m pytest": COMMANDS,
        "import copy": LIBRARY,
        'python -m nada adapt --target "pencil sketch" --out sketch.safetensors': COMMANDS,
        "app.py         the page: gradio blocks and events; nothing else imports gradio": SHOWN,
        "imports point down this list, never up": SHOWN,  # checked where imports are
        "python -m pytest               # minutes": COMMANDS,
    },
    "examples/README.md": {
        "python examples/info.py --server http://127.0.0.1:7860": SERVED,
        "from gradio_client import Client, handle_file": SERVED,
        "URL=http://127.0.0.1:7860/gradio_api/call/v2/adapt": SERVED,
    },
    "checkpoints/README.md": {"python -m nada.demo.train_generator": COMMANDS},
    "nada/clip/README.md": {},
    "nada/formats/README.md": {
        "python -m nada convert --generator network-snapshot.pkl --out generator.safetensors": (
            COMMANDS
        ),
    },
    "nada/experiments/README.md": {
        "python -m nada sweep selection loss optimiser collapse cheaper styles enough "
        "--out build/sweeps/all --jobs 2": COMMANDS,
    },
    "nada/serve/README.md": {
        "python app.py --host 0.0.0.0 --folder kept --keep MINUTES": COMMANDS,
    },
    "op/README.md": {
        'python -m pytest tests/test_op.py tests/test_op_backends.py -k "not host"': COMMANDS,
        "for NADA_OP in reference cuda; do": SHOWN,  # wants a GPU
    },
}
PLACEHOLDERS = {"…": "zombie", "VARIANT": "reference", "MINUTES": "60"}
TOOLS = ("ruff", "mypy", "compute-sanitizer", "apt-get")


def blocks(page: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(r"^```\w*\n(.*?)^```$", TEXT[page], re.DOTALL | re.MULTILINE)


def blocks_of(page: str, kind: str) -> list[str]:
    return [block for block in blocks(page) if BLOCKS[page][block.splitlines()[0]] == kind]


def block_with(page: str, words: str) -> str:
    (block,) = (block for block in blocks(page) if words in block)
    return block


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```\w*\n.*?^```$", "", TEXT[page], flags=re.DOTALL | re.MULTILINE)


def spans(page: str) -> list[str]:
    """What stands between single backticks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


# What stands where


def test_the_front_matter_is_what_a_space_reads():
    facts = yaml.safe_load(TEXT["README.md"].split("---\n")[1])
    assert facts["sdk"] == "gradio" and facts["app_file"] == "app.py"
    assert f"gradio=={facts['sdk_version']}" in (ROOT / "requirements.txt").read_text()
    assert len(facts["short_description"]) <= 60


def test_the_readme_is_short():
    assert len(TEXT["README.md"].encode()) <= 10_000


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_known_here(page):
    assert {block.splitlines()[0] for block in blocks(page)} == set(BLOCKS[page])


# Commands


def commands(script: str) -> list[list[str]]:
    """The words of each command of a script, without settings of the environment before it."""
    found = []
    for line in script.replace("\\\n", " ").splitlines():
        for command in line.split("&&"):
            words = shlex.split(command, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            found += [words] if words else []
    return found


class Parsed(Exception):
    """Command-line arguments were read without an error."""


@pytest.fixture(autouse=True)
def only_parse(monkeypatch):
    """Programs end once they have understood their arguments."""
    parse = argparse.ArgumentParser.parse_args

    def stop(self, arguments=None, namespace=None):
        parse(self, arguments, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)


def check(words: list[str]) -> None:
    """Raise if a command's program, files or options are not there; run nothing."""
    for placeholder, value in PLACEHOLDERS.items():
        words = [word.replace(placeholder, value) for word in words]
    if words[0] == "nada" or (
        words[:2] == ["python", "-m"] and words[2].startswith(("nada", "op"))
    ):
        module, *arguments = words if words[0] == "nada" else words[2:]
        understood(module, arguments)
    elif words[:3] == ["python", "-m", "pytest"]:
        assert all((ROOT / word).exists() for word in words[3:] if word.endswith(".py")), words
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2]), words
    elif words[:2] == ["python", "app.py"]:
        understood("app", words[2:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), words
    elif words[:2] == ["pip", "install"]:
        files = [words[at + 1] for at, word in enumerate(words) if word == "-r"]
        assert all((ROOT / file).is_file() for file in files), words
    else:
        assert words[0] in TOOLS, words


def understood(name: str, arguments: list[str]) -> None:
    """Let a program read its arguments; a lone command of `nada` is only a mention of it."""
    if name == "nada" and len(arguments) < 2:
        arguments = [*arguments, "--help"]
    module = importlib.import_module(f"{name}.__main__" if name in ("nada", "op") else name)
    try:
        module.parse(arguments) if name == "app" else module.main(arguments)
    except Parsed:
        pass
    except SystemExit as end:
        assert end.code == 0, (name, arguments)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_in_blocks_are_understood(page):
    for block in blocks_of(page, COMMANDS):
        for words in commands(block):
            check(words)


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_the_commands_in_the_text_are_understood(page):
    for span in spans(page):
        span = re.sub(r"^(train_\w+|judge) ", r"python -m nada.demo.\1 ", span)
        if re.match(r"(\w+=\S+ )?(python (-m|app)|pip install|nada) ", span):
            for words in commands(span):
                check(words)


def test_the_settings_that_are_said_to_trade_something_are_settings():
    section = TEXT["nada/experiments/README.md"].split("## What the settings trade\n")[1]
    flags = re.findall(r"^\| `(--[^`]+)`", section, re.MULTILINE)
    assert len(flags) == 6
    for flag in flags:
        understood("nada", ["adapt", "--target", "zombie", *flag.replace("N", "2").split()])


# Links and names


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = (ROOT / page).parent / file if file else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"
        if link.endswith(".png"):
            assert Image.open(target).width > 300, link


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_the_files_and_modules_that_a_page_names_are_there(page):
    for span in spans(page):
        if re.fullmatch(r"(nada|op|tests|examples|checkpoints|\.ci)/[\w./-]*", span):
            assert (ROOT / span).exists(), f"{page}: {span}"
        elif re.fullmatch(r"nada(\.\w+)+", span):
            assert resolves(span), f"{page}: {span}"


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module, or a name in one."""
    module, _, name = dotted.rpartition(".")
    if importlib.util.find_spec(module) is None:
        return False
    return hasattr(importlib.import_module(module), name) or bool(importlib.util.find_spec(dotted))


def test_the_steps_of_the_method_are_in_the_files_that_the_table_names():
    section = prose("README.md").split("## How it works\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\|.*\| *([^|\n]*\.py`[^|\n]*)\|$", section, re.MULTILINE)
    steps = [re.findall(r"`([\w.]+)`", row) for row in rows if row.count("`") > 2]
    assert len(steps) >= 8
    for file, *names in steps:
        module = importlib.import_module(f"nada.{file.removesuffix('.py')}")
        assert all(hasattr(module, name) for name in names), (file, names)


@pytest.fixture(scope="module")
def code() -> str:
    """The sources, and what else holds names that a page may print."""
    patterns = ("nada/**/*.py", "nada/**/*.toml", "op/*.py", "op/*.h", "app.py", "pyproject.toml")
    return "".join(path.read_text() for pattern in patterns for path in ROOT.glob(pattern))


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_the_names_and_options_that_a_page_prints_are_in_the_code(page, code):
    for span in spans(page):
        name = re.fullmatch(r"(--[a-z-]+|[A-Za-z_]{3,})([( .].*)?", span)
        if name and not span.startswith(("pip ", "python ", "apt-get ", "nada")):
            field = name[1].strip("-").replace("-", "_")  # options are made of fields' names
            assert name[1] in code or (name[1].startswith("--") and field in code), span


# The library


def library(**changes: str) -> dict:
    """Run the README's Python with `changes` (words: others) in it; the names it has made."""
    (code,) = blocks_of("README.md", LIBRARY)
    for words, others in changes.items():
        assert code.count(words) == 1
        code = code.replace(words, others)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_library_example_runs(capsys):
    names = library(**{"steps=60": "steps=3"})
    assert capsys.readouterr().out.count("step ") == 3
    side = load_generator("demo").size
    assert names["images"].shape == (16, 3, side, side) and len(names["delta"].tensors) > 6


@pytest.mark.slow
def test_the_library_example_makes_sketches(tmp_path):
    images = library()["images"]
    likeness = GlobalLoss(load_clip("demo-vit"), "pencil sketch")  # a CLIP that did not guide
    with torch.no_grad():
        photos = sample(load_generator("demo"), range(16))
        assert likeness(images) < likeness(photos) - 0.05


# What needs a server

EXAMPLES = "examples/README.md"
URL = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The app as `python app.py` starts it, with the bundled models."""
    with serve_app(tmp_path_factory.mktemp("bundled")) as server:
        yield server


def run(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_client_script_adapts_and_samples(tmp_path, bundled):
    printed = run(block_with(EXAMPLES, "gradio_client").replace(URL, bundled.url), tmp_path)
    assert "Done: 60 steps." in printed
    assert printed.splitlines()[-1].startswith("demo ") and printed.strip().endswith(".png")


@pytest.mark.slow
def test_the_examples_run_as_printed(tmp_path, bundled):
    printed = block_with(EXAMPLES, "python examples/").replace(URL, bundled.url)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line in printed.strip().splitlines():
        command = line.replace("python ", f"{sys.executable} ", 1)
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, (line, done.stderr)
    assert "fits: True" in done.stdout and "title: zombie + pencil sketch" in done.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "examples",
        "zombie.safetensors",
        "sketch.safetensors",
        "samples.png",
        "mix.safetensors",
    }


def test_every_example_is_printed():
    printed = block_with(EXAMPLES, "python examples/")
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == set(re.findall(r"examples/(\w+\.py)", printed))


@pytest.mark.slow
@pytest.mark.parametrize("endpoint", ["adapt", "info"])
def test_the_curl_calls_answer(bundled, endpoint):
    code = block_with(EXAMPLES, "curl").replace(URL, bundled.url)
    if endpoint == "info":
        code = code.replace("/adapt", "/info")
        code = re.sub(r"-d '\{.*?\}'", "-d '{}'", code)
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "event: complete" in done.stdout, done.stdout[-2000:]
    assert {"adapt": "Done: 20 steps.", "info": "fingerprint"}[endpoint] in done.stdout
