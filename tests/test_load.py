"""Many at once, and strangers without manners: a server that bears both, driven for real."""

import concurrent.futures
import contextlib
import io
import json
import math
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from gradio_client import Client
from PIL import Image

from nada.checkpoint import load_generator, save_generator
from nada.clip import save_clip
from nada.delta import diff
from nada.generator import GeneratorConfig
from nada.presets import PRESETS
from nada.serve.disk import usage
from nada.serve.line import STARTS_PER_ADDRESS, WAITING_PER_ADDRESS
from nada.serve.sessions import SESSIONS_PER_ADDRESS
from nada.serve.share import EVENTS_PER_ADDRESS
from tests.api import LONG, started
from tests.helpers import adapted, tiny_generator, wait_for
from tests.served import WORDS, serve, serve_app

STRANGER, VISITOR = "198.51.100.7", "192.0.2.1"
LOOK = ("1-2", 1.0, 1.0, 1.0, 0.7)  # seeds, strength by resolution, truncation
RUN = {**PRESETS["demo"].served(), "steps": 2000, "k": 0, "batch": 2}
QUICK_RUN = {**PRESETS["demo"].served(), "steps": 4, "k": 2, "batch": 2}
SCRIPT_RUN = {"source": "photo", "target": "zombie", **QUICK_RUN}
FILE_BYTES = 400_000  # of a domain file at least, where they are large
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
        self.join(
            "train", "photo", run.pop("target", "zombie"), *run.values(), "", "1-2", 0.7, None
        )

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
def test_a_stranger_of_500_sessions_takes_nothing(tmp_path, clip_tiny):
    with serve(tmp_path, clip_tiny, "--proxies", "127.0.0.1") as server:
        key, (zombie, elf, junk) = secrets.token_hex(32), domains(tmp_path, "zombie", "elf", "junk")
        mine = Visitor(server, VISITOR, is_there=True)
        mine.tell("greet", key, "")
        for file in (zombie, elf):
            assert '"success":true' in mine.tell("load", mine.upload(file), *LOOK, False)
        mine.train()
        back = Visitor(server, VISITOR)
        before = wait_for(lambda: step(back.tell("greet", key, "")))

        def come(number):
            stranger = Visitor(server, STRANGER)
            stranger.tell("greet", secrets.token_hex(32), "")
            if number % 2:
                stranger.tell("load", stranger.upload(junk), *LOOK, False)

        with slowest(mine.info) as longest, concurrent.futures.ThreadPoolExecutor(8) as pool:
            for came in [pool.submit(come, number) for number in range(500)]:
                came.result()
        assert longest[0] < 10 and mine.info()["domains"] <= 2 + SESSIONS_PER_ADDRESS
        there = back.tell("greet", key, "")
        missing = [name for name in ("zombie", "elf") if f'"{name} · ' not in there]
        assert not missing and step(there) > before
        back.tell("stop")
        wait_for(lambda: mine.info()["domains"] == 3 + SESSIONS_PER_ADDRESS)
        assert '"success":true' in back.tell("look", *LOOK)
        mine.leave()


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


def ended(visitor, endpoint: str, event: str) -> str:
    """The answer to a request that was posted."""
    with visitor.open(f"call/{endpoint}/{event}") as reply:
        return reply.read().decode()


