"""The app as its users meet it: a server process of its own, with tiny models."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from nada.checkpoint import save_generator
from nada.clip import CLIP, save_clip
from tests.helpers import tiny_generator

ROOT = Path(__file__).parent.parent
WORDS = "a of face photo pencil sketch zombie anime painting person old".split()


class Server:
    """A running app: its address, and what it holds of memory."""

    def __init__(self, process: subprocess.Popen, port: int, log: Path):
        self.process, self.log = process, log
        self.url, self.port = f"http://127.0.0.1:{port}", port

    def resident(self) -> float:
        """MB of memory in use."""
        pid = str(self.process.pid)
        return int(subprocess.check_output(["ps", "-o", "rss=", "-p", pid]).strip()) / 1024

    def errors(self) -> list[str]:
        """Errors that nobody foresaw: the last lines of the tracebacks in the log."""
        return re.findall(r"^\w*(?:Error|Exception).*", self.said(), re.MULTILINE)

    def said(self) -> str:
        """What it printed."""
        return self.log.read_text()

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False


def serve(folder: Path, clip: CLIP, *arguments: str, **options):
    """An app over a tiny generator of 16 pixels and `clip`, which then knows WORDS only."""
    return serve_app(folder, *tiny_models(folder, clip), *arguments, **options)


def tiny_models(folder: Path, clip: CLIP) -> tuple[str, ...]:
    """Options for a tiny generator and `clip`, whose files are written to `folder`."""
    generator, small = folder / "generator.safetensors", folder / "clip.safetensors"
    save_generator(tiny_generator(), generator)
    save_clip(clip.model, small, range(49408), WORDS)
    return "--generator", str(generator), "--clip", str(small)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def serve_app(folder: Path, *arguments: str, **options):
    """The app, once it answers; see `begin_app`. No error passes that nobody foresaw."""
    with begin_app(folder, *arguments, **options) as server:
        deadline = time.monotonic() + 240
        while not server.answers():
            assert server.process.poll() is None and time.monotonic() < deadline, server.said()
            time.sleep(0.2)
        yield server
        assert server.errors() == [], server.said()


@contextlib.contextmanager
def begin_app(
    folder: Path,
    *arguments: str,
    environment: dict | None = None,
    program: Sequence = ("app.py",),
    python: Sequence = (sys.executable,),
    cwd: Path = ROOT,
    port: int | None = None,
):
    """The app with command-line arguments, which starts; what it writes goes to `folder`. What is
    None in `environment` is not set."""
    port = port or free_port()
    command = [*python, *program, "--port", str(port), "--device", "cpu", *arguments]
    log = folder / "log"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GRADIO_TEMP_DIR": str(folder / "cache"),
        **(environment or {}),
    }
    environment = {name: value for name, value in environment.items() if value is not None}
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=out)
    try:
        yield Server(process, port, log)
    finally:
        process.terminate()
        process.wait(20)
