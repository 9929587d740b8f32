"""What visitors keep: bounded, described, and gone when they are."""

import gc
import threading
import time

import pytest
import torch

import nada.serve.domains
import nada.serve.sessions
from nada.checkpoint import fingerprint
from nada.delta import Delta, fits
from nada.facts import describe
from nada.serve.domains import KeptDomains
from nada.serve.sessions import Sessions
from tests.helpers import wait_for


def domain(name="zombie", **facts) -> Delta:
    return Delta("a" * 64, {"conv1.bias": torch.ones(4)}, {"target": name, **facts})


def test_a_kept_domain_can_be_read_again(tmp_path):
    domains = KeptDomains(tmp_path)
    kept = domains.add(domain("the joker", source="photo", loss=0.5), lambda path: [path.name])
    assert kept.title == "the joker" and kept.path.name == "the-joker.safetensors"
    assert kept.thumbnails == ("the-joker.safetensors",)  # they are drawn from the file
    assert Delta.load(kept.path).metadata == kept.metadata and domains.get(kept.id) is kept
    domains.forget(kept.id)
    domains.forget("nobody")
    assert not domains and not kept.path.exists()


@pytest.mark.parametrize("id", ["nobody", None, 7, ["a"], {}])
def test_an_id_may_be_anything(tmp_path, id):
    assert KeptDomains(tmp_path).get(id) is None


def test_a_domain_that_cannot_be_drawn_leaves_nothing_behind(tmp_path):
    domains = KeptDomains(tmp_path)
    with pytest.raises(ZeroDivisionError):
        domains.add(domain(), lambda path: 1 / 0)
    assert not domains and not list(tmp_path.iterdir())


def test_the_oldest_domains_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr(nada.serve.domains, "MAX_DOMAINS", 3)
    domains = KeptDomains(tmp_path)
    kept = [domains.add(domain(str(i))) for i in range(5)]
    assert [entry.title for entry in domains] == ["2", "3", "4"]
    assert [entry.path.exists() for entry in kept] == [False, False, True, True, True]
    monkeypatch.setattr(nada.serve.domains, "MAX_BYTES", 1)
    last = domains.add(domain())
    assert list(domains) == [last]  # the newest stays, whatever its size


@pytest.fixture
def sessions():
    """Sessions of a server without a generator."""
    return Sessions(service=None)


def test_the_files_go_with_the_visitor(sessions):
    path = sessions.get("me").domains.add(domain()).path
    sessions.forget("me")
    gc.collect()
    assert not path.exists() and len(sessions) == 0


def test_a_session_without_an_id_is_nobody_elses(sessions):
    assert "me" not in sessions
    assert sessions.get(None) is not sessions.get(None)
    assert sessions.get("me") is sessions.get("me") and "me" in sessions


def test_who_is_not_heard_of_is_forgotten_even_if_nobody_comes():
    sessions = Sessions(None, keep_seconds=4.0)
    for i in range(50):
        sessions.get(str(i))
    assert len(sessions) == 50
    wait_for(lambda: len(sessions) == 0)


def test_who_closed_the_page_is_soon_forgotten_and_the_rest_is_not():
    sessions = Sessions(None, keep_seconds=60.0)
    for i in range(3):
        sessions.get(str(i))
    began = time.monotonic()
    sessions.leave(sessions.get("1"))
    wait_for(lambda: len(sessions) == 2)
    assert "1" not in sessions and time.monotonic() - began > 1  # a lost line comes back


def test_there_are_only_so_many_visitors(sessions, monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "MAX_SESSIONS", 3)
    for name in "abcabd":
        sessions.get(name)
    assert [name in sessions for name in "abcd"] == [True, True, False, True]


def test_who_has_something_stays_when_others_only_look(sessions, monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "MAX_SESSIONS", 3)
    sessions.get("a").domains.add(domain())
    for name in "bcdef":
        sessions.get(name)
    assert [name in sessions for name in "abcdef"] == [True, False, False, False, True, True]
    for name in "ef":
        sessions.get(name).domains.add(domain())
    latest = sessions.get("g")  # and one who just came is never the one to go
    assert sessions.get("g") is latest and [name in sessions for name in "aef"] == [
        False,
        True,
        True,
    ]


def test_all_together_keep_only_so_much(sessions, monkeypatch):
    one = sessions.get("a").domains.add(domain()).path.stat().st_size
    monkeypatch.setattr(nada.serve.sessions, "TOTAL_BYTES", 2 * one)
    for name in "bcd":
        sessions.get(name).domains.add(domain())
    sessions.purge()
    assert [name in sessions for name in "abcd"] == [False, False, True, True]


def test_many_threads_see_one_visitor(sessions):
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(sessions.get("me"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(session) for session in seen}) == 1


def test_a_description_tells_what_the_file_says_and_whether_it_fits(generator):
    own = fingerprint(generator)
    facts = {"source": "photo", "target": "zombie", "loss": 0.5, "quality": 0.6, "diversity": 0.1,
             "layers": ["conv1"], "config": {"seed": 7, "steps": 60}, "steps_done": 60}  # fmt: skip
    delta = Delta(own, {"conv1.activate.bias": torch.ones(12)}, facts)
    told = describe(delta, fits(delta, generator, own))
    assert (told["title"], told["seed"], told["fits"]) == ("zombie", 7, True)
    assert told["settings"]["steps"] == 60 and told["layers"] == ["conv1"]
    assert told["parameters"] == 12 and told["unusual"] is None
    assert not fits(domain(), generator, own)  # made from another generator


def test_a_mix_is_called_by_its_parts():
    facts = {"blend": [{"weight": 0.5, "target": "zombie"}, {"weight": 0.5, "target": "elf"}]}
    assert describe(Delta("a" * 64, {}, facts), True)["title"] == "zombie + elf"
