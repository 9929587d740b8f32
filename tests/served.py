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
        self.url = f"http://127.0.0.1:{port}"

    def resident(self) -> float:
        """MB of memory in use."""
        pid = str(self.process.pid)
        return int(subprocess.check_output(["ps", "-o", "rss=", "-p", pid]).strip()) / 1024

    def errors(self) -> list[str]:
        """Errors that nobody foresaw: the last lines of the tracebacks in the log."""
        return re.findall(r"^\w*(?:Error|Exception).*", self.log.read_text(), re.MULTILINE)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url, timeout=5) as reply:
                return reply.status == 200
        except (urllib.error.URLError, OSError):
            return False


def serve(folder: Path, clip: CLIP, *arguments: str, **options):
    """An app over a tiny generator of 16 pixels and `clip`, which then knows WORDS only."""
    generator, small = folder / "generator.safetensors", folder / "clip.safetensors"
    save_generator(tiny_generator(), generator)
    save_clip(clip.model, small, range(49408), WORDS)
    models = ("--generator", str(generator), "--clip", str(small))
    return serve_app(folder, *models, *arguments, **options)


@contextlib.contextmanager
def serve_app(
    folder: Path,
    *arguments: str,
    environment: dict | None = None,
    program: Sequence = ("app.py",),
    python: Sequence = (sys.executable,),
    cwd: Path = ROOT,
):
    """The app with command-line arguments; what it writes goes to `folder`. What is None in
    `environment` is not set."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
    server = Server(process, port, log)
    try:
        deadline = time.monotonic() + 240
        while not server.answers():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield server
        assert server.errors() == []
    finally:
        process.terminate()
        process.wait(20)
