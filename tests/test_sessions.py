"""What visitors keep: bounded, described, and gone when they are."""

import gc
import threading
import time

import pytest
import torch

import nada.serve.sessions
from nada.checkpoint import fingerprint
from nada.delta import Delta
from nada.facts import describe
from nada.serve.sessions import Session, Sessions


def domain(name="zombie", **facts) -> Delta:
    return Delta("a" * 64, {"conv1.bias": torch.ones(4)}, {"target": name, **facts})


def test_a_kept_domain_can_be_read_again():
    visitor = Session()
    kept = visitor.keep(domain("the joker", source="photo", loss=0.5))
    assert kept.title == "the joker" and kept.path.name == "the-joker.safetensors"
    assert Delta.load(kept.path).metadata == kept.facts and visitor.kept[kept.id] is kept
    visitor.forget(kept.id)
    visitor.forget("nobody")
    assert not visitor.kept and not kept.path.exists()


def test_the_oldest_domains_make_room(monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "MAX_DOMAINS", 3)
    visitor = Session()
    kept = [visitor.keep(domain(str(i))) for i in range(5)]
    assert [entry.title for entry in visitor.kept.values()] == ["2", "3", "4"]
    assert [entry.path.exists() for entry in kept] == [False, False, True, True, True]
    monkeypatch.setattr(nada.serve.sessions, "VISITOR_BYTES", 1)
    last = visitor.keep(domain())
    assert list(visitor.kept) == [last.id]  # the newest stays, whatever its size


def test_the_files_go_with_the_visitor():
    visitors = Sessions()
    path = visitors.get("me").keep(domain()).path
    visitors.forget("me")
    gc.collect()
    assert not path.exists() and len(visitors) == 0


def test_a_session_without_an_id_is_nobody_elses():
    visitors = Sessions()
    assert visitors.get(None) is not visitors.get(None)
    assert visitors.find(None) is None and visitors.find("me") is None
    assert visitors.get("me") is visitors.get("me") is visitors.find("me")


def wait_until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_who_is_not_heard_of_is_forgotten_even_if_nobody_comes():
    visitors = Sessions(keep_seconds=4.0)
    for i in range(50):
        visitors.get(str(i))
    assert len(visitors) == 50
    wait_until(lambda: len(visitors) == 0)


def test_who_closed_the_page_is_soon_forgotten_and_the_rest_is_not():
    visitors = Sessions(keep_seconds=60.0)
    for i in range(3):
        visitors.get(str(i))
    began = time.monotonic()
    visitors.leave("1")
    visitors.leave("nobody")
    wait_until(lambda: len(visitors) == 2)
    assert visitors.find("1") is None and time.monotonic() - began > 1  # a lost line comes back


def test_there_are_only_so_many_visitors(monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "MAX_VISITORS", 3)
    visitors = Sessions()
    for name in "abcabd":
        visitors.get(name)
    assert [visitors.find(name) is not None for name in "abcd"] == [True, True, False, True]


def test_all_together_keep_only_so_much(monkeypatch):
    visitors = Sessions()
    one = visitors.get("a").keep(domain()).path.stat().st_size
    monkeypatch.setattr(nada.serve.sessions, "TOTAL_BYTES", 2 * one)
    for name in "bcd":
        visitors.get(name).keep(domain())
    visitors.purge()
    assert [visitors.find(name) is not None for name in "abcd"] == [False, False, True, True]


def test_many_threads_see_one_visitor():
    visitors, seen = Sessions(), []
    threads = [threading.Thread(target=lambda: seen.append(visitors.get("me"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(visitor) for visitor in seen}) == 1


def test_a_description_tells_what_the_file_says_and_whether_it_fits(generator):
    own = fingerprint(generator)
    facts = {"source": "photo", "target": "zombie", "loss": 0.5, "quality": 0.6, "diversity": 0.1,
             "layers": ["conv1"], "config": {"seed": 7, "steps": 60}, "steps_done": 60}  # fmt: skip
    told = describe(Delta(own, {"conv1.bias": torch.ones(4)}, facts), own)
    assert (told["title"], told["seed"], told["fits"], told["parameters"]) == ("zombie", 7, True, 4)
    assert told["settings"]["steps"] == 60 and told["layers"] == ["conv1"]
    assert describe(domain(), own)["fits"] is False


@pytest.mark.parametrize("facts", [{}, {"config": 7}, {"blend": 3}, {"target": None},
                                   {"blend": [3]}, {"target": "x" * 10_000}])  # fmt: skip
def test_a_strangers_metadata_can_be_shown(facts):
    told = describe(Delta("a" * 64, {}, facts), "b" * 64)
    assert 0 < len(told["title"]) <= 80 and told["seed"] is None


def test_a_mix_is_called_by_its_parts():
    facts = {"blend": [{"weight": 0.5, "target": "zombie"}, {"weight": 0.5, "target": "elf"}]}
    assert describe(Delta("a" * 64, {}, facts), "")["title"] == "zombie + elf"
