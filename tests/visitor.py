"""A page without a browser: its events as the browser sends them, in one line of its own."""

import json
import secrets
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from nada.presets import PRESETS, SERVED


class Visitor:
    """An open page.

    Args:
        server: a running app.
        key: the browser's secret.
    """

    def __init__(self, server, key: str):
        self.server, self.key, self.id = server, key, f"page-{secrets.token_hex(4)}"
        config = json.loads(self._get("/config").read())
        self._numbers = {one["api_name"]: one["id"] for one in config["dependencies"]}

    def greet(self) -> list:
        """What the page shows when it opens."""
        return self.send("greet", self.key, "")

    def send(self, event: str, *values) -> list:
        """What an event changes in the end; its error is an AssertionError."""
        last = list(self.follow(event, *values))[-1]
        assert last["success"], last["output"]["error"]
        return last["output"]["data"]

    def refused(self, event: str, *values) -> str:
        """The sentence of an event that fails."""
        last = list(self.follow(event, *values))[-1]
        assert not last["success"], last
        return last["output"]["error"]

    def follow(self, event: str, *values) -> Iterator[dict]:
        """The messages of an event, the last one complete; one event at a time."""
        own = self.post(event, *values)
        for line in self._get(f"/gradio_api/queue/data?session_hash={self.id}"):
            message = json.loads(line.removeprefix(b"data: ")) if line.strip() else {}
            if message.get("event_id") == own:
                yield message

    def post(self, event: str, *values) -> str:
        """Let an event happen, whatever comes of it; its id."""
        body = {"data": values, "fn_index": self._numbers[event], "session_hash": self.id}
        request = urllib.request.Request(
            f"{self.server.url}/gradio_api/queue/join",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.load(reply)["event_id"]

    def train(self, **settings) -> threading.Thread:
        """A run that is followed in a thread of its own, which ends with it or with the server."""
        form = {**PRESETS["demo"].served(), "source": "photo", "target": "zombie", **settings}
        values = [form[name] for name in ("source", "target", *SERVED)]

        def follow() -> None:
            try:
                self.messages += self.follow("train", *values, "", "1-2", 0.7, None)
            except OSError:  # the server has ended
                pass

        self.messages: list[dict] = []
        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        return thread

    def upload(self, file: str | Path) -> dict:
        """A file as an event takes it."""
        head = b'Content-Disposition: form-data; name="files"; filename="a.safetensors"'
        body = b"--x\r\n" + head + b"\r\n\r\n" + Path(file).read_bytes() + b"\r\n--x--\r\n"
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        request = urllib.request.Request(f"{self.server.url}/gradio_api/upload", body, kind)
        with urllib.request.urlopen(request, timeout=60) as reply:
            (path,) = json.load(reply)
        return {"path": path, "meta": {"_type": "gradio.FileData"}}

    def _get(self, place: str):
        return urllib.request.urlopen(f"{self.server.url}{place}", timeout=60)


def cards(changes: list) -> list[dict]:
    """The cards among what an event changes."""
    for value in changes:
        try:
            found = json.loads(value) if isinstance(value, str) and value[:1] == "[" else None
        except ValueError:
            continue
        if isinstance(found, list) and all("thumbnails" in one for one in found):
            return found
    return []
