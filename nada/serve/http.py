"""What leaves the server by HTTP when something went wrong: a sentence, and no folder of its own.

`PlainErrors` stands around gradio's app, as ASGI middleware. gradio answers bare 500s to what it
cannot read, shows the errors of libraries as they are, and names folders of the server in them.
Here each becomes a sentence; our own errors, which are sentences, pass.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from nada.serve.disk import FULL
from nada.serve.view import UNFORESEEN

MAX_BODY = 16 * 2**20  # of a request that is no upload
DISK_FULL = "The server's disk is full: try again later, or tell whoever runs it."
NOT_UPLOADED = (
    "That file was not uploaded here: upload it, and send the path that the upload answers with."
)
UNREADABLE = (
    "The request holds text or numbers that cannot be passed on (half a character, NaN): remove "
    "them, and send it as UTF-8."
)
UNFITTING = "These are not the arguments of this endpoint: its description is at /?view=api."
UNKNOWN = "There is no such endpoint: they are described at /?view=api."
TOO_LARGE = f"The request is over {MAX_BODY // 2**20} MB: upload files, and send their paths."
OTHER = "The server could not answer that: check what was sent, or try again; its log says more."
NO_EVENT = "There is no such event here, or it is over: send the request again."

# what errors of libraries say → status and sentence
FAMILIAR = (
    (FULL, 507, DISK_FULL),
    (r"^Cannot move |^Dotfiles |name too long|null byte|failed validation", 400, NOT_UPLOADED),
    (r"not an instance of GradioUploadFile", 400, "Send files as files, each with a name."),
    (r"surrogates not allowed|not JSON compliant|not valid UTF-8", 400, UNREADABLE),
    (r"key-word argument|input values", 400, UNFITTING),
    (r"^('/.*'|\d+)$|Could not infer function", 404, UNKNOWN),  # KeyErrors of names or numbers
    (r"^404: Not Found$", 404, NO_EVENT),
)


class PlainErrors:
    """ASGI middleware that makes errors sentences.

    Args:
        app: what to stand around.
    """

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer a request; see the ASGI specification."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        reply = Reply(send)
        try:
            receive = await read(scope, receive)
            await self.app(scope, receive, reply)
        except Refused as refused:
            await reply.end(refused.status, str(refused))
        except Exception as error:
            await reply.end(*explain(error))


# Requests


class Refused(Exception):
    """A request that is not passed on: a status, and the sentence that says why."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


async def read(scope: dict, receive: Callable) -> Callable:
    """The body of a request, read and looked at where it is no upload; what to receive it from.

    Raises:
        Refused: the body cannot be passed on.
    """
    kind = header(scope["headers"], b"content-type")
    if scope["method"] in ("GET", "HEAD", "OPTIONS") or kind.startswith("multipart/"):
        return receive
    body, more = bytearray(), True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)  # False, too, where the client has left
        if len(body) > MAX_BODY:
            raise Refused(413, TOO_LARGE)
    if "json" in kind and not can_be_passed_on(bytes(body)):
        raise Refused(400, UNREADABLE)
    waiting = [{"type": "http.request", "body": bytes(body), "more_body": False}]
    if message["type"] == "http.disconnect":
        waiting = [message]

    async def again() -> dict:
        return waiting.pop() if waiting else await receive()

    return again


def can_be_passed_on(body: bytes) -> bool:
    """Whether the text of a JSON body is text throughout; JSON can spell half a character."""
    try:
        if "\\ud" in body.decode().lower():
            json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeError:
        return False
    except (ValueError, RecursionError):  # broken, which others say better
        return True
    return True


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str:
    """The value of a header in lower case, "" if it is not there."""
    return next((value.decode("latin-1").lower() for key, value in headers if key == name), "")


# Replies


