"""Many at once, and strangers without manners: a server that bears both, driven for real."""

import concurrent.futures
import contextlib
import json
import re
import secrets
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from gradio_client import Client

from nada.checkpoint import load_generator, save_generator
from nada.clip import save_clip
from nada.delta import diff
from nada.generator import GeneratorConfig
from nada.presets import PRESETS
from nada.serve.disk import usage
from tests.api import LONG, started
from tests.helpers import adapted, tiny_generator, wait_for
from tests.served import WORDS, serve, serve_app

STRANGER, VISITOR = "198.51.100.7", "192.0.2.1"
LOOK = ("1-2", 1.0, 0.7)  # seeds, strength, truncation
RUN = {**PRESETS["demo"].served(), "steps": 2000, "k": 0, "batch": 2}
BOUND = 12 * 2**20  # bytes of answers, and of uploads


class Visitor:
    """Somebody behind a proxy: a page or a script of theirs, without any library.

    Args:
        server: whose.
        address: what the proxy says of them; None to come from nowhere but this machine.
        is_there: whether to hold a line open, as pages and clients do.
    """

    def __init__(self, server, address=None, is_there=False):
        self.server, self.address, self.id = server, address, secrets.token_hex(8)
        self.url = f"{server.url}/gradio_api"
        self.line = self.open(f"heartbeat/{self.id}") if is_there else None

    def open(self, path: str, body=None, kind="application/json"):
        """The reply to a request."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/{path}", body, {"Content-Type": kind})
        if self.address:
            request.add_header("X-Forwarded-For", self.address)
        return urllib.request.urlopen(request, timeout=60)

    def join(self, event: str, *values) -> str:
        """Send an event of the page, and leave its answer there; the id by which it is there."""
        body = {"data": values, "fn_index": numbers(self.server)[event], "session_hash": self.id}
        return json.load(self.open("queue/join", body))["event_id"]

    def tell(self, event: str, *values) -> str:
        """Send an event of the page; all that is answered."""
        self.join(event, *values)
        with self.open(f"queue/data?session_hash={self.id}") as reply:
            return reply.read().decode()

    def post(self, endpoint: str, arguments: dict) -> str:
        """Ask an endpoint, and leave its answer there; the id by which it is there."""
        return json.load(self.open(f"call/v2/{endpoint}", arguments))["event_id"]

    def answer(self, endpoint: str, arguments: dict) -> str:
        """What an endpoint answers."""
        with self.open(f"call/{endpoint}/{self.post(endpoint, arguments)}") as reply:
            return reply.read().decode()

    def upload(self, content: bytes, name="domain.safetensors") -> dict:
        """Put a file there; how events call it."""
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + b"\r\n--x--\r\n"
        with self.open("upload", body, "multipart/form-data; boundary=x") as reply:
            return {"path": json.load(reply)[0], "meta": {"_type": "gradio.FileData"}}

    @contextlib.contextmanager
    def half_an_upload(self, content: bytes):
        """A line by which the first half of a file is sent, and no more."""
        host, port = self.server.url.removeprefix("http://").split(":")
        head = (
            "POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\n"
            f"X-Forwarded-For: {self.address}\r\nContent-Length: {len(content)}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            '--x\r\nContent-Disposition: form-data; name="files"; filename="a.safetensors"\r\n\r\n'
        )
        with socket.create_connection((host, int(port)), 60) as line:
            line.sendall(head.encode() + content[: len(content) // 2])
            yield line

    def info(self) -> dict:
        """What `/info` says."""
        return json.loads(self.answer("info", {}).split("data: ")[-1])[0]

    def train(self, **settings) -> None:
        """Start a run, which is kept when it ends, and go on."""
        run = {**RUN, **settings}
        self.join("train", "photo", run.pop("target", "zombie"), *run.values(), "", "1-2", 0.7)

    def leave(self) -> None:
        if self.line:
            self.line.close()


def numbers(server) -> dict[str, int]:
    """Events of the page, as gradio numbers them."""
    if not hasattr(server, "numbers"):
        config = json.load(urllib.request.urlopen(f"{server.url}/config", timeout=60))
        server.numbers = {one["api_name"]: one["id"] for one in config["dependencies"]}
    return server.numbers


def domains(folder, *names: str) -> list[bytes]:
    """Domain files for the generator that is served from a folder."""
    base, files = load_generator(folder / "generator.safetensors"), []
    for name in names:
        changed = adapted(base, name, ("convs.",))
        diff(base, changed, {"source": "photo", "target": name}).save(folder / "made.safetensors")
        files.append((folder / "made.safetensors").read_bytes())
    return files


def step(told: str) -> int:
    """At which step a run is, by what a page was told."""
    return max(map(int, re.findall(r'"step": ?(\d+)', told)), default=0)


@contextlib.contextmanager
def slowest(call):
    """Call something again and again meanwhile; the longest that it took, in a list."""
    longest, over = [0.0], threading.Event()

    def watch():
        while not over.wait(0.5):
            began = time.monotonic()
            call()
            longest[0] = max(longest[0], time.monotonic() - began)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield longest
        finally:
            over.set()
    watching.result()


def lowered(**bounds) -> tuple[str, ...]:
    """The app, with other bounds; their names are those of modules' constants."""
    lines = ["import runpy"]
    for name, bound in bounds.items():
        module = name.rpartition(".")[0]
        lines.append(f"import {module}; {name} = {bound}")
    return "-c", "\n".join([*lines, 'runpy.run_path("app.py", run_name="__main__")'])


