"""Starting anywhere: in surroundings that lack this or that, the app serves, or says why it cannot.

Each start is a process of its own, as people start it.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

import op
from nada.checkpoint import save_generator
from nada.clip import save_clip
from nada.delta import Delta
from nada.serve import surroundings
from nada.serve.http import DISK_FULL
from nada.serve.surroundings import CannotStart, check_address, leave_out_proxies
from op.build import CPP, can_be_written, folder, private_folder
from tests.api import QUICK, call, connect
from tests.helpers import tiny_generator
from tests.page import adapt, picture, tab, visits
from tests.served import ROOT, WORDS, serve

STRANGER = 12345  # a user whom no machine knows
# root may write anywhere; so may read this user, who has no home and no rights
AS_STRANGER = (
    "setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", sys.executable,
)  # fmt: skip
NOBODY_LISTENS = "http://127.0.0.1:9"
PLAIN = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
BARE = {  # of what a desk has
    "HOME": None,
    "XDG_CACHE_HOME": None,
    "XDG_CONFIG_HOME": None,
    "HF_HOME": None,
    "MPLCONFIGDIR": None,
    "TORCH_EXTENSIONS_DIR": None,
    "GRADIO_TEMP_DIR": None,
    "NO_PROXY": None,
    "no_proxy": None,
}


def checkout(place: Path) -> Path:
    """A copy of what is started, which cannot be written to."""
    for name in ("nada", "op", "examples", "app.py"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        place.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, place / name)
    for path in (place, *place.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return place


def contents(place: Path) -> set[Path]:
    return set(place.rglob("*"))


@pytest.fixture
def unprivileged():
    """A Python that may read, and write only where all may; root's rights would hide faults."""
    if os.getuid():
        return (sys.executable,)
    if not shutil.which("setpriv"):
        pytest.skip("root cannot be told apart from others without setpriv")
    return AS_STRANGER


@pytest.fixture
def open_path():
    """A folder whose parents are open to all, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="nada-test-") as path:
        os.chmod(path, 0o755)
        yield Path(path)


def test_it_starts_and_works_with_next_to_nothing(open_path, clip_tiny, unprivileged):
    """No home, no name, no proxy that works, no compiler, nothing to write to but temporary files,
    no language but C, a checkout under a strange name and another working directory."""
    place, temporary = checkout(open_path / "Größe Ж, и пробел" / "nada"), open_path / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)
    before = contents(place)
    environment = {
        **BARE, **PLAIN, "TMPDIR": str(temporary), "PATH": str(open_path / "empty"), "CXX": None,
        "NADA_OP": "auto", "HTTP_PROXY": NOBODY_LISTENS, "https_proxy": "ftp://a",
        "ALL_PROXY": "socks5://127.0.0.1:9", "all_proxy": "socks5://127.0.0.1:9",
    }  # fmt: skip
    python = [shutil.which(unprivileged[0]), *unprivileged[1:]]
    program = (str(place / "app.py"),)

    with serve(
        open_path, clip_tiny, environment=environment, python=python, program=program, cwd=Path("/")
    ) as server:
        visitor = connect(server)
        told = visitor.predict(api_name="/info")
        assert told["operations"]["runs"] == "reference" and told["size"] == 16
        status = visitor.predict(**{**QUICK, "target": "zombie зомби"}, api_name="/adapt_once")[1]
        assert status["state"] == "finished" and "“зомби”" in status["hints"][0]
        visitor.close()
        made = {path.name for path in temporary.iterdir()}
        log = server.log.read_text()
    assert contents(place) == before
    user = os.getuid() or STRANGER
    assert {"gradio", f"nada-hf_home-{user}"} <= made and "Matplotlib" not in log
    assert "Traceback" not in log
    assert "https_proxy is left out, since that proxy is not the address of one" in log
    assert log.count("The plain operations run, which take longer: cpp: there is no C++") == 1


def ended(*arguments: str, python=(sys.executable,), **environment: str | None):
    """An app that cannot be started: exit status, and what it says on its error output."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [*python, "app.py", "--generator", "demo", "--device", "cpu", *arguments]
    process = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    return process.returncode, process.stderr


