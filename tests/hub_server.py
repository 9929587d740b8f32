"""A small Hugging Face Hub on this machine: enough of its protocol for downloads, and its faults.

Files are answered for as the Hub does: `resolve` gives commit, size and checksum and redirects to
another origin ("localhost" instead of "127.0.0.1"), which serves ranges.
"""

import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """Files by name, and faults by kind of request ("meta", "data", "list"), used up one by one.

    A fault is a function of the handler and the file's contents; the last one of a list that ends
    with `...` stays for ever.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list] = field(default_factory=dict)
    small: bool = False  # kept in Git itself, named by its SHA-1

    def fault(self, kind: str) -> Callable | None:
        left = self.faults.get(kind) or []
        if not left:
            return None
        return left[0] if left[1:] == [...] else left.pop(0)

    def etag(self, contents: bytes) -> str:
        if self.small:
            return hashlib.sha1(b"blob %d\0" % len(contents) + contents).hexdigest()
        return hashlib.sha256(contents).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        hub, path = self.server.hub, self.path.split("?")[0]
        if hub.stopped:  # connections that are kept alive outlive the server
            self.close_connection = True
            return None
        hub.seen.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(?:tree|revision)/([^/]+)", path):
            return self.listing(hub.repos.get(match[1]))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.meta(match[1], *match.groups()[1:])
        if match := re.fullmatch(r"/data/([^/]+/[^/]+)/(.+)", path):
            return self.data(hub.repos[match[1]], match[2])
        return self.status(404)

    def listing(self, repo: Repo | None):
        if repo is None:
            return self.status(404, **{"X-Error-Code": "RepoNotFound"})
        if fault := repo.fault("list"):
            return fault(self, b"")
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": repo.etag(data)}
            for name, data in repo.files.items()
        ]
        return self.body(json.dumps(entries).encode(), **{"Content-Type": "application/json"})

    def meta(self, name: str, revision: str, file: str):
        repo = self.server.hub.repos.get(name)
        if repo is None:
            return self.status(401, **{"X-Error-Code": "RepoNotFound"})
        if fault := repo.fault("meta"):
            return fault(self, repo.files.get(file, b""))
        if revision not in ("main", COMMIT):
            return self.status(404, **{"X-Error-Code": "RevisionNotFound"})
        if file not in repo.files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}
            return self.status(404, **headers)
        contents = repo.files[file]
        return self.status(
            302,
            **{
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{repo.etag(contents)}"',
                "X-Linked-Size": str(len(contents)),
                "ETag": '"of the redirect"',
                "Location": f"http://localhost:{self.server.server_port}/data/{name}/{file}",
            },
        )

    def data(self, repo: Repo, file: str):
        contents = repo.files[file]
        if fault := repo.fault("data"):
            return fault(self, contents)
        return self.ranged(contents)

    def ranged(self, contents: bytes):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not match:
            return self.body(contents, **{"Accept-Ranges": "bytes"})
        start = int(match[1])
        if start >= len(contents):
            return self.status(416, **{"Content-Range": f"bytes */{len(contents)}"})
        of = f"bytes {start}-{len(contents) - 1}/{len(contents)}"
        return self.body(contents[start:], 206, **{"Content-Range": of})

    def status(self, code: int, **headers):
        return self.body(b"" if self.command == "HEAD" else b"no", code, **headers)

    def body(self, data: bytes, code: int = 200, **headers):
        self.send_response(code)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


# Faults


def status(code: int, **headers) -> Callable:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, contents: handler.status(code, **names)


def page(handler, contents):
    """A web page in place of everything, as behind a hotel's door."""
    handler.body(b"<!DOCTYPE html><html>Sign in</html>", **{"Content-Type": "text/html"})


def page_of_the_right_length(handler, contents):
    handler.ranged(b"<html>".ljust(len(contents)))


def flipped(handler, contents):
    """One wrong bit."""
    handler.ranged(contents[:100] + bytes([contents[100] ^ 1]) + contents[101:])


def cut(handler, contents):
    """Half of what should follow, then the end of the connection."""
    match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    rest = contents[int(match[1]) if match else 0 :]
    handler.send_response(206 if match else 200)
    handler.send_header("Content-Length", str(len(rest)))
    if match:
        of = f"bytes {match[1]}-{len(contents) - 1}/{len(contents)}"
        handler.send_header("Content-Range", of)
    handler.end_headers()
    handler.wfile.write(rest[: len(rest) // 2])
    handler.wfile.flush()
    handler.close_connection = True
    handler.connection.shutdown(socket.SHUT_WR)


def reset(handler, contents):
    """A few bytes, then a reset: the client cannot tell where it was."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(contents)))
    handler.end_headers()
    handler.wfile.write(contents[:10])
    handler.wfile.flush()
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


class Hub:
    """The server: `repos` by name, and every request `seen`."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.seen: list[tuple[str, str, dict]] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.hub, self.server.daemon_threads = self, True
        self.stopped = False
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def requests(self, repo: str, method: str = "GET", kind: str = "data") -> list[dict]:
        """The headers of the requests for a repository's data (or "resolve")."""
        return [h for m, path, h in self.seen if m == method and kind in path and repo in path]

    def stop(self) -> None:
        if not self.stopped:
            self.stopped = True
            self.server.shutdown()
            self.server.server_close()


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    threading.Thread(target=hub.server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.stop()
