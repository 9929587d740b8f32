"""Who listens, as it is seen where requests arrive."""

import asyncio

import pytest

import nada.serve.presence
from nada.serve.presence import Presence, Unfetched, listener
from nada.serve.sessions import Sessions
from tests.helpers import complete


def request(path, method="GET", query=b"", kind="http"):
    return {"type": kind, "method": method, "path": path, "query_string": query}


@pytest.mark.parametrize(
    "scope, id",
    [
        (request("/gradio_api/heartbeat/abc"), "abc"),
        (request("/nada/gradio_api/heartbeat/abc/"), "abc"),
        (request("/gradio_api/queue/data", query=b"session_hash=abc&x=1"), "abc"),
        (request("/gradio_api/call/v2/adapt/e1"), "e1"),
        (request("/gradio_api/call/adapt/e1"), "e1"),
        (request("/gradio_api/call/v2/adapt", "POST"), None),
        (request("/gradio_api/queue/data"), None),
        (request("/gradio_api/queue/data", query=b"session_hash=%ff%00"), "\ufffd\0"),
        (request("/gradio_api/queue/join", "POST", b"session_hash=abc"), None),
        (request("/"), None),
        (request("/gradio_api/heartbeat/abc", kind="websocket"), None),
    ],
)
def test_a_line_names_who_listens(scope, id):
    assert listener(scope) == id


def test_who_listens_is_there_until_the_line_ends():
    sessions, seen = Sessions(None), []
    mine = sessions.get("abc")

    async def app(scope, receive, send):
        seen.append(sessions.is_watched(mine))
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        complete(Presence(app, sessions)(request("/heartbeat/abc"), None, None))
    assert seen == [True] and not sessions.is_watched(mine)


def test_those_for_whom_nobody_listens_make_room(monkeypatch):
    monkeypatch.setattr(nada.serve.presence, "MAX_UNFETCHED", 3)
    waiting = Unfetched({"a", "d"}.__contains__)
    for id in "abcdefg":
        waiting[id] = asyncio.Queue()
    assert list(waiting) == ["a", "d", "g"]
    waiting["b"].put_nowait("an answer")  # goes nowhere, without an error
    del waiting["b"], waiting["a"]
    assert list(waiting) == ["d", "g"]
