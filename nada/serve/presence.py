"""Who listens: the open lines of pages and clients, seen where requests arrive.

The page library tells nobody when a client is there, and computes for those who are not. Its pages
and clients hold a line open (`heartbeat`), and others fetch what a request gives (`queue/data` and
`call`); each of them names the page or the client.
"""

import asyncio
import re
from urllib.parse import parse_qs

from nada.serve.sessions import Sessions

HEARTBEAT = re.compile(r"/heartbeat/([^/]+)/?$")
RESULT = re.compile(r"/call/(?:v2/)?[^/]+/([^/]+)/?$")
UPLOAD = re.compile(r"/upload/?$")


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
            if scope["type"] == "http" and UPLOAD.search(scope["path"]):
                await asyncio.to_thread(self.sessions.tidy)


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
