"""The generators among which a server's visitors choose, each visitor for themselves.

One that nobody chose yet costs nothing. Loaded ones stay: there are as many as the catalogue has,
and the one that the server was started with.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace

from nada.formats.catalogue import CATALOGUE, servable
from nada.formats.messages import quote
from nada.serve.service import TICK, Service
from nada.serve.validate import BadInput
from nada.serve.worker import Download, Options, gpu_of


class GeneratorChoices:
    """A studio for each generator of a server; they share its visitors and its device.

    first: the studio of the generator that visitors begin with. sources: all that can be chosen,
    as `nada.formats.catalogue.locate` takes them; none for no choice.
    """

    def __init__(self, first: Service, sources: Sequence[str] = ()):
        self.first, self.visitors = first, first.visitors
        begun = first.options.generator
        self._studios = {
            source: first
            if source == begun
            else first.beside(replace(first.options, generator=source, reason=""))
            for source in dict.fromkeys((*sources, begun))
        }

    @property
    def choices(self) -> list[tuple[str, str]]:
        """Title and source of each."""
        return [(_title(source), source) for source in self._studios]

    @property
    def bases(self) -> list[str]:
        """The keys of PRESETS that suit them, that of the first generator first."""
        studios = (self.first, *self._studios.values())
        return list(dict.fromkeys(studio.options.base for studio in studios))

    def of(self, owner: str | None) -> Service:
        """The studio that a visitor works in."""
        visitor = self.visitors.find(owner)
        return self._studios.get(visitor.generator, self.first) if visitor else self.first

    def choose(self, owner: str | None, source) -> Iterator[Download | None]:
        """Load a generator, and tell how that goes; the visitor's from then on, not if it fails.

        Their run must have ended; what it made is kept. They look at no domain afterwards.

        Raises:
            BadInput: there is no such choice, it cannot be had, or their run goes on.
        """
        studio = self._studio(source)
        self._check_idle(owner)
        loading = _in_background(studio.device.models)
        while not loading.done():
            yield studio.device.download
            time.sleep(TICK)
        try:
            loading.result()
        except ValueError as error:
            raise BadInput("generator", str(error)) from error
        self._check_idle(owner)  # they may have begun one meanwhile
        self.of(owner).settle(owner)
        visitor = self.visitors.get(owner)
        visitor.generator, visitor.run, visitor.recipe = source, None, ()

    def _studio(self, source) -> Service:
        if not isinstance(source, str) or source not in self._studios:
            names = ", ".join(self._studios)
            raise BadInput("generator", f"The generator is {quote(source)}; choose from {names}.")
        return self._studios[source]

    def _check_idle(self, owner: str | None) -> None:
        visitor = self.visitors.find(owner)
        if visitor and visitor.run and not visitor.run.finished.is_set():
            raise BadInput(
                "generator", "Your run goes on: stop it or let it end, then choose a generator."
            )


def offered(options: Options, lent: bool = False) -> list[str]:
    """The named generators that this machine can serve.

    lent: as `gpu_of` takes it.
    """
    return [named.name for named in servable(gpu_of(options.device, lent))]


def _title(source: str) -> str:
    named = CATALOGUE.get(source)
    return named.title if named else source.replace("\\", "/").rsplit("/", 1)[-1]


def _in_background(work: Callable) -> Future:
    """Work in a thread that does not keep the server from ending."""
    future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
