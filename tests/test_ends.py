"""How servers end: killed, told to, on a full disk; and what the next one finds of them."""

import json
import re
import secrets
import signal
import threading
import time
import urllib.error
from contextlib import contextmanager
from pathlib import Path

import pytest

from nada.delta import Delta
from nada.serve.http import DISK_FULL
from nada.serve.jobs import FULL
from tests.api import QUICK, adapt, call, connect, told_info
from tests.helpers import quick_first, wait_for
from tests.hub_server import Repo, running_hub
from tests.served import begin_app, free_port, serve, serve_app, tiny_models
from tests.small_disk import fill, small_disk
from tests.visitor import Visitor, cards

KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
LOOK = ["1-2", 1.0, 1.0, 1.0, 0.7]  # seeds, strength by resolution, truncation
ENDLESS = {"steps": 2000, "batch": 16, "k": 0, "parameters": "weights"}  # large domains
SHORT = {"steps": 4, "k": 2, "batch": 2}


@pytest.fixture
def again(tmp_path, clip_tiny):
    """Serve in one folder, on one port, as often as asked."""
    models, home, port = tiny_models(tmp_path, clip_tiny), tmp_path / "home", free_port()

    def serve_again(*arguments, start=serve_app, **options):
        options = {"port": port, **options}
        return start(tmp_path, *models, "--folder", str(home), *arguments, **options)

    serve_again.home, serve_again.folder = home, home / str(port)
    return serve_again


def kill(server) -> None:
    assert server.errors() == []
    server.process.kill()
    server.process.wait(20)


def titles(changes: list) -> list[str]:
    return [card["title"] for card in cards(changes)]


def step(visitor) -> int:
    """The latest step of the run that a visitor follows."""
    return max(map(int, re.findall(r"'step': (\d+)", str(visitor.messages))), default=0)


def snapshots(folder: Path, target: str = "*") -> list[Path]:
    """The files of runs."""
    return sorted(folder.glob(f"visitors/*/run-*/*/{target}.safetensors"))


def half_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.startswith((".unfinished", "tmp"))]


# Killed


def test_a_killed_server_leaves_all_to_the_next(again):
    with again() as server:
        mine, other = Visitor(server, KEY), Visitor(server, OTHER)
        mine.greet()
        mine.train(**SHORT).join(60)
        mine.train(**ENDLESS, target="anime", seed=7)
        wait_for(lambda: len(snapshots(again.folder, "anime")) >= 3)
        other.greet()
        other.train(**SHORT, target="painting")  # waits, and so has nothing
        wait_for(lambda: told_info(server)["runs"] == {"training": 1, "waiting": 1})
        call(server, "sample", {"seeds": "1"})
        left = again.folder / "visitors" / ".unfinished-a"
        left.mkdir()  # as a process leaves it that is killed while it writes
        kill(server)
    assert any(again.folder.glob("shown/*"))
    with again() as server:
        assert not list(again.folder.glob("shown/*")) and not half_files(again.folder)
        changes = Visitor(server, KEY).greet()
        assert titles(changes) == ["anime", "zombie"]
        values = [change.get("value") for change in changes if isinstance(change, dict)]
        assert "anime" in values and 7 in values
        anime, _ = cards(changes)
        assert int(anime["facts"]["steps"]) > 2 and anime["open"] and len(anime["thumbnails"]) == 4
        for key in (OTHER, KEY[::-1], ""):
            assert titles(Visitor(server, key).greet()) == []
        assert not snapshots(again.folder)
        own = Visitor(server, KEY)
        own.greet()
        own.train(**SHORT, target="painting").join(60)
        assert titles(own.messages[-1]["output"]["data"]) == ["painting", "anime", "zombie"]
        kill(server)  # with nothing to do
    with again() as server:
        assert len(titles(Visitor(server, KEY).greet())) == 3


