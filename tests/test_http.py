"""What strangers get for what cannot be answered: a sentence, and no path of the server."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from nada.serve import http
from tests.helpers import complete
from tests.served import ROOT


def reply(server, place: str, body: bytes | None = None, kind="application/json", method=None):
    """Status and text of an answer; a call's events as well."""
    address = f"{server.url}{place}"
    request = urllib.request.Request(address, body, {"Content-Type": kind}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    if "/call/" in place and "event_id" in text:
        return reply(server, f"{place.replace('v2/', '')}/{json.loads(text)['event_id']}")
    return status, text


def stored(path: str) -> bytes:
    """A body whose domain file says that it was uploaded."""
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    return json.dumps({"seeds": "1", "domain_file": file}).encode()


def multipart(head: bytes) -> bytes:
    part = b'Content-Disposition: form-data; name="files"' + head
    return b"--x\r\n" + part + b"\r\n\r\nabc\r\n--x--\r\n"


API, FORM = "/gradio_api", "multipart/form-data; boundary=x"
SAMPLE, ADAPT = f"{API}/call/v2/sample", f"{API}/call/v2/adapt"
# (status, a part of the answer), then what `reply` takes; the status of an event is 200
BAD = {
    "a relative path": (200, http.NOT_UPLOADED, SAMPLE, stored("requirements.txt")),
    "an absolute path": (200, http.NOT_UPLOADED, SAMPLE, stored("/etc/passwd")),
    "a path upwards": (200, http.NOT_UPLOADED, SAMPLE, stored("../../x")),
    "half a character in a path": (400, http.UNREADABLE, SAMPLE, stored("a\ud800")),
    "half a character": (400, http.UNREADABLE, ADAPT, b'{"target": "zombie \\uD800"}'),
    "the other half": (400, http.UNREADABLE, ADAPT, b'{"method": "\\udc00"}'),
    "half a character in a name": (400, http.UNREADABLE, SAMPLE, b'{"\\ud800": 1}'),
    "half a character as bytes": (400, http.UNREADABLE, SAMPLE, b'{"seeds": "\xed\xa0\x80"}'),
    "half a character in a list": (
        (400, http.UNREADABLE, f"{API}/queue/join", b'{"data": ["\\ud800"], "fn_index": 1}')
    ),
    "not UTF-8": (400, http.UNREADABLE, SAMPLE, b'{"seeds": "\xff"}'),
    "NaN": (400, http.UNREADABLE, f"{API}/call/sample", b'{"seeds": NaN}'),
    "no JSON": (422, "JSON decode error", SAMPLE, b"{"),
    "nothing": (422, "Field required", SAMPLE, b""),
    "nested deeply": (400, "error parsing the body", SAMPLE, b"[" * 100_000),
    "another parameter": (400, http.UNFITTING, SAMPLE, b'{"nothing": 1}'),
    "a huge body": (413, http.TOO_LARGE, SAMPLE, b" " * (http.MAX_BODY + 1)),
    "another kind": (422, "valid dictionary", SAMPLE, b'{"seeds": "1"}', "text/plain"),
    "no such endpoint": (404, http.UNKNOWN, f"{API}/call/v2/nothing", b"{}"),
    "no such endpoint to run": (404, http.UNKNOWN, f"{API}/run/nothing", b'{"data": []}'),
    "no such number": (404, http.UNKNOWN, f"{API}/run/sample", b'{"fn_index": 9999, "data": []}'),
    "no such event": (200, http.NO_EVENT, f"{API}/call/sample/nothing"),
    "no such page": (404, "Not Found", "/nothing"),
    "a file of the server": (403, "not allowed", f"{API}/file=app.py"),
    "a file upwards": (403, "not allowed", f"{API}/file=../app.py"),
    "an upload of text": (400, "Invalid content type", f"{API}/upload", b"{}"),
    "an upload without a boundary": (
        (400, "boundary", f"{API}/upload", b"--x--", "multipart/form-data")
    ),
    "an upload that is no file": (400, "Send files", f"{API}/upload", multipart(b""), FORM),
    "an upload called ..": (
        (400, "Invalid file name", f"{API}/upload", multipart(b'; filename=".."'), FORM)
    ),
    "another method": (405, "Not Allowed", SAMPLE, None, "text/plain", "DELETE"),
    "no server function": (400, "JSON body", f"{API}/component_server", b"{}"),
}


def private(server) -> list[str]:
    """Folders that nobody outside should hear of."""
    return [str(ROOT), str(server.log.parent), str(Path.home()), "/tmp/", "site-packages"]


@pytest.mark.parametrize("status, said, asked", [(s, w, a) for s, w, *a in BAD.values()], ids=BAD)
def test_a_bad_request_gets_a_sentence_and_no_path(server, status, said, asked):
    got, text = reply(server, *asked)
    assert (got, said in text) == (status, True), text
    assert not [place for place in private(server) if place in text], text
    assert status != 200 or "event: error" in text
    if status != 200:
        assert json.loads(text)["detail"]


@pytest.mark.parametrize(
    "place",
    ["/", "/?view=api", "/config", "/theme.css", "/manifest.json", "/openapi.json"]
    + [f"{API}/{name}" for name in ("info", "openapi.json", "startup-events", "mcp/schema")],
)
def test_what_the_server_says_of_itself_names_no_folder_of_it(server, place):
    status, text = reply(server, place)
    assert status == 200 and len(text) > 4
    assert not [folder for folder in private(server) if folder in text]


def test_an_info_names_no_folder(server):
    status, text = reply(server, f"{API}/call/v2/info", b"{}")
    assert status == 200 and "generator.safetensors" in text
    assert not [folder for folder in private(server) if folder in text]


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_a_path_that_is_none_is_no_upload(path):
    with pytest.raises((OSError, ValueError)) as caught:
        Path(path).stat()
    told = json.dumps({"error": str(caught.value), "visible": True})
    event = f"event: error\ndata: {told}\n\n".encode()
    assert http.NOT_UPLOADED in through(answering(event))[1]


# The middleware by itself


def through(app, body=b"{}", kind=b"application/json"):
    """What a client gets of an ASGI app behind the middleware: status, body, number of parts."""
    sent, waiting = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", kind)]}
    complete(http.PlainErrors(app)(scope, receive, send))
    parts = [message for message in sent if message["type"] == "http.response.body"]
    assert not parts[-1].get("more_body") and sent[0]["type"] == "http.response.start"
    headers = dict(sent[0]["headers"])
    length = str(sum(len(part["body"]) for part in parts)).encode()
    assert headers.get(b"content-length", length) == length
    return sent[0]["status"], b"".join(part["body"] for part in parts).decode(), len(parts)


def failing(error):
    async def app(scope, receive, send):
        raise error

    return app


def answering(*parts, status=200, kind=b"text/event-stream"):
    async def app(scope, receive, send):
        headers = [(b"content-type", kind)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        for i, part in enumerate(parts):
            more = i + 1 < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})

    return app


