"""The line of runs: first come, first served, and bounded by address."""

import threading
import time

import pytest

import nada.serve.line
from nada.serve.line import Line, LineFull, address_group
from nada.serve.validate import SPOKEN


def test_runs_have_their_turns_in_the_order_of_their_coming():
    line, order = Line(), []
    places = [line.enter() for _ in range(5)]
    assert [place.before for place in places] == [0, 1, 2, 3, 4]

    def run(number):
        assert places[number].wait(threading.Event())
        order.append(number)
        time.sleep(0.02)
        places[number].leave()

    threads = [threading.Thread(target=run, args=(number,)) for number in (3, 1, 4, 0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert order == [0, 1, 2, 3, 4] and len(line) == 0


def test_who_is_stopped_while_waiting_does_not_get_a_turn():
    line, flag = Line(), threading.Event()
    first, second, third = (line.enter() for _ in range(3))
    flag.set()
    assert not second.wait(flag) and first.wait(threading.Event())
    second.leave()
    assert third.before == 1
    first.leave()
    first.leave()  # once is enough
    assert third.wait(threading.Event()) and third.before == 0 and not third.wait(flag)


def test_a_line_is_only_so_long(monkeypatch):
    monkeypatch.setattr(nada.serve.line, "MAX_WAITING", 2)
    line = Line()
    places = [line.enter() for _ in range(3)]  # one trains
    with pytest.raises(LineFull, match="2 runs wait already; try again in a minute"):
        line.enter()
    places[0].leave()
    line.enter()
    assert LineFull in SPOKEN


def test_an_address_has_only_so_many_places():
    line = Line()
    places = [line.enter("198.51.100.7") for _ in range(nada.serve.line.WAITING_PER_ADDRESS)]
    with pytest.raises(LineFull, match="4 runs from your address wait or train"):
        line.enter("198.51.100.7")
    line.enter("203.0.113.1")
    line.enter(None)
    places[0].leave()
    line.enter("198.51.100.7")


def test_an_address_has_only_so_many_starts_in_a_while(monkeypatch):
    monkeypatch.setattr(nada.serve.line, "STARTS_PER_ADDRESS", 3)
    line, now = Line(), [1000.0]
    monkeypatch.setattr(nada.serve.line.time, "monotonic", lambda: now[0])
    for _ in range(3):
        line.enter("198.51.100.7").leave()
        now[0] += 60
    with pytest.raises(LineFull, match=r"3 runs were started .* within 10 minutes; try .* 7 min"):
        line.enter("198.51.100.7")
    for address in ["203.0.113.1"] * 3 + [None] * 6:
        line.enter(address).leave()
    now[0] += 430
    line.enter("198.51.100.7").leave()
    now[0] += 10_000
    line.enter("203.0.113.9").leave()
    assert list(line._starts) == ["203.0.113.9"]  # what nobody asks for any more is not kept


@pytest.mark.parametrize(
    "host, group",
    [
        ("198.51.100.7", "198.51.100.7"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("127.0.0.1", None),
        ("::1", None),
        ("::ffff:127.0.0.1", None),
        ("testclient", None),
        ("", None),
        (None, None),
    ],
)
def test_what_counts_as_one_address(host, group):
    assert address_group(host) == group
