"""The line in which runs wait for the device: one trains, the others follow in their order.

It is a line of training alone, so that looking, loading and telling go on when it is full. What one
address may take of it is bounded, or a stranger would be all that a server does.
"""

import ipaddress
import threading
import time
from collections import Counter, deque

MAX_WAITING = 20  # runs, whoever asked for them
WAITING_PER_ADDRESS = 4
STARTS_PER_ADDRESS, STARTS_SECONDS = 40, 600
TICK = 0.4  # seconds between two looks at a flag


class LineFull(ValueError):
    """There is no place for another run; the message is a sentence for the visitor."""


class LinePlace:
    """A run's place in the line, from `Line.enter` until `leave`."""

    def __init__(self, line: "Line", address: str | None):
        self._line, self.address = line, address

    @property
    def before(self) -> int:
        """How many runs are served earlier; 0 for the one whose turn it is."""
        return self._line.before(self)

    def wait(self, stop) -> bool:
        """Wait for this run's turn; False if the flag `stop` is set before it comes."""
        return self._line.wait(self, stop)

    def leave(self) -> None:
        """Make room for the next, once."""
        self._line.leave(self)


class Line:
    """Runs in the order in which they came; the first one has the device."""

    def __init__(self):
        self._places: list[LinePlace] = []
        self._starts: dict[str, deque[float]] = {}
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._places)

    def enter(self, address: str | None = None) -> LinePlace:
        """The last place.

        Args:
            address: whose run it is, as `address_group` gives it; None for no bound of its own.

        Raises:
            LineFull: too many wait, or too many of this address wait or have come lately.
        """
        with self._changed:
            if len(self._places) > MAX_WAITING:
                raise LineFull(f"{MAX_WAITING} runs wait already; try again in a minute.")
            if address is not None:
                self._check(address)
            self._places.append(place := LinePlace(self, address))
        return place

    def _check(self, address: str) -> None:
        waiting = Counter(place.address for place in self._places)[address]
        if waiting >= WAITING_PER_ADDRESS:
            raise LineFull(f"{waiting} runs from your address wait or train; let one of them end.")
        now = time.monotonic()
        self._starts = {
            one: starts for one, starts in self._starts.items() if now - starts[-1] < STARTS_SECONDS
        }
        starts = self._starts.setdefault(address, deque(maxlen=STARTS_PER_ADDRESS))
        if len(starts) == STARTS_PER_ADDRESS and now - starts[0] < STARTS_SECONDS:
            wait = STARTS_SECONDS - (now - starts[0])
            raise LineFull(
                f"{STARTS_PER_ADDRESS} runs were started from your address within "
                f"{STARTS_SECONDS // 60} minutes; try again in {wait / 60:.0f} minutes.",
            )
        starts.append(now)

    def before(self, place: LinePlace) -> int:
        """How many are before a place; 0 for one that has left."""
        with self._changed:
            return self._places.index(place) if place in self._places else 0

    def wait(self, place: LinePlace, stop) -> bool:
        """See `LinePlace.wait`."""
        with self._changed:
            while self._places[0] is not place:
                if stop.is_set():
                    return False
                self._changed.wait(TICK)
        return not stop.is_set()

    def leave(self, place: LinePlace) -> None:
        """See `LinePlace.leave`."""
        with self._changed:
            if place in self._places:
                self._places.remove(place)
            self._changed.notify_all()


def address_group(host: str | None) -> str | None:
    """What counts as one address; None for this machine itself, whose owner is no stranger.

    Args:
        host: of a request. One who has an IPv6 address has the 2⁶⁴ that share its first half.
    """
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            network = ipaddress.ip_network((address, 64), strict=False)
            return None if address.is_loopback else str(network)
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)
