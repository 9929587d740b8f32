"""What visitors keep: found again, bounded, described, and gone when they are."""

import threading
import time

import pytest
import torch

import nada.serve.domains
import nada.serve.sessions
from nada.checkpoint import fingerprint
from nada.delta import Delta, Strength, fits
from nada.facts import describe
from nada.serve.disk import Home
from nada.serve.domains import KeptDomains
from nada.serve.sessions import Sessions
from nada.serve.validate import BadInput
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
    assert not domains and not list(tmp_path.glob("*"))


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


KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


def test_the_files_go_with_the_visitor(sessions):
    session = sessions.get("me")
    path = session.domains.add(domain()).path
    shown = session.shown("film.mp4")
    shown.touch()
    sessions.forget("me")
    assert not path.exists() and not shown.exists() and not session.folder.exists()
    assert len(sessions) == 0
    with pytest.raises(BadInput, match="was forgotten"):
        session.keep(domain())  # by an event that had begun before
    assert not session.folder.exists()


def test_a_session_without_an_id_is_nobody_elses(sessions):
    assert "me" not in sessions
    assert sessions.get(None) is not sessions.get(None)
    assert sessions.get("me") is sessions.get("me") and "me" in sessions


def test_a_visitor_who_only_looks_costs_no_file(sessions):
    session = sessions.get("me")
    session.remember({"target": "zombie"})
    session.save()
    assert session.is_empty and not session.folder.exists() and session.bytes == 0


def test_those_who_make_something_at_once_do_not_exceed_the_bound(sessions, monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "SESSIONS_PER_ADDRESS", 3)
    crowd = [sessions.get(str(number), "192.0.2.1") for number in range(9)]
    sessions.service = None
    for session in crowd:  # all are admitted before any has made its domain
        sessions._admit(session)
    assert len(sessions) == 3
    gone = [session for session in crowd if str(crowd.index(session)) not in sessions]
    assert len(gone) == 6
    with pytest.raises(BadInput, match="was forgotten"):
        gone[0].keep(domain())


# Coming back


def test_a_browser_finds_its_visitor_again_by_its_key(sessions):
    mine = sessions.come_back("page 1", KEY)
    mine.domains.add(domain())
    sessions.depart("page 1")
    assert sessions.come_back("page 2", KEY) is mine  # reloaded
    assert sessions.get("page 1") is mine  # a line that was lost for a while
    for stranger in (OTHER, KEY[:-1], KEY + "0", KEY.upper(), "", None, 7, ["a"]):
        assert sessions.come_back("page 3", stranger) is not mine
    assert sessions.get("page 2") is mine


def test_a_key_that_was_given_up_opens_nothing(sessions):
    path = sessions.come_back("page", KEY).domains.add(domain()).path
    sessions.drop(sessions.get("page"))
    assert not path.exists() and not sessions.come_back("page", KEY).domains
    assert not sessions.get("page").domains


def test_no_file_or_folder_shows_a_key(sessions):
    session = sessions.come_back("page", KEY)
    session.domains.add(domain())
    session.save()
    files = [session.folder, *session.folder.rglob("*")]
    assert not any(KEY in str(path) for path in files)
    assert not any(KEY.encode() in path.read_bytes() for path in files if path.is_file())


def test_pages_of_long_ago_are_not_remembered(sessions):
    mine = sessions.come_back("page", KEY)
    for number in range(100):
        assert sessions.come_back(f"page {number}", KEY) is mine
    assert "page 0" not in sessions and "page 98" in sessions


@pytest.fixture
def home(tmp_path):
    """Start a server over a folder, again and again."""
    homes = []

    def start(**options):
        homes.append(Home(tmp_path, "7860", **{"keep_seconds": 60.0, **options}))
        return Sessions(None, home=homes[-1])

    yield start
    for one in homes:
        one.close()


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_restarted_server_offers_what_was_kept(home, end):
    first = home()
    mine, nameless = first.come_back("page", KEY), first.get("script")
    mine.remember({"target": "zombie", "steps": 7, "seeds": "x" * 2000, "lr": None})
    kept = [mine.domains.add(domain(name), lambda path: ["data:,"]) for name in ("zombie", "elf")]
    nameless.domains.add(domain())
    looked_at = tuple((one.path, weight) for one, weight in zip(kept, (0.5, Strength(1, 0.5, 0))))
    mine.look_at(looked_at)
    mine.save()
    first.close() if end == "stopped" else first.home._lock.release()
    again = home()
    session = again.come_back("another page", KEY)
    session.recover()
    assert [one.title for one in session.domains] == ["zombie", "elf"]
    assert session.domains.get(kept[0].id).thumbnails == ("data:,",)
    assert session.looked_at == looked_at
    assert session.form == {"target": "zombie", "steps": 7}
    assert not nameless.folder.exists()  # nothing would find it again
    assert not again.come_back("a stranger's", OTHER).domains


