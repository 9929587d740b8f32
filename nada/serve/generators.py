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
from nada.serve.disk import Home
from nada.serve.line import TICK
from nada.serve.models import Download, Options, gpu_of
from nada.serve.service import Service
from nada.serve.session import Session
from nada.serve.sessions import KEEP_SECONDS, Sessions
from nada.serve.validate import BadInput


class GeneratorChoices:
    """A service for each generator of a server, all on one device in turn, and the sessions of
    those who work with them.

    `first` is the service that visitors begin with. Visitors know a generator by its `name_of`, in
    which there is no folder of the server.

    Args:
        options: what visitors begin with.
        sources: all that can be chosen, as `nada.formats.catalogue.locate` takes them; none for no
            choice.
        gpu: see `nada.serve.worker.Worker`.
        keep_seconds: for how long a visitor is remembered.
        home: where the server's files lie, see `nada.serve.sessions.Sessions`.
    """

    def __init__(
        self,
        options: Options,
        sources: Sequence[str] = (),
        gpu: Callable | None = None,
        keep_seconds: float = KEEP_SECONDS,
        home: Home | None = None,
    ):
        self.first = Service(options, gpu)
        self.sessions = Sessions(self.first, keep_seconds, home)
        self._services: dict[str, Service] = {}
        for source in dict.fromkeys((*sources, options.generator)):
            other = replace(options, generator=source, reason="")
            self._services[_name(source)] = (
                self.first
                if source == options.generator
                else Service(other, gpu, self.first.worker.turn)
            )

    @property
    def titles(self) -> list[tuple[str, str]]:
        """Title and name of each."""
        named = {name: CATALOGUE.get(name) for name in self._services}
        return [(entry.title if entry else name, name) for name, entry in named.items()]

    @property
    def bases(self) -> list[str]:
        """The keys of PRESETS that suit them, that of the first generator first."""
        services = (self.first, *self._services.values())
        return list(dict.fromkeys(service.options.base for service in services))

    def name_of(self, service: Service) -> str:
        """The name by which visitors know the generator of a service."""
        return next(name for name, one in self._services.items() if one is service)

    def choose(self, session: Session, name) -> Iterator[Download | None]:
        """Load a generator, and report its download; the visitor's from then on, not if it fails.

        Their run must have ended; what it made is kept. They look at no domain afterwards.

        Raises:
            BadInput: there is no such choice, it cannot be had, or their run goes on.
        """
        service = self._service(name)
        _check_idle(session)
        yield from _load(service)
        _check_idle(session)  # they may have begun one meanwhile
        session.work_with(service)
        session.remember({"generator": name})

    def return_to(self, session: Session) -> Iterator[Download | None]:
        """Load the generator that a visitor who comes back works with, and report its download;
        the first one, which the server loads by itself, where theirs is not to be had any more."""
        service = self._services.get(session.form.get("generator"), session.service)
        try:
            if service is not self.first and not service.worker.is_ready:
                yield from _load(service)
            session.service = service
        except BadInput:
            session.work_with(self.first)
        while not session.service.worker.is_ready:
            yield session.service.worker.download
            time.sleep(TICK)

    def _service(self, name) -> Service:
        if not isinstance(name, str) or name not in self._services:
            names = ", ".join(self._services)
            raise BadInput("generator", f"The generator is {quote(name)}; choose from {names}.")
        return self._services[name]


def offered(options: Options, lent: bool = False) -> list[str]:
    """The named generators that this machine can serve; `lent` as `gpu_of` takes it."""
    return [entry.name for entry in servable(gpu_of(options.device, lent))]


def _load(service: Service) -> Iterator[Download | None]:
    """Load the models of a service, and report their download.

    Raises:
        BadInput: they cannot be had.
    """
    loading = in_background(service.worker.models)
    while not loading.done():
        yield service.worker.download
        time.sleep(TICK)
    try:
        loading.result()
    except ValueError as error:
        raise BadInput("generator", str(error)) from error


def _check_idle(session: Session) -> None:
    if session.is_training:
        raise BadInput(
            "generator", "Your run goes on: stop it or let it end, then choose a generator."
        )


def _name(source: str) -> str:
    """A source without its folders; a file that is called as one of the catalogue is its file."""
    if source in CATALOGUE:
        return source
    name = source.replace("\\", "/").rsplit("/", 1)[-1]
    return f"{name} (file)" if name in CATALOGUE else name


def in_background(work: Callable) -> Future:
    """Work in a thread that does not keep the server from ending."""
    future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