@pytest.mark.slow
def test_an_address_has_its_share_of_runs_and_of_requests(tmp_path, clip_tiny):
    """Whatever it says of itself: no proxy is believed here."""
    with serve(tmp_path, clip_tiny, "--host", "0.0.0.0", "--keep", "20") as server:
        mine, address = Visitor(server), own_address()
        server.url = server.url.replace("127.0.0.1", address)
        strangers = [Visitor(server, f"198.51.100.{i}") for i in range(WAITING_PER_ADDRESS + 3)]
        posted = [visitor.post("adapt", LONG) for visitor in strangers]
        wait_for(lambda: sum(mine.info()["runs"].values()) == WAITING_PER_ADDRESS)
        wait_for(lambda: sum(mine.info()["runs"].values()) == 0)  # nobody followed them
        told = [ended(visitor, "adapt", event) for visitor, event in zip(strangers, posted)]
        assert sum("from your address wait or train" in answer for answer in told) == 3
        quick = {**LONG, "steps": 1, "batch": 1}
        left = STARTS_PER_ADDRESS - WAITING_PER_ADDRESS
        answers = [strangers[0].answer("adapt_once", quick) for _ in range(left + 1)]
        assert ["were started from your address" in one for one in answers] == [False] * left + [
            True
        ]
        with pytest.raises(urllib.error.HTTPError) as refused:
            for _ in range(5 * EVENTS_PER_ADDRESS):
                strangers[0].post("sample", {"seeds": "1-36"})
        assert refused.value.code == 429 and "from your address" in refused.value.read().decode()
        assert mine.info()["size"] == 16