def test_a_restarted_server_removes_what_nobody_came_back_for(home):
    first = home()
    path = first.come_back("page", KEY).domains.add(domain()).path
    first.home._lock.release()
    later = home(keep_seconds=0.0)
    later.home.remove_old((), 0.0)
    assert not path.exists()


def test_what_cannot_be_read_again_is_left_out(home):
    first = home()
    mine = first.come_back("page", KEY)
    kept = [mine.domains.add(domain(name)) for name in "abc"]
    kept[0].path.write_bytes(b"cut")
    (kept[1].path.parent / "card.json").write_text("[")
    first.close()
    session = home().come_back("page", KEY)
    (session.folder / "visitor.json").write_text('{"form": 7}')
    session.recover()
    assert [one.title for one in session.domains] == ["c"]
    assert len(list((session.folder / "domains").iterdir())) == 1


# Who makes room


def test_who_is_not_heard_of_is_forgotten_even_if_nobody_comes():
    sessions = Sessions(None, keep_seconds=4.0)
    for i in range(50):
        sessions.get(str(i))
    assert len(sessions) == 50
    wait_for(lambda: len(sessions) == 0)


def test_who_can_come_back_is_remembered_longer():
    sessions = Sessions(None, keep_seconds=60.0)
    sessions.get("script").domains.add(domain())
    sessions.come_back("page", KEY).domains.add(domain())
    sessions.come_back("empty page", OTHER)
    began = time.monotonic()
    wait_for(lambda: len(sessions) == 1)
    assert "page" in sessions and time.monotonic() - began > 1  # a lost line comes back


def test_who_is_here_is_never_forgotten():
    sessions = Sessions(None, keep_seconds=1.0)
    sessions.get("me")
    sessions.arrive("me")
    sessions.arrive("me")  # two lines
    time.sleep(1.5)
    sessions.depart("me")
    time.sleep(0.5)
    assert "me" in sessions
    sessions.depart("me")
    wait_for(lambda: "me" not in sessions)


def test_of_those_who_only_look_there_are_only_so_many(sessions, monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "MAX_EMPTY", 3)
    for name in "abcabd":
        sessions.get(name)
    assert [name in sessions for name in "abcd"] == [True, True, False, True]
    sessions.get("b").domains.add(domain())
    sessions.arrive("a")
    for name in "efghi":
        sessions.get(name)
    assert [name in sessions for name in "abefghi"] == [True] * 2 + [False] * 4 + [True]


def makes(sessions, name, address=None):
    """A visitor who makes something."""
    session = sessions.get(name, address)
    session._admit(session)
    session.domains.add(domain())
    return session


def test_who_was_looked_at_longest_ago_makes_room(sessions, monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "MAX_SESSIONS", 3)
    for name in "abc":
        makes(sessions, name)
    sessions.arrive("a")
    sessions.get("b")
    makes(sessions, "d")
    assert [name in sessions for name in "abcd"] == [True, True, False, True]
    for name in "bd":
        sessions.arrive(name)
    with pytest.raises(BadInput, match="3 visitors keep domains here, and all of them"):
        makes(sessions, "e")
    sessions.depart("a")
    makes(sessions, "e")
    assert [name in sessions for name in "abde"] == [False, True, True, True]


def test_one_address_drops_only_its_own(sessions, monkeypatch):
    monkeypatch.setattr(nada.serve.sessions, "SESSIONS_PER_ADDRESS", 2)
    makes(sessions, "mine", "203.0.113.1")
    makes(sessions, "local")
    for number in range(20):
        makes(sessions, str(number), "198.51.100.7")
    assert "mine" in sessions and "local" in sessions
    assert [str(n) in sessions for n in range(20)] == [False] * 18 + [True] * 2
    for name in ("18", "19"):
        sessions.arrive(name)
    with pytest.raises(BadInput, match="2 visitors from your address keep domains here"):
        makes(sessions, "20", "198.51.100.7")


def test_all_together_keep_only_so_much(sessions, monkeypatch):
    one = sessions.get("a").domains.add(domain()).path.stat().st_size
    monkeypatch.setattr(nada.serve.sessions, "TOTAL_BYTES", int(2.5 * one))
    for name in "bcd":
        sessions.get(name).domains.add(domain())
    sessions.arrive("a")
    sessions.purge()
    assert [name in sessions for name in "abcd"] == [True, False, False, True]


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
