"""What one address may take at once: requests that wait, uploads on their way."""

import asyncio
import time

import pytest

import nada.serve.share
from nada.serve.http import Refused
from nada.serve.share import EVENTS_PER_ADDRESS, Share
from tests.helpers import complete

STRANGER, VISITOR = "198.51.100.7", "192.0.2.1"


def request(path: str, host: str) -> dict:
    return {"type": "http", "method": "POST", "path": f"/gradio_api/{path}", "client": (host, 1)}


def answered(share: Share, *requests: dict, receive=None) -> None:
    async def all_at_once():
        await asyncio.gather(*(share(request, receive, None) for request in requests))

    complete(all_at_once())


@pytest.mark.parametrize("path", ["queue/join", "call/adapt", "call/v2/adapt"])
def test_an_address_may_have_so_many_requests_that_wait(path):
    passed = []

    async def app(scope, receive, send):
        passed.append(scope["client"][0])

    share = Share(app, lambda: [STRANGER] * EVENTS_PER_ADDRESS + [None], *[lambda: None] * 2)
    with pytest.raises(Refused, match="from your address wait already") as refused:
        answered(share, request(path, STRANGER))
    assert refused.value.status == 429
    answered(share, request(path, VISITOR), request(path, "127.0.0.1"), request("x", STRANGER))
    assert passed == [VISITOR, "127.0.0.1", STRANGER]


def test_two_uploads_of_an_address_come_at_a_time_and_others_wait():
    now, most, tidied, alone = dict.fromkeys((STRANGER, VISITOR), 0), {}, [], []

    async def app(scope, receive, send):
        host = scope["client"][0]
        now[host] += 1
        most[host] = max(most.get(host, 0), now[host])
        await asyncio.sleep(0.01)
        now[host] -= 1

    def tidy():
        time.sleep(0.02)  # longer than what is between two uploads that end
        tidied.append(True)

    share = Share(app, list, tidy, lambda: alone.append(len(tidied)))
    hosts = [STRANGER] * 7 + [VISITOR]
    answered(share, *(request("upload", host) for host in hosts))
    assert most == {STRANGER: 2, VISITOR: 1} and len(tidied) == 8
    assert alone == [8]  # parts of uploads stay as long as others are on their way


def test_room_is_made_while_an_upload_comes_which_may_not_be_too_large(monkeypatch):
    monkeypatch.setattr(nada.serve.share, "UPLOAD_BYTES", 4000)
    tidied, received = [], []

    async def app(scope, receive, send):
        while True:
            received.append(await receive())

    async def receive():
        return {"body": b"x" * 100}

    share = Share(app, list, lambda: tidied.append(len(received)), lambda: None)
    with pytest.raises(Refused, match="An upload may have") as refused:
        answered(share, request("upload", STRANGER), receive=receive)
    assert refused.value.status == 413 and len(received) == 10 and len(tidied) == 11