def own_address() -> str:
    """An address of this machine that is not the one that each machine has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route, contextlib.suppress(OSError):
        route.connect(("192.0.2.1", 9))  # nothing is sent
        if not route.getsockname()[0].startswith("127."):
            return route.getsockname()[0]
    pytest.skip("this machine has no other address")


# Files


@pytest.mark.slow
def test_300_blends_and_300_samples_stay_under_the_bound(tmp_path, clip_tiny):
    with large_files(tmp_path, clip_tiny, "--keep", "0.5") as server:
        files = domains(tmp_path, "zombie", "elf")
        Visitor(server).info()
        start = usage(tmp_path / "cache")

        def draw(number):
            visitor, uploaded = Visitor(server, is_there=True), -math.inf
            for seed in range(50):
                if time.monotonic() - uploaded > 10:  # they go after half a minute
                    mixed, uploaded = [visitor.upload(file) for file in files], time.monotonic()
                image, mix = results(visitor.tell("blend", mixed, "", f"{seed}", 0.7, False))
                assert Image.open(io.BytesIO(fetch(visitor, image))).size[0] >= 16
                assert len(fetch(visitor, mix)) > FILE_BYTES
                (image,) = results(visitor.tell("sample", f"{seed}", 0.7, None, 1.0, False))
                assert Image.open(io.BytesIO(fetch(visitor, image))).size[0] >= 16
            visitor.leave()

        with largest(tmp_path / "cache") as most, concurrent.futures.ThreadPoolExecutor(6) as pool:
            for drawn in [pool.submit(draw, number) for number in range(6)]:
                drawn.result()
        assert 5 * FILE_BYTES < most[0] <= start + 2 * BOUND
        wait_for(lambda: usage(tmp_path / "cache") <= start, 120)


@pytest.mark.slow
def test_uploads_that_nobody_uses_stay_under_the_bound(tmp_path, clip_tiny):
    with large_files(tmp_path, clip_tiny, "--keep", "0.5", "--proxies", "127.0.0.1") as server:
        (zombie,), junk = domains(tmp_path, "zombie"), secrets.token_bytes(BOUND // 5)
        mine = Visitor(server, VISITOR, is_there=True)
        start = usage(tmp_path / "cache")
        answered = results(mine.tell("sample", "1", 0.7, None, 1.0, False))[0]

        def throw(number):
            stranger = Visitor(server, STRANGER)
            stranger.upload(number.to_bytes(4, "big") + junk)
            with contextlib.suppress(OSError), stranger.half_an_upload(junk):
                pass

        with largest(tmp_path / "cache") as most, concurrent.futures.ThreadPoolExecutor(8) as pool:
            thrown = [pool.submit(throw, number) for number in range(60)]
            while not all(one.done() for one in thrown):
                assert '"success":true' in mine.tell("load", mine.upload(zombie), *LOOK, False)
            for one in thrown:
                one.result()
        assert fetch(mine, answered)  # which no upload drove out
        with pytest.raises(urllib.error.HTTPError) as refused:
            Visitor(server, STRANGER).upload(junk + junk)
        assert refused.value.code == 413
        assert BOUND // 2 < most[0] <= start + 2 * BOUND
        mine.leave()
        wait_for(lambda: usage(tmp_path / "cache") <= start, 120)


# Long service


def held(server) -> dict[str, int]:
    """What a server holds: MB of memory, threads, open files."""
    process = Path(f"/proc/{server.process.pid}")
    threads = re.search(r"Threads:\s*(\d+)", (process / "status").read_text())[1]
    files = len(list((process / "fd").iterdir()))
    return {"memory": round(server.resident()), "threads": int(threads), "files": files}


def settled(server) -> dict[str, int]:
    """The least of what a server holds within some seconds of rest: each second it returns to the
    system what it has freed, and asks for some of it again."""
    readings = []
    for _ in range(8):
        time.sleep(1)
        readings.append(held(server))
    return {name: min(reading[name] for reading in readings) for name in readings[0]}


def one_run(server, number):
    visitor = Visitor(server, is_there=True)
    if number % 3:
        assert '"finished"' in visitor.tell("adapt_once", *SCRIPT_RUN.values(), None, False, None)
    else:
        visitor.join("adapt", *{**SCRIPT_RUN, "steps": 2000}.values(), None, False, None)
        wait_for(lambda: visitor.info()["runs"]["training"])
    visitor.leave()
    if not number % 3:
        wait_for(lambda: not visitor.info()["runs"]["training"])


def ten_samples(server, number):
    visitor = Visitor(server, is_there=True)
    for seed in range(10):
        fetch(
            visitor,
            results(visitor.tell("sample", f"{10 * number + seed}", 0.7, None, 1.0, False))[0],
        )
    visitor.leave()


def one_visit(server, number):
    visitor = Visitor(server, is_there=True)
    visitor.tell("greet", secrets.token_hex(32), "")
    if number % 4 == 0:
        made = (server.log.parent / "made.safetensors").read_bytes()
        assert '"success":true' in visitor.tell("load", visitor.upload(made), *LOOK, False)
    visitor.leave()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "work, settling, often, more",
    [(one_run, 200, 100, 40), (ten_samples, 10, 40, 120), (one_visit, 50, 200, 60)],
)
def test_a_server_holds_after_long_service_what_it_held_before(
    tmp_path, clip_tiny, work, settling, often, more
):
    with serve(tmp_path, clip_tiny, "--keep", "0.2") as server:
        domains(tmp_path, "zombie")

        def serve_all(numbers):
            with concurrent.futures.ThreadPoolExecutor(1 if work is one_run else 4) as pool:
                for done in [pool.submit(work, server, number) for number in numbers]:
                    done.result()
            wait_for(lambda: Visitor(server).info()["visitors"] <= 1)
            return settled(server)

        before = serve_all(range(often, often + settling))  # pools, allocators, caches settle
        after = serve_all(range(often))
        print(work.__name__, before, after)
        assert after["memory"] - before["memory"] < more
        assert after["threads"] - before["threads"] < 20 and after["files"] - before["files"] < 20


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


KILLED = """
import sys, time
from gradio_client import Client
client = Client(sys.argv[1], verbose=False, httpx_kwargs={"timeout": 60})
job = client.submit(source="photo", target="zombie", steps=2000, batch=16, k=0, api_name="/adapt")
while not any(output[1]["state"] == sys.argv[2] for output in job.outputs()):
    time.sleep(0.01)
print("there", flush=True)
job.result()
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["waiting", "starting", "running"])
def test_the_place_of_a_client_that_was_killed_is_free_in_seconds(server, phase):
    visitor = Visitor(server, is_there=True)
    if phase == "waiting":
        visitor.train()
        wait_for(lambda: visitor.info()["runs"]["training"])
    command = [sys.executable, "-c", KILLED, server.url, phase]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout.readline() == "there\n"
        doomed.send_signal(signal.SIGKILL)
    began, others = time.monotonic(), 1 if phase == "waiting" else 0
    wait_for(lambda: sum(visitor.info()["runs"].values()) == others)
    assert time.monotonic() - began < 20
    visitor.tell("stop")
    visitor.leave()