@contextlib.contextmanager
def taken(host="127.0.0.1"):
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind((host, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_taken_port_ends_a_start_in_a_sentence():
    with taken() as number:
        assert ended("--host", "0.0.0.0", "--port", str(number)) == (
            2,
            f"app.py: error: port {number} of 0.0.0.0 cannot be listened on, since another program "
            "does; choose another port.\n",
        )


NO_TEMPORARY = (
    "import runpy, tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc/no-such']; "
    "runpy.run_path('app.py', run_name='__main__')"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, environment, sentence",
    [
        (["--host", "no-such-host.invalid"], {}, "the host no-such-host.invalid is not known here"),
        (["--host", "192.0.2.1"], {}, "192.0.2.1 cannot be listened on, since it is not an addr"),
        ([], {"GRADIO_SERVER_NAME": "192.0.2.1"}, "192.0.2.1 cannot be listened on"),
        (["--generator", "nothing.pt"], {}, "There is no generator file 'nothing.pt'"),
        (["--device", "abacus"], {}, "The device 'abacus' cannot be used"),
    ],
)
def test_what_cannot_be_started_says_so_in_a_line(arguments, environment, sentence):
    status, said = ended(*arguments, **environment)
    assert status == 2 and said.startswith(f"app.py: error: {sentence}"), said
    assert said.endswith(".\n") and said.count("\n") == 1


@pytest.mark.slow
def test_without_a_place_for_temporary_files_it_says_so():
    command = [sys.executable, "-c", NO_TEMPORARY]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert process.returncode == 2
    assert process.stderr == (
        "app.py: error: there is no folder for temporary files; set TMPDIR to one that can be "
        "written to.\n"
    )


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_free_address_can_be_listened_on_and_a_taken_port_not(host):
    check_address(host, None)
    with taken() as number, pytest.raises(CannotStart, match=f"port {number} of {host}.*another"):
        check_address(host, number)


@pytest.mark.parametrize(
    "host, reason",
    [("no-such-host.invalid", "not known here"), ("a" * 70, "not known"), ("192.0.2.1", "address")],
)
def test_an_address_elsewhere_cannot_be_listened_on(host, reason):
    with pytest.raises(CannotStart, match=reason):
        check_address(host, 7860)


# Proxies


@pytest.mark.parametrize(
    "name, address, reason",
    [
        ("ALL_PROXY", "socks5://127.0.0.1:9", r"pip install \"httpx\[socks\]\""),
        ("https_proxy", "ftp://a:1", "not the address of one"),
        ("HTTP_PROXY", "http://a:port", "not the address of one"),
    ],
)
def test_a_proxy_that_no_client_takes_is_left_out(monkeypatch, name, address, reason):
    monkeypatch.setitem(sys.modules, "socksio", None)  # as where it is not installed
    monkeypatch.setattr(os, "environ", {name: address, "NO_PROXY": "a"})
    (sentence,) = leave_out_proxies()
    assert sentence.startswith(f"{name} is left out") and sentence.endswith(".")
    assert re.search(reason, sentence) and os.environ == {"NO_PROXY": "a"}


@pytest.mark.parametrize("address", [NOBODY_LISTENS, "proxy.example:3128", "https://u:p@a:1"])
def test_a_proxy_stays_that_a_client_takes(monkeypatch, address):
    known = {"http_proxy": address, "HTTPS_PROXY": address, "ALL_PROXY": address}
    monkeypatch.setattr(os, "environ", dict(known))
    assert leave_out_proxies() == [] and os.environ == known


def test_no_proxy_stands_before_the_page(monkeypatch):
    monkeypatch.setattr(os, "environ", {"NO_PROXY": "example.org"})
    surroundings.reach_without_proxy("localhost", None)
    assert os.environ == {"NO_PROXY": "example.org,localhost", "no_proxy": "localhost"}


class Asked(BaseHTTPRequestHandler):
    """A proxy that finds nothing, and notes what it was asked for."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def listening(handler, **facts):
    """A server in a thread; `facts` become attributes of it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        vars(running).update(facts, daemon_threads=True)
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


FORKING = """
import os, socket, sys
from nada.serve.surroundings import hang_up_in_forks
server = socket.create_server(("127.0.0.1", 0))
mine = socket.create_connection(server.getsockname())
theirs, _ = server.accept()
if sys.argv[1] == "careful":
    hang_up_in_forks(server.getsockname()[1])
reader, writer = os.pipe()
if not os.fork():
    os.close(writer)
    os.read(reader, 1)  # until the other has looked
    os._exit(0)
os.close(reader)
theirs.close()
mine.settimeout(2)
try:
    print(mine.recv(1))
except TimeoutError:
    print("open")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks: none on this system")
@pytest.mark.parametrize("how, said", [("careful", "b''\n"), ("as usual", "open\n")])
def test_a_forked_process_keeps_no_line_open_that_the_server_closed(how, said):
    run = [sys.executable, "-c", FORKING, how]
    assert subprocess.check_output(run, cwd=ROOT, text=True, timeout=60) == said


@pytest.mark.slow
def test_the_hub_is_asked_by_the_proxy(tmp_path):
    with listening(Asked, asked=[]) as proxy:
        address = f"http://127.0.0.1:{proxy.server_port}"
        environment = {"HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(tmp_path)}
        status, said = ended(
            "--generator", "org/repo:file.pt", HTTP_PROXY=address, **BARE | environment
        )
    assert status == 2 and "org/repo" in said and "Traceback" not in said
    assert any(asked.startswith("http://hub.invalid/org/repo") for asked in proxy.asked)


# A root path


class Prefix(BaseHTTPRequestHandler):
    """A proxy that serves a page under a path of its own, as nginx does with `proxy_pass`."""

    def do_GET(self):
        if self.path == "/favicon.ico":  # which browsers ask of every host
            self.send_response(204)
            return self.end_headers()
        if not self.path.startswith("/nada"):
            self.server.strayed.append(self.path)
            return self.send_error(404)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        line = http.client.HTTPConnection(self.server.behind, timeout=120)
        line.request(self.command, self.path.removeprefix("/nada") or "/", body, self.headers)
        reply = line.getresponse()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError, http.client.HTTPException):
            while part := reply.read1(2**16):
                self.wfile.write(part)
                self.wfile.flush()
        line.close()

    do_HEAD = do_POST = do_GET

    def log_message(self, *_):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("way", ["option", "environment"])
def test_the_page_works_under_a_root_path(tmp_path, clip_tiny, browser, way):
    arguments = ["--root-path", "nada/"] if way == "option" else []
    environment = {"GRADIO_ROOT_PATH": "/nada" if way == "environment" else None}
    with (
        serve(tmp_path, clip_tiny, *arguments, environment=environment) as server,
        listening(Prefix, behind=server.url.removeprefix("http://"), strayed=[]) as proxy,
    ):
        outside = SimpleNamespace(url=f"http://127.0.0.1:{proxy.server_port}/nada")
        with visits(browser, outside) as visit:
            page = visit(query="/")
            expect(page.locator(".compare img.before").first).to_be_visible()
            adapt(page, 3)
            assert picture(page).startswith("data:image/")
            tab(page, "From 0 to 1")
            page.locator("#strip-draw").click()
            shown = page.locator("#strip img")
            expect(shown).to_have_attribute("src", re.compile("/nada/gradio_api/file="))
            page.wait_for_function("document.querySelector('#strip img').naturalWidth > 0")
        assert proxy.strayed == []


# Folders


def test_builds_go_to_a_folder_of_ones_own_where_there_is_no_home(monkeypatch, tmp_path):
    for name in ("TORCH_EXTENSIONS_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert (tmp_path / "home" / ".cache") in folder(CPP).parents
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    own = folder(CPP).parent
    assert own.parent == tmp_path and stat.S_IMODE(own.stat().st_mode) == 0o700
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "chosen"))
    assert folder(CPP).parent == tmp_path / "chosen"


def test_a_folder_that_others_may_write_to_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    own = private_folder("nada-op")
    assert private_folder("nada-op") == own
    own.chmod(0o777)
    assert private_folder("nada-op") is None
    own.rmdir()
    own.symlink_to(tmp_path)
    assert private_folder("nada-op") is None
    own.unlink()
    own.write_text("")
    assert private_folder("nada-op") is None


def test_what_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert can_be_written(tmp_path / "a" / "b") and not can_be_written(Path("~/.cache"))
    assert not can_be_written(tmp_path / "file" / "a")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["no home", "home to read", "temporary to read", "no temporary"])
def test_it_starts_and_works_without_the_usual_folders(open_path, clip_tiny, unprivileged, kind):
    shut = open_path / "shut"
    shut.mkdir(mode=0o555)
    environment = {**BARE, "HOME": str(open_path / "home"), "GRADIO_ANALYTICS_ENABLED": "False"}
    (open_path / "home").mkdir()
    (open_path / "home").chmod(0o777)
    environment |= {
        "no home": {"HOME": "/nonexistent"},
        "home to read": {"HOME": str(shut)},
        "temporary to read": {"TMPDIR": str(shut)},
        "no temporary": {"TMPDIR": "/nonexistent"},
    }[kind]
    with serve(open_path, clip_tiny, environment=environment, python=unprivileged) as server:
        visitor = connect(server)
        assert visitor.predict(**QUICK, api_name="/adapt_once")[1]["state"] == "finished"
        visitor.close()
        assert "Traceback" not in server.log.read_text()
    assert contents(shut) == set()


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a small disk without room for a byte."""
    place = tmp_path / "full"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can make a small disk")
    try:
        with contextlib.suppress(OSError), (place / "rest").open("wb", buffering=0) as rest:
            while rest.write(bytes(4096)):
                pass
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_called_one(tmp_path, clip_tiny, full_disk):
    (tmp_path / "a.safetensors").write_bytes(bytes(2**21))
    with serve(tmp_path, clip_tiny, environment={"GRADIO_TEMP_DIR": str(full_disk)}) as server:
        curl = ["curl", "-s", "-F", f"files=@{tmp_path / 'a.safetensors'}"]
        told = subprocess.check_output([*curl, f"{server.url}/gradio_api/upload"], text=True)
        assert told == json.dumps({"detail": DISK_FULL})
        answer = call(server, "sample", {"seeds": "1"})
        assert DISK_FULL in answer and str(tmp_path) not in answer
        for path in filter(Path.is_file, full_disk.rglob("*")):
            path.unlink()
        assert "event: complete" in call(server, "sample", {"seeds": "1"})
        server.log.write_text("")  # gradio prints what it could not write


# Words


@pytest.mark.slow
def test_the_page_starts_without_docstrings_and_for_all_addresses(tmp_path, clip_tiny):
    with serve(tmp_path, clip_tiny, "--mcp", python=(sys.executable, "-OO"), environment=PLAIN,
               program=("app.py", "--host", "0.0.0.0")) as server:  # fmt: skip
        assert "fingerprint" in call(server, "info", {})


@pytest.mark.slow
def test_the_command_line_takes_any_alphabet_in_any_locale(tmp_path, clip_tiny):
    generator, small = tmp_path / "generator.safetensors", tmp_path / "clip.safetensors"
    save_generator(tiny_generator(), generator)
    save_clip(clip_tiny.model, small, range(49408), WORDS)
    command = [sys.executable, "-m", "nada", "adapt", "--generator", str(generator), "--clip"]
    command += [str(small), "--source", "photo", "--target", "zombie зомби", "--steps", "2"]
    command += ["--out", str(tmp_path / "зомби.safetensors"), "--device", "cpu"]
    environment = {**os.environ, **PLAIN, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=240)
    assert process.returncode == 0, process.stderr
    assert Delta.load(tmp_path / "зомби.safetensors").metadata["target"] == "zombie зомби"


@pytest.mark.slow
def test_operations_are_built_in_a_checkout_of_any_name(open_path):
    if op.build.missing(CPP):
        pytest.skip("there is no compiler")
    place = checkout(open_path / "Größe Ж, и пробел")
    environment = {**os.environ, **BARE, "TMPDIR": str(open_path), "HOME": "/dev/null"}
    environment = {name: value for name, value in environment.items() if value is not None}
    command = [sys.executable, "-m", "op", "build", "cpp"]
    built = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, timeout=280
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert list(open_path.glob("nada-op*/nada_op_cpp_*/built"))
