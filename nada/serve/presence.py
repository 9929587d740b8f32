"""Who listens: the open lines of pages and clients, seen where requests arrive.

The page library tells nobody when a client is there, and computes for those who are not. Its pages
and clients hold a line open (`heartbeat`), and others fetch what a request gives (`queue/data` and
`call`); each of them names the page or the client.
"""

import asyncio
import re
from collections.abc import Callable
from urllib.parse import parse_qs

from nada.serve.sessions import Sessions

HEARTBEAT = re.compile(r"/heartbeat/([^/]+)/?$")
RESULT = re.compile(r"/call/(?:v2/)?[^/]+/([^/]+)/?$")
MAX_UNFETCHED = 200  # pages and clients for whom answers wait


class Presence:
    """ASGI middleware that tells the sessions who is there.

    Args:
        app: what answers.
        sessions: of the server.
    """

    def __init__(self, app, sessions: Sessions):
        self.app, self.sessions = app, sessions

    async def __call__(self, scope, receive, send) -> None:
        id = listener(scope)
        if id:
            self.sessions.arrive(id)
        try:
            await self.app(scope, receive, send)
        finally:
            if id:
                self.sessions.depart(id)


class Unfetched(dict):
    """Queues of answers that wait to be fetched, by page or client, in place of the library's.

    That one drops the oldest where there are too many, whoever waits for it. Here those go first
    for whom nobody listens, since a stranger can ask for much and fetch nothing; what comes for
    them later goes nowhere.

    Args:
        listens: whether a page or a client holds a line open.
    """

    def __init__(self, listens: Callable[[str], bool]):
        super().__init__()
        self.listens = listens

    def __setitem__(self, id: str, answers: asyncio.Queue) -> None:
        surplus = len(self) - MAX_UNFETCHED + 1
        if surplus > 0:
            for other in [one for one in self if not self.listens(one)][:surplus]:
                del self[other]
        super().__setitem__(id, answers)

    def __delitem__(self, id: str) -> None:
        self.pop(id, None)  # it may have gone before

    def __missing__(self, id: str) -> asyncio.Queue:
        return asyncio.Queue()


def listener(scope) -> str | None:
    """The page or the client whose line a request opens; None for one that opens none."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return None
    for line in (HEARTBEAT, RESULT):
        if found := line.search(scope["path"]):
            return found[1]
    if scope["path"].endswith("/queue/data"):
        query = parse_qs(scope["query_string"].decode("latin-1"))
        return query.get("session_hash", [None])[0]
    return None
