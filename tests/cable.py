"""A line to a server that can be cut: every connection ends, and new ones are refused."""

import contextlib
import select
import socket
import threading
from urllib.parse import urlsplit


class Cable:
    """Passes connections on to a server until it is cut, and again once it is mended.

    Args:
        server: as `tests.served.serve` gives it.
    """

    def __init__(self, server):
        self._to, self._is_cut = urlsplit(server.url), False
        self._sockets: set[socket.socket] = set()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """Nothing passes any more."""
        self._is_cut = True
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """It passes again."""
        self._is_cut = False

    def _serve(self) -> None:
        while True:
            near, _ = self._door.accept()
            if self._is_cut:
                near.close()
                continue
            far = socket.create_connection((self._to.hostname, self._to.port))
            threading.Thread(target=self._pass, args=(near, far), daemon=True).start()

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        self._sockets |= other.keys()
        with near, far, contextlib.suppress(OSError):
            while True:
                for one in select.select(list(other), [], [])[0]:
                    if not (data := one.recv(1 << 16)):
                        return
                    other[one].sendall(data)
        self._sockets -= other.keys()
