"""The app's endpoints as scripts call them: with gradio's client, and without."""

import json
import urllib.request

import numpy as np
from gradio_client import Client
from PIL import Image

from tests.helpers import wait_for

QUICK = {"source": "photo", "target": "pencil sketch", "steps": 4, "k": 2, "batch": 2}
LONG = {**QUICK, "steps": 2000, "batch": 16, "k": 0}


def connect(server) -> Client:
    return Client(server.url, verbose=False, httpx_kwargs={"timeout": 60})


def adapt(client, **settings):
    """A quick run to its end: pairs, status, domain file."""
    return client.predict(**{**QUICK, **settings}, api_name="/adapt")


def started(job):
    """Wait until a job has done a step; the status then."""

    def running():
        assert not job.done(), job.result()
        return next((o[1] for o in reversed(job.outputs()) if o[1]["step"]), None)

    return wait_for(running)


def same(one: Image.Image, other: Image.Image) -> bool:
    """Whether two pictures differ by rounding at most."""
    difference = np.asarray(one.convert("RGB"), float) - np.asarray(other, float)
    return np.abs(difference).max() <= 2


def call(server, name, arguments) -> str:
    """The raw answer of an endpoint, without a client that would check arguments first."""
    body = json.dumps(arguments).encode()
    address = f"{server.url}/gradio_api/call/v2/{name}"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    return answered(server, name, request)


def answered(server, name, request) -> str:
    with urllib.request.urlopen(request, timeout=60) as reply:
        event = json.load(reply)["event_id"]
    address = f"{server.url}/gradio_api/call/{name}/{event}"
    with urllib.request.urlopen(address, timeout=60) as reply:
        return reply.read().decode()


def told_info(server) -> dict:
    """What `/info` says."""
    answer = call(server, "info", {})
    return json.loads(answer.strip().splitlines()[-1].removeprefix("data: "))[0]
