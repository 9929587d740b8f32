"""A process that downloads as a user's does: HF_ENDPOINT and HF_HOME come from its environment.

Reads calls as lines of JSON and answers each with a line. Waiting is shortened and written down, so
that a server's "Retry-After: 7" takes no seven seconds here.
"""

import copy
import json
import re
import resource
import sys
import time
import traceback

from huggingface_hub import constants

from nada import clip
from nada.adapt import AdaptConfig, adapt
from nada.checkpoint import CheckpointError, load_generator
from nada.delta import diff
from nada.formats import catalogue
from nada.guidance import DirectionalLoss, text_direction
from nada.sample import sample
from tests.helpers import make_clip

slept: list[float] = []
really_sleep = time.sleep


def sleep(seconds: float) -> None:
    slept.append(seconds)
    really_sleep(min(seconds, 0.01))


time.sleep = sleep
PIECE = 1000  # of 10 MB otherwise, and only whole pieces are there when a download goes on


class Cancelled(Exception):
    """What a front end raises to end a download."""


def locate(source: str, cancel: bool = False, **options) -> dict:
    reports = []

    def progress(done, total, text):
        reports.append((done, total, text))
        if cancel and done:
            raise Cancelled

    place = catalogue.locate(source, progress=progress, **options)
    return {
        "name": place.name,
        "path": str(place.path),
        "sha256": place.sha256,
        "revision": place.revision,
        "text": str(place),
        "reports": reports,
    }


def load(source: str) -> dict:
    return {"size": load_generator(source).size}


def load_clip(name: str) -> dict:
    reports = []
    model = clip.load_clip(name, progress=lambda *report: reports.append(report))
    return {"resolution": model.resolution, "name": model.name, "reports": reports}


def clip_models(urls: dict) -> dict:
    clip.openai_clip().clip._MODELS.update(urls)
    return {}


def answers(source: str) -> dict:
    places = catalogue.CATALOGUE[source].places
    return {"answers": [catalogue.answers(place) for place in places]}


def choose(wanted: str, gpu: str) -> dict:
    choice = catalogue.choose(wanted, gpu)
    names = [named.name for named in catalogue.servable(gpu)]
    return {"source": choice.source, "reason": choice.reason, "servable": names}


def whole_way(source: str) -> dict:
    """Download, load, sample, adapt the last layer for two steps."""
    place = catalogue.locate(source)
    frozen = load_generator(place)
    picture = sample(frozen, [1])
    trainable = copy.deepcopy(frozen)
    model = make_clip("tiny", 16, 16, 1, 64, 8, 24, 49408, 64, 1, 1)
    loss = DirectionalLoss(model, text_direction(model, "photo", "pencil sketch"))
    config = AdaptConfig(steps=2, batch=1, preview_every=0)
    steps = list(adapt(frozen, trainable, loss, config, lambda *_, **__: ["convs.15"]))
    names = diff(frozen, trainable).tensors
    changed = {re.match(r"[a-z]+\d?(\.\d+)?", name)[0] for name in names}
    return {
        "sha256": place.sha256,
        "shape": list(picture.shape),
        "spread": picture.std().item(),
        "steps": len(steps),
        "changed": sorted(changed),
    }


CALLS = {f.__name__: f for f in (locate, load, load_clip, clip_models, answers, choose, whole_way)}


def main() -> None:
    for line in sys.stdin:
        call = json.loads(line)
        constants.HF_HUB_OFFLINE = call.pop("offline", False)
        constants.DOWNLOAD_CHUNK_SIZE = call.pop("piece", PIECE)
        largest = call.pop("largest_file", resource.RLIM_INFINITY)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        slept.clear()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
            answer = CALLS[call.pop("call")](**call)
        except (CheckpointError, ValueError) as error:
            answer = {"error": str(error), "kind": type(error).__name__}
        except BaseException as error:
            answer = {"crash": traceback.format_exc(), "kind": type(error).__name__}
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, hard))
        print(json.dumps({**answer, "slept": slept}), flush=True)


if __name__ == "__main__":
    main()