@pytest.mark.slow
def test_servers_that_share_a_folder_leave_each_other_alone(again):
    with again("--keep", "0.2") as dead:  # 12 s
        visitor = Visitor(dead, KEY)
        visitor.greet()
        visitor.train(**SHORT).join(60)
        kill(dead)
    other_port = free_port()
    other_folder = again.home / str(other_port)
    with again(port=other_port) as one:
        assert list(again.folder.glob("visitors/*/domains/*/card.json"))  # not old yet
        visitor = Visitor(one, KEY)
        assert titles(visitor.greet()) == []
        visitor.train(**ENDLESS)
        wait_for(lambda: len(snapshots(other_folder)) >= 2)
        time.sleep(12)
        third = free_port()
        with again("--keep", "0.2", port=third) as two:
            assert not again.folder.exists() and not again.folder.with_suffix(".lock").exists()
            assert titles(Visitor(two, KEY).greet()) == [] and len(snapshots(other_folder)) >= 2
            assert told_info(one)["runs"]["training"] == 1
        assert sorted(path.name for path in again.home.iterdir() if path.is_dir()) == [
            str(other_port)
        ]
        assert step(visitor) and told_info(one)["runs"]["training"] == 1


# Told to end


def ended(server, *numbers: int, seconds: float = 15) -> int:
    """The exit status after signals, within seconds; nothing is said of it."""
    began = time.monotonic()
    for number in numbers:
        server.process.send_signal(number)
        time.sleep(0.05)
    status = server.process.wait(seconds)
    said = server.said()
    assert "Traceback" not in said and "terminate called" not in said, said
    assert "Exception ignored" not in said and time.monotonic() - began < seconds
    return status


@pytest.mark.parametrize("number", quick_first(signal.SIGTERM, signal.SIGINT))
def test_a_server_that_is_told_to_end_saves_all_runs(again, number):
    with again(start=begin_app) as server:
        wait_for(server.answers)
        mine, other = Visitor(server, KEY), Visitor(server, OTHER)
        mine.greet()
        mine.train(**ENDLESS)
        wait_for(lambda: step(mine) >= 2)
        other.greet()
        waiting = other.train(**SHORT, target="painting")
        nobody = Visitor(server, "")
        nobody.train(**ENDLESS)
        wait_for(lambda: told_info(server)["runs"] == {"training": 1, "waiting": 2})
        assert ended(server, number) == 0
        waiting.join(20)
    folders = list(again.folder.glob("visitors/*"))
    assert len(folders) <= 2 and not half_files(again.folder)
    assert not list(again.folder.glob("visitors/tab-*")) and not list(again.folder.glob("shown/*"))
    with again() as server:
        changes = Visitor(server, KEY).greet()
        assert titles(changes) == ["zombie"] and titles(Visitor(server, OTHER).greet()) == []
        (card,) = cards(changes)
        assert int(card["facts"]["steps"]) >= 2 and "quality" in card["facts"]  # of an end


@pytest.mark.slow
def test_nothing_is_left_of_scripts_and_of_who_made_nothing(again):
    with again(start=begin_app) as server:
        wait_for(server.answers)
        Visitor(server, KEY).greet()
        script = connect(server)
        assert adapt(script)[1]["state"] == "finished"
        Visitor(server, "").train(**ENDLESS)
        wait_for(lambda: told_info(server)["runs"]["training"] == 1)
        assert ended(server, signal.SIGTERM) == 0
    assert not again.folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("wait", [0.3, 1, 2, 3, 5, 8])
def test_a_server_can_be_ended_while_it_starts(again, number, wait):
    with again(start=begin_app) as server:
        time.sleep(wait)
        assert ended(server, number) == 0
    assert not again.folder.exists()