@contextlib.contextmanager
def large_files(folder, clip, *arguments):
    """An app whose domain files are large, as its bounds on files go."""
    config = GeneratorConfig(size=16, w_dim=16, z_dim=16, mapping_layers=2, channels=(96, 64, 48))
    save_generator(tiny_generator(config), folder / "generator.safetensors")
    save_clip(clip.model, folder / "clip.safetensors", range(49408), WORDS)
    bounds = {"SHOWN_BYTES": BOUND // 4, "ANSWER_BYTES": BOUND, "UPLOAD_BYTES": BOUND}
    program = lowered(**{f"nada.serve.disk.{name}": bound for name, bound in bounds.items()})
    models = (
        "--generator",
        folder / "generator.safetensors",
        "--clip",
        folder / "clip.safetensors",
    )
    with serve_app(folder, *map(str, models), *arguments, program=program) as server:
        yield server


@contextlib.contextmanager
def largest(folder: Path):
    """The most bytes of uploads and answers at any moment meanwhile, in a list."""
    most, over = [0], threading.Event()

    def watch():
        while not over.wait(0.05):
            kept = sum(map(usage, folder.glob("*/visitors")))
            most[0] = max(most[0], usage(folder) - kept)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield most
    finally:
        over.set()
        watching.join()


def results(told: str) -> list:
    """What an event returned, by all that was answered."""
    messages = [json.loads(line[6:]) for line in told.splitlines() if line.startswith("data: ")]
    (done,) = [message for message in messages if message["msg"] == "process_completed"]
    assert done["success"], done["output"]
    return done["output"]["data"]


def fetch(visitor, file: dict) -> bytes:
    """A file of an answer."""
    with visitor.open(f"file={file['path']}") as reply:
        return reply.read()


# A stranger


@pytest.mark.slow
def test_what_nobody_fetches_takes_the_place_of_nothing(tmp_path, clip_tiny):
    program = lowered(**{"nada.serve.presence.MAX_UNFETCHED": 20})
    with serve(tmp_path, clip_tiny, "--proxies", "127.0.0.1", program=program) as server:
        client = Client(
            server.url,
            verbose=False,
            headers={"X-Forwarded-For": VISITOR},
            httpx_kwargs={"timeout": 60},
        )
        job = client.submit(**{**LONG, "batch": 2}, api_name="/adapt")
        before = started(job)["step"]
        for _ in range(50):
            Visitor(server, STRANGER).post("domain", {})
        assert not job.done()
        wait_for(lambda: job.done() or job.outputs()[-1][1]["step"] > before)
        assert not job.done()
        job.cancel()
        client.close()


# Files


@pytest.mark.slow
def test_uploads_that_nobody_uses_stay_under_the_bound(tmp_path, clip_tiny):
    with large_files(tmp_path, clip_tiny, "--keep", "0.5", "--proxies", "127.0.0.1") as server:
        (zombie,), junk = domains(tmp_path, "zombie"), secrets.token_bytes(BOUND // 5)
        mine = Visitor(server, VISITOR, is_there=True)
        start = usage(tmp_path / "cache")
        answered = results(mine.tell("sample", "1", 0.7, None, 1.0))[0]

        def throw(number):
            stranger = Visitor(server, STRANGER)
            stranger.upload(number.to_bytes(4, "big") + junk)
            with contextlib.suppress(OSError), stranger.half_an_upload(junk):
                pass

        with largest(tmp_path / "cache") as most, concurrent.futures.ThreadPoolExecutor(8) as pool:
            thrown = [pool.submit(throw, number) for number in range(60)]
            while not all(one.done() for one in thrown):
                assert '"success":true' in mine.tell("load", mine.upload(zombie), *LOOK)
            for one in thrown:
                one.result()
        assert fetch(mine, answered)  # which no upload drove out
        with pytest.raises(urllib.error.HTTPError) as refused:
            Visitor(server, STRANGER).upload(junk + junk)
        assert refused.value.code == 413
        assert BOUND // 2 < most[0] <= start + 2 * BOUND
        mine.leave()
        wait_for(lambda: usage(tmp_path / "cache") <= start, 120)


# Lines


def held(server) -> dict[str, int]:
    """What a server holds: MB of memory, threads, open files."""
    process = Path(f"/proc/{server.process.pid}")
    threads = re.search(r"Threads:\s*(\d+)", (process / "status").read_text())[1]
    files = len(list((process / "fd").iterdir()))
    return {"memory": round(server.resident()), "threads": int(threads), "files": files}


@pytest.mark.slow
def test_lines_of_made_up_visitors_harm_nobody(tmp_path, clip_tiny):
    with serve(tmp_path, clip_tiny, "--proxies", "127.0.0.1") as server:
        key, mine = secrets.token_hex(32), Visitor(server, VISITOR, is_there=True)
        mine.tell("greet", key, "")
        mine.train()
        back = Visitor(server, VISITOR)
        before, files = wait_for(lambda: step(back.tell("greet", key, ""))), held(server)["files"]
        with slowest(mine.info) as longest, contextlib.ExitStack() as lines:
            for number in range(300):
                lines.enter_context(Visitor(server, STRANGER).open(f"heartbeat/{number}"))
            for number in range(100):
                with Visitor(server, STRANGER).open(f"queue/data?session_hash={number}") as reply:
                    assert "session_not_found" in reply.read().decode()
            assert held(server)["files"] > files + 250
        assert longest[0] < 10 and step(back.tell("greet", key, "")) > before
        wait_for(lambda: held(server)["files"] < files + 20)
        mine.leave()