def test_what_nobody_foresaw_is_logged_by_a_number(caplog):
    status, text, _ = through(failing(RuntimeError(f"{ROOT}/secret")))
    detail = json.loads(text)["detail"]
    number = detail.split("(error ")[1].split(" ")[0]
    assert status == 500 and "secret" not in text and detail.endswith("other settings.")
    assert number in caplog.text and "secret" in caplog.text


def test_a_full_disk_is_called_one():
    full = OSError(28, "No space left on device", "/tmp/gradio/a")
    assert through(failing(full))[:2] == (507, json.dumps({"detail": http.DISK_FULL}))
    told = json.dumps({"error": str(full), "visible": True})
    event = f"event: error\ndata: {told}\n\n".encode()
    _, text, _ = through(answering(event))
    assert http.DISK_FULL in text and "/tmp" not in text


def test_our_own_sentences_and_what_went_well_pass_as_they_are():
    parts = [
        b'event: complete\ndata: [{"path": "/tmp/gradio/1/image.png"}]\n\n',
        b'data: {"msg": "process_completed", "output": {"data": ["/tmp/gradio"]},"success":true}',
        'event: error\ndata: {"error": "Größe \\u201c7\\u201d.", "visible": true, "title": "E"}\n\n'
        .encode(),
    ]  # fmt: skip
    status, text, count = through(answering(*parts))
    assert (status, count) == (200, 3) and text.startswith((parts[0] + parts[1]).decode())
    assert json.loads(text.split("data: ")[-1])["error"] == "Größe “7”."


def test_folders_leave_every_error():
    message = f"{ROOT}/app.py, {Path.home()}/.cache/x and '{ROOT}' but not /vartmp or a/tmp/b"
    body = json.dumps({"detail": [{"msg": message, "input": 1}]}).encode()
    _, text, _ = through(answering(body, status=404, kind=b"application/json"))
    said = json.loads(text)["detail"][0]["msg"]
    assert said == "app.py, .cache/x and '' but not /vartmp or a/tmp/b"
    failed = {"msg": "process_completed", "output": {"error": f"{ROOT}/x", "visible": True}}
    event = b"data: " + json.dumps({**failed, "success": False}, separators=(",", ":")).encode()
    assert http.OTHER in through(answering(event))[1]


def test_an_error_that_is_no_json_becomes_some():
    _, text, _ = through(answering(b"Bad ", b"day", status=400, kind=b"text/plain"))
    assert json.loads(text) == {"detail": "Bad day"}


def test_a_stream_that_breaks_ends():
    async def app(scope, receive, send):
        await answering(b"data: 1\n\n", b"")(scope, receive, lambda message: send(
            {**message, "more_body": True} if "body" in message else message))  # fmt: skip
        raise RuntimeError("late")

    status, text, _ = through(app)
    assert (status, text) == (200, "data: 1\n\n")


@pytest.mark.parametrize("text", ["🙂", "\\ud83d\\ude42", "\\\\ud800", "Größe Ж"])
def test_whole_characters_pass(text):
    assert http.can_be_passed_on(f'{{"a": "{text}"}}'.encode())


def test_the_body_reaches_the_app_whole():
    async def app(scope, receive, send):
        message = await receive()
        await answering(message["body"], kind=b"application/json")(scope, receive, send)

    assert through(app, b'{"seeds": "1"}')[1] == '{"seeds": "1"}'
