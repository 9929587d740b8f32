"""What one address may take of a server at once: requests that wait, uploads on their way.

The page library bounds both for all together, which lets one stranger fill them. Runs have bounds
of their own, see `nada.serve.line`.
"""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable

from nada.serve.disk import UPLOAD_BYTES
from nada.serve.http import Refused
from nada.serve.line import address_group

EVENT = re.compile(r"/(queue/join|call/(v2/)?[^/]+)/?$")
UPLOAD = re.compile(r"/upload/?$")
EVENTS_PER_ADDRESS = 60  # that wait or are served
UPLOADS_PER_ADDRESS = 2  # that are taken at once; others wait for these
OFTEN = 16  # times that the disk is looked at while a quarter of its bound arrives
TOO_MANY = f"{EVENTS_PER_ADDRESS} requests from your address wait already; let one of them end."
TOO_LARGE = f"An upload may have {UPLOAD_BYTES // 4 // 2**20} MB; send fewer files at once."


class Share:
    """ASGI middleware that gives each address its share.

    Args:
        app: what answers.
        events: tells the hosts of the requests that wait or are served.
        tidy: removes uploads beyond what there is room for.
        remove_parts: removes what is left of uploads that failed, while none is on its way.
    """

    def __init__(
        self,
        app,
        events: Callable[[], Iterable[str | None]],
        tidy: Callable[[], None],
        remove_parts: Callable[[], None],
    ):
        self.app, self.events = app, events
        self.tidy, self.remove_parts = tidy, remove_parts
        self._turns: dict[str | None, asyncio.Semaphore] = {}  # of addresses that upload
        self._uploading: Counter[str | None] = Counter()

    async def __call__(self, scope, receive, send) -> None:
        """Answer a request; see the ASGI specification."""
        if scope["type"] != "http" or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        address = address_group((scope.get("client") or (None,))[0])
        if EVENT.search(scope["path"]) and address is not None:
            if Counter(map(address_group, self.events()))[address] >= EVENTS_PER_ADDRESS:
                raise Refused(429, TOO_MANY)
        if not UPLOAD.search(scope["path"]):
            return await self.app(scope, receive, send)
        async with self._turn(address):
            try:
                await self.app(scope, self._bounded(receive), send)
            finally:
                await asyncio.to_thread(self.tidy)
                if self._uploading.total() == 1:  # none can begin before this line is over
                    self.remove_parts()

    @contextlib.asynccontextmanager
    async def _turn(self, address: str | None) -> AsyncIterator[None]:
        """When few enough uploads of an address are on their way."""
        self._uploading[address] += 1
        try:
            turn = self._turns.setdefault(address, asyncio.Semaphore(UPLOADS_PER_ADDRESS))
            async with turn:
                yield
        finally:
            self._uploading[address] -= 1
            if not self._uploading[address]:
                del self._uploading[address], self._turns[address]

    def _bounded(self, receive: Callable) -> Callable:
        """What receives an upload that may not be too large, and makes room as it comes."""
        received = looked = 0

        async def receive_some() -> dict:
            nonlocal received, looked
            message = await receive()
            received += len(message.get("body", b""))
            if received > UPLOAD_BYTES // 4:
                raise Refused(413, TOO_LARGE)
            if received - looked > UPLOAD_BYTES // 4 // OFTEN:
                looked = received
                await asyncio.to_thread(self.tidy)
            return message

        return receive_some