@contextmanager
def hanging_hub(tmp_path):
    """The environment for a Hub that sends half of a file."""
    go_on = threading.Event()

    def hang(handler, contents):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(contents)))
        handler.end_headers()
        handler.wfile.write(contents[: len(contents) // 2])
        handler.wfile.flush()
        go_on.wait(120)

    with running_hub() as hub:
        hub.repos["a/b"] = Repo({"g.safetensors": bytes(1 << 20)}, {"data": [hang, ...]})
        try:
            yield hub, {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": ""}
        finally:
            go_on.set()


@pytest.mark.parametrize("numbers", quick_first([signal.SIGTERM], [signal.SIGINT]))
def test_a_server_can_be_ended_while_it_downloads(again, tmp_path, numbers):
    with hanging_hub(tmp_path) as (hub, environment):
        remote = ("--generator", "a/b:g.safetensors")
        with again(*remote, start=begin_app, environment=environment) as server:
            wait_for(lambda: hub.requests("a/b"))
            Visitor(server, KEY)
            assert ended(server, *numbers) == 0
    assert not again.folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [[signal.SIGINT] * 2, [signal.SIGTERM] * 2])
def test_a_second_signal_ends_at_once_and_the_next_server_still_finds_the_run(again, numbers):
    with again(start=begin_app) as server:
        wait_for(server.answers)
        mine = Visitor(server, KEY)
        mine.greet()
        mine.train(**ENDLESS)
        wait_for(lambda: len(snapshots(again.folder)) >= 2)
        assert ended(server, *numbers, seconds=5) in (0, 1)
    with again() as server:
        assert titles(Visitor(server, KEY).greet()) == ["zombie"]


# A full disk


@pytest.fixture(scope="module")
def full(tmp_path_factory, clip_tiny):
    """A server on a disk of 1 MB, which takes some 25 domain files."""
    folder = tmp_path_factory.mktemp("full")
    with (
        small_disk(folder / "home") as disk,
        serve(folder, clip_tiny, "--folder", str(disk)) as server,
    ):
        server.disk, server.home = disk, disk / str(server.port)
        yield server


@pytest.fixture
def disk(full):
    """Its disk, with room; the next run is fine, and nothing is broken."""
    yield full.disk
    (full.disk / "filler").unlink(missing_ok=True)
    visitor = Visitor(full, secrets.token_hex(32))
    visitor.greet()
    visitor.train(**SHORT).join(60)
    assert titles(visitor.messages[-1]["output"]["data"]) == ["zombie"]
    assert sound(full.home)
    visitor.send("forget_all", visitor.key)


def sound(home: Path) -> bool:
    """Whether all files of domains are whole, and none are being written."""
    domains = [Delta.load(path) for path in home.rglob("*.safetensors")]
    return bool(domains) and not half_files(home)


@pytest.fixture
def visitor(full):
    """A visitor who has just come to it."""
    visitor = Visitor(full, secrets.token_hex(32))
    visitor.greet()
    yield visitor
    visitor.send("forget_all", visitor.key)


def status(visitor) -> dict:
    """The last status of a run that a visitor has followed."""
    assert visitor.messages[-1]["success"], visitor.messages[-1]
    return visitor.messages[-1]["output"]["data"][0]


def test_no_run_starts_on_a_full_disk(full, disk, visitor):
    fill(disk)
    visitor.train(**SHORT).join(60)
    sentence = FULL.format("no run could be saved")
    assert visitor.messages[-1]["output"]["error"] == sentence
    assert sentence in call(full, "adapt", QUICK) and not snapshots(full.home)
    assert told_info(full)["runs"] == {"training": 0, "waiting": 0}


def test_a_disk_that_fills_before_the_first_snapshot_fails_the_run(full, disk, visitor):
    first = Visitor(full, secrets.token_hex(32))
    first.greet()
    following = first.train(**ENDLESS, target="anime")
    wait_for(lambda: len(snapshots(full.home, "anime")) >= 2)
    waiting = visitor.train(**SHORT)
    wait_for(lambda: told_info(full)["runs"]["waiting"] == 1)
    fill(disk)
    first.post("stop")
    while waiting.is_alive():  # what the first run gives up is taken by others
        fill(disk)
        waiting.join(0.01)
    following.join(60)
    sentence = FULL.format("the domain could not be saved")
    assert visitor.messages[-1]["output"]["error"] == sentence
    assert status(first)["state"] == "stopped"  # and what it made can be fetched
    assert "anime.safetensors" in str(first.messages[-1]["output"]["data"])
    first.send("forget_all", first.key)


@pytest.mark.slow
def test_a_disk_that_is_full_in_the_middle_costs_snapshots(full, disk, visitor):
    following = visitor.train(**{**ENDLESS, "steps": 100})
    wait_for(lambda: len(snapshots(full.home)) >= 2)
    filler = fill(disk)
    wait_for(lambda: "some snapshots are left out" in str(visitor.messages))
    filler.unlink()
    following.join(120)
    told = status(visitor)
    assert told["state"] == "finished" and told["step"] == 100
    assert FULL.format("some snapshots are left out") in told["hints"]
    assert titles(visitor.messages[-1]["output"]["data"]) == ["zombie"]


def test_the_domain_takes_the_room_of_the_snapshots(full, disk, visitor):
    following = visitor.train(**ENDLESS)
    wait_for(lambda: len(snapshots(full.home)) >= 4)
    fill(disk)
    visitor.post("stop")
    following.join(60)
    told = status(visitor)
    assert told["state"] == "stopped" and len(snapshots(full.home)) <= 2
    (card,) = cards(visitor.messages[-1]["output"]["data"])
    assert int(card["facts"]["steps"]) == told["step"]


def test_a_domain_for_whose_card_there_is_no_room_stays_the_runs(full, disk, visitor):
    fill(disk, but=40_000)  # of which check and one snapshot, no card
    following = visitor.train(**ENDLESS)
    wait_for(lambda: snapshots(full.home))
    fill(disk)
    wait_for(lambda: step(visitor) >= 2)
    visitor.post("stop")
    following.join(60)
    assert (
        FULL.format("the domain has no card, and goes with the next run")
        in status(visitor)["hints"]
    )
    data = visitor.messages[-1]["output"]["data"]
    assert cards(data) == [] and "zombie.safetensors" in str(data)


def test_what_is_drawn_or_uploaded_on_a_full_disk(full, disk, visitor, tmp_path):
    visitor.train(**SHORT).join(60)
    (domain,) = full.home.glob("visitors/*/domains/*/*.safetensors")
    file, large = visitor.upload(domain), tmp_path / "large"
    large.write_bytes(bytes(1 << 20))
    fill(disk)
    for event, values in (
        ("strip", LOOK),
        ("film", LOOK),
        ("load", [file, *LOOK, False]),
    ):
        assert visitor.refused(event, *values) == DISK_FULL, event
    assert DISK_FULL in call(full, "sample", {"seeds": "1"})
    assert DISK_FULL in call(full, "blend", {"domain_files": [file], "seeds": "1"})
    fill(disk, but=300_000)
    with pytest.raises(urllib.error.HTTPError) as caught:
        visitor.upload(large)
    assert caught.value.code == 507 and json.load(caught.value) == {"detail": DISK_FULL}
    wait_for(lambda: not half_files(full.home), seconds=5)
    assert len(cards(visitor.send("load", visitor.upload(domain), *LOOK, False))) == 2
    (disk / "filler").unlink()
    assert "event: complete" in call(full, "blend", {"domain_files": [file], "seeds": "1"})


@pytest.mark.slow
def test_a_hundred_snapshots_on_a_nearly_full_disk(full, disk):
    script = connect(full)
    fill(disk, but=80_000)
    _, told, file = script.predict(**{**QUICK, "steps": 200, "batch": 1}, api_name="/adapt_once")
    assert told["state"] == "finished" and Delta.load(file).metadata["steps_done"] == 200
    assert FULL.format("some snapshots are left out") in told["hints"]
    script.close()