class Reply:
    """Sends a reply on, an error as a sentence. Errors are held back until they are complete.

    Args:
        send: what to send with.
    """

    def __init__(self, send: Callable):
        self.send = send
        self.start: dict | None = None
        self.body = bytearray()
        self.sent = self.streams = self.complete = False

    async def __call__(self, message: dict) -> None:
        """Take a message of the app; see the ASGI specification."""
        if message["type"] == "http.response.start":
            self.start = message
            self.streams = header(message["headers"], b"content-type").startswith(
                "text/event-stream"
            )
            if message["status"] >= 400:
                return
            self.sent = True
        elif message["type"] == "http.response.body" and not self.sent:
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send_held()
            return
        elif message["type"] == "http.response.body" and self.streams:
            message = {**message, "body": plain_event(message.get("body", b""))}
        await self._pass(message)

    async def end(self, status: int, sentence: str) -> None:
        """End a reply that the app did not: with an error, or as an event where events stream; one
        that is complete, after which the app did more, stays as it is."""
        if self.complete:
            return
        if not self.sent:
            headers = [(b"content-type", b"application/json")]
            self.start = {"type": "http.response.start", "status": status, "headers": headers}
            self.body = bytearray(json.dumps({"detail": sentence}).encode())
            await self._send_held()
        else:
            await self._pass({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_held(self) -> None:
        self.sent = True
        body = plain_body(bytes(self.body))
        kept = (b"content-length", b"content-type") if body else ()
        headers = [pair for pair in self.start["headers"] if pair[0] not in kept]
        if body:
            headers += [(b"content-type", b"application/json")]
            headers += [(b"content-length", str(len(body)).encode())]
        await self._pass({**self.start, "headers": headers})
        await self._pass({"type": "http.response.body", "body": body, "more_body": False})

    async def _pass(self, message: dict) -> None:
        is_body = message["type"] == "http.response.body"
        self.complete = is_body and not message.get("more_body", False)
        await self.send(message)


def explain(error: Exception) -> tuple[int, str]:
    """Status and sentence of an error that gradio let pass; one that nobody foresaw is logged."""
    causes = [error, *filter(None, (error.__cause__, error.__context__))]
    for cause in causes:
        if known := familiar(str(cause)):
            if known[0] >= 500:
                logging.error("%s", cause)
            return known
        if isinstance(status := getattr(cause, "status_code", None), int):  # of gradio's, too late
            return status, OTHER
    if type(error).__name__ != "ClientDisconnect":
        logging.error("error %s", number := secrets.token_hex(4), exc_info=error)
        return 500, UNFORESEEN.format(number)
    return 400, OTHER


def familiar(text: str) -> tuple[int, str] | None:
    """Status and sentence for what a library says, if it is known."""
    for pattern, status, sentence in FAMILIAR:
        if re.search(pattern, text):
            return status, sentence
    return None


# Words


def plain_body(body: bytes) -> bytes:
    """The body of an error as JSON, in sentences and without folders."""
    if not body:
        return body
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = {"detail": body.decode(errors="replace")}
    return json.dumps(plain(told)).encode()


def plain_event(body: bytes) -> bytes:
    """Server-sent events as they are, but for the errors among them."""
    if b"event: error" not in body and b'"success":false' not in body:
        return body
    lines = body.split(b"\n")
    for i, line in enumerate(lines):
        if line.startswith(b"data: "):
            with contextlib.suppress(ValueError, RecursionError):
                told = json.loads(line.removeprefix(b"data: "))
                if isinstance(told, str):
                    told = (familiar(told) or (500, told))[1]
                failed = isinstance(told, dict) and told.get("success") is False
                if failed or b"event: error" in lines:
                    lines[i] = b"data: " + json.dumps(plain(told)).encode()
    return b"\n".join(lines)


def plain(told):
    """JSON of an error: those of libraries as sentences, and no folder of the server.

    gradio says whether an error is to be seen; it gives those of ours a title, and others none.
    """
    if isinstance(told, list):
        return [plain(part) for part in told]
    if isinstance(told, str):
        return FOLDERS.sub("", told)
    if not isinstance(told, dict):
        return told
    cleaned = {key: plain(value) for key, value in told.items()}
    if isinstance(error := told.get("error"), str) and "visible" in told and "title" not in told:
        cleaned["error"] = (familiar(error) or (500, OTHER))[1]
    return cleaned


def folders() -> re.Pattern:
    """Finds the folders that say how this server is set up, as they stand in texts."""
    places = [Path.cwd(), Path(__file__).parents[2], tempfile.gettempdir(), sys.prefix]
    places += [sys.base_prefix, os.path.expanduser("~"), os.environ.get("GRADIO_TEMP_DIR")]
    places += [os.environ.get("HF_HOME")]
    paths = [Path(place) for place in places if place]
    names = {str(path) for one in paths for path in (one, one.resolve()) if len(path.parts) > 1}
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w.-])[/\\]*")


FOLDERS = folders()
