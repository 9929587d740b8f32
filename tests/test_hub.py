"""Downloads through a Hub on this machine, with everything that can go wrong on the way.

A process of its own downloads, with HF_ENDPOINT and HF_HOME in its environment and the real
`huggingface_hub`; each case has a repository of its own.
"""

import hashlib
import itertools
import json
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.utils import _http, get_session
from safetensors.torch import save

from nada.checkpoint import save_generator
from nada.formats import hub as hub_module
from nada.formats.hub import no_long_waits
from tests.clip_files import theirs
from tests.helpers import make_clip, tiny_generator
from tests.hub_client import HubWorker
from tests.hub_server import (
    COMMIT,
    Repo,
    cut,
    flipped,
    page,
    page_of_the_right_length,
    reset,
    running_hub,
    status,
)

FILE = "generator.safetensors"


@pytest.fixture(scope="module")
def hub():
    with running_hub() as running:
        yield running


@pytest.fixture(scope="module")
def worker(hub, tmp_path_factory):
    with HubWorker(tmp_path_factory.mktemp("home"), hub.url) as running:
        yield running


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / FILE
    save_generator(tiny_generator(), path)
    return path.read_bytes()


numbers = itertools.count()


@pytest.fixture
def repo(hub, worker, contents):
    """A repository of one file; the cache is sound after each test, whatever happened."""
    name = f"someone/repo-{next(numbers)}"
    hub.repos[name] = Repo({FILE: contents})
    hub.repos[name].name, hub.repos[name].source = name, f"{name}:{FILE}"
    yield hub.repos[name]
    assert worker.sound()


def right(answer: dict, contents: bytes) -> bool:
    """Whether the answer is the file itself, under its own checksum."""
    assert "error" not in answer, answer
    data = Path(answer["path"]).read_bytes()
    return data == contents and answer["sha256"] == hashlib.sha256(contents).hexdigest()


def test_a_file_comes_once_and_is_named_by_its_own_checksum(hub, worker, repo, contents):
    answer = worker.call("locate", source=repo.source)
    assert right(answer, contents) and answer["revision"] == COMMIT
    checksum = hashlib.sha256(contents).hexdigest()
    assert answer["text"] == f"{repo.source} at {COMMIT[:12]}, sha256 {checksum}"
    assert answer["reports"][0] == [0, len(contents), repo.source]
    assert answer["reports"][-1] == [len(contents), len(contents), repo.source]
    assert right(worker.call("locate", source=repo.source), contents)
    assert len(hub.requests(repo.name)) == 1
    assert worker.call("load", source=repo.source)["size"] == 16


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub, worker, repo):
    worker.call("locate", source=repo.source)
    asked = hub.requests(repo.name, "HEAD", "resolve")
    assert {headers["authorization"] for headers in asked} == {"Bearer hf_token_of_the_tests"}
    sent = hub.requests(repo.name)
    assert sent and all("authorization" not in headers for headers in sent)


def test_the_one_file_of_a_repository_needs_no_name(worker, repo, contents):
    repo.files |= {"README.md": b"# hello", "config.json": b"{}"}
    assert right(worker.call("locate", source=repo.name), contents)
    assert right(worker.call("locate", source=repo.name, offline=True), contents)
    repo.files["other.pt"] = b"x"
    sentence = worker.sentence("locate", source=repo.name)
    assert f"{FILE}, other.pt: name one of its files, as {repo.name}:{FILE}" in sentence
    repo.files = {"README.md": b"# hello"}
    assert "no file that ends in .safetensors" in worker.sentence("locate", source=repo.name)


def test_a_small_file_is_checked_by_gits_checksum(worker, repo, contents):
    repo.small = True
    assert right(worker.call("locate", source=repo.source), contents)
    repo.files["second.pt"] = b"x" * 200
    repo.faults = {"data": [flipped, ...]}
    assert "arrives damaged" in worker.sentence("locate", source=f"{repo.name}:second.pt")


def test_revisions_and_checksums_can_be_stated(worker, repo, contents):
    checksum = hashlib.sha256(contents).hexdigest()
    for source in (f"{repo.source}@main", f"{repo.source}@{COMMIT}#{checksum}"):
        assert right(worker.call("locate", source=source), contents)
    assert right(worker.call("locate", source=repo.source, revision="main"), contents)
    assert "no revision 'v9'" in worker.sentence("locate", source=f"{repo.source}@v9")
    wrong = worker.sentence("locate", source=f"{repo.source}#{'0' * 64}")
    assert f"its sha256 is {checksum}, and {'0' * 64} was expected" in wrong
    assert "not 64 hex digits" in worker.sentence("locate", source=repo.source, sha256="abc")


GATED, GONE = {"X_Error_Code": "GatedRepo"}, {"X_Error_Code": "RepoNotFound"}
BAD_TOKEN = {"X_Error_Message": "Invalid credentials in Authorization header"}
FINAL = {
    "401": ("meta", [status(401, **BAD_TOKEN), ...], r"token \(401\).*set HF_TOKEN"),
    "401 of a private one": ("meta", [status(401, **GONE), ...], "or it is private: check the"),
    "403": ("meta", [status(403), ...], r"refuses .* \(403\): set HF_TOKEN"),
    "403 of a gated one": ("meta", [status(403, **GATED), ...], "is gated: accept its terms"),
    "403 of the data": ("data", [status(403), ...], r"refuses .* \(403\)"),
    "404": ("meta", [status(404, **GONE), ...], "There is no 'someone/repo-"),
    "404 of the data": ("data", [status(404), ...], "There is no"),
    "416 for ever": ("data", [status(416), ...], "cannot go on .*: try again"),
    "429 for an hour": ("meta", [status(429, Retry_After="3600"), ...], "again in 3600 seconds"),
    "429 for ever": ("meta", [status(429, Retry_After="2"), ...], r"\(429\): try .* in 2 seconds"),
    "500 for ever": ("meta", [status(500), ...], r"trouble of its own \(500\).*or use 'demo'"),
    "503 of the data": ("data", [status(503), ...], r"trouble of its own \(503\)"),
    "cut for ever": ("data", [cut, ...], "does not answer or cuts off: check the connection"),
    "reset for ever": ("data", [reset, ...], "does not answer or cuts off: check the connection"),
    "checksum": ("data", [flipped, ...], "arrives damaged: its checksum is .* the Hub states"),
    "web page": ("data", [page, ...], "another length than announced: try again"),
    "web page of that length": ("data", [page_of_the_right_length, ...], "arrives damaged"),
    "web page for the Hub": ("meta", [page, ...], "does not answer as the Hub does"),
    "web page for the list": ("list", [page, ...], "does not answer as the Hub does"),
}


@pytest.mark.parametrize("case", FINAL)
def test_what_cannot_be_had_ends_in_one_sentence(worker, repo, case):
    kind, faults, expected = FINAL[case]
    repo.faults = {kind: faults}
    source = repo.name if kind == "list" else repo.source
    sentence = worker.sentence("locate", source=source)
    assert re.search(expected, sentence), sentence
    folder = worker.cache / f"models--{repo.name.replace('/', '--')}"
    assert not [p for p in folder.glob("blobs/*") if p.is_file()]


LONG = {
    "429": status(429, Retry_After="3600"),
    "429 by a limit": status(429, RateLimit='"resolvers";r=0;t=3600'),
    "503": status(503, Retry_After="3600"),
}


def test_other_users_of_the_hubs_library_wait_as_they_always_did(monkeypatch):
    refused = []
    monkeypatch.setattr(hub_module, "hf_raise_for_status", refused.append)
    client, factory = get_session(), _http._GLOBAL_CLIENT_FACTORY
    before = list(client.event_hooks["response"])
    long = SimpleNamespace(is_error=True, status_code=429, headers={"retry-after": "3600"})

    def answer():
        for hook in client.event_hooks["response"]:
            hook(long)

    with no_long_waits(), no_long_waits():
        assert get_session() is client
        other = threading.Thread(target=answer)
        other.start()
        other.join()
        assert not refused
        answer()
        assert refused == [long]
    assert get_session() is client and client.event_hooks["response"] == before
    assert _http._GLOBAL_CLIENT_FACTORY is factory


@pytest.mark.parametrize("kind", ["meta", "data", "list"])
@pytest.mark.parametrize("fault", LONG.values(), ids=LONG.keys())
def test_a_long_wait_is_told_and_not_waited(worker, repo, kind, fault):
    repo.faults = {kind: [fault, ...]}
    answer = worker.call("locate", source=repo.name if kind == "list" else repo.source)
    assert "again in 3600 seconds" in answer["error"]
    assert max(answer["slept"], default=0) <= 60


PASSING = {
    "429 of the Hub": ("meta", [status(429, Retry_After="7")] * 3, 7),
    "429 of the data": ("data", [status(429, Retry_After="7")], 7),
    "500": ("meta", [status(500)] * 4, 1),
    "503": ("meta", [status(503)] * 3, 1),
    "cut": ("data", [cut], 1),
    "cut three times": ("data", [cut] * 3, 1),
    "reset": ("data", [reset], 0),
    "cut, then 416": ("data", [cut, status(416)], 1),
    "checksum": ("data", [flipped], 0),
}


@pytest.mark.parametrize("case", PASSING)
def test_what_passes_ends_in_the_right_file(worker, repo, contents, case):
    kind, faults, wait = PASSING[case]
    repo.faults = {kind: list(faults)}
    answer = worker.call("locate", source=repo.source)
    assert right(answer, contents)
    assert not repo.faults[kind], "every fault was met"
    assert max(answer["slept"], default=0) >= wait


def test_a_file_takes_one_look_at_its_metadata(hub, worker, repo):
    worker.call("locate", source=repo.source)
    assert len(hub.requests(repo.name, "HEAD", "resolve")) == 1


def test_a_download_goes_on_where_it_was_cut_off(hub, worker, repo, contents):
    repo.faults = {"data": [cut]}
    answer = worker.call("locate", source=repo.source)
    first, second = hub.requests(repo.name)
    start = int(re.fullmatch(r"bytes=(\d+)-", second["range"])[1])
    assert "range" not in first and 0.3 * len(contents) < start <= len(contents) / 2
    done = [report[0] for report in answer["reports"]]
    assert done == sorted(done) and done[-1] == len(contents)


def test_a_damaged_cache_is_found_and_healed(worker, repo, contents):
    path = Path(worker.call("locate", source=repo.source)["path"]).resolve()
    path.write_bytes(contents[:-1] + b"?")
    assert right(worker.call("locate", source=repo.source), contents)
    path.resolve().write_bytes(contents[: len(contents) // 2])
    assert right(worker.call("locate", source=repo.source), contents)


def test_a_web_page_that_lies_on_the_hub_gets_a_sentence(worker, repo):
    repo.files["g.pt"] = b"<!DOCTYPE html>" * 20
    assert "g.pt is a web page" in worker.sentence("load", source=f"{repo.name}:g.pt")


def test_offline_with_and_without_a_cache(hub, worker, repo, contents):
    sentence = worker.sentence("locate", source=repo.source, offline=True)
    assert "not in the cache, and offline mode is on: unset HF_HUB_OFFLINE" in sentence
    sentence = worker.sentence("locate", source=repo.name, offline=True)
    assert "offline mode is on" in sentence
    worker.call("locate", source=repo.source)
    before = len(hub.seen)
    assert right(worker.call("locate", source=repo.source, offline=True), contents)
    assert len(hub.seen) == before


def test_the_cache_serves_when_the_hub_is_in_trouble(worker, repo, contents):
    worker.call("locate", source=repo.source)
    repo.faults = {"meta": [status(503), ...]}
    assert right(worker.call("locate", source=repo.source), contents)
    repo.faults = {"meta": [status(429, Retry_After="3600"), ...]}
    answer = worker.call("locate", source=repo.source)
    assert right(answer, contents) and sum(answer["slept"]) == 0


def test_a_full_disk_leaves_nothing_behind(worker, repo, contents):
    sentence = worker.sentence("locate", source=repo.source, largest_file=10_000)
    assert "The disk is full" in sentence and "set HF_HOME" in sentence
    assert not list((worker.cache / f"models--{repo.name.replace('/', '--')}").glob("blobs/*"))
    assert right(worker.call("locate", source=repo.source), contents)


def test_a_cache_that_cannot_be_written_gets_a_sentence(worker, repo, contents):
    folder = worker.cache / f"models--{repo.name.replace('/', '--')}"
    folder.write_text("a file in the way")
    sentence = worker.sentence("locate", source=repo.source)
    assert "could not be put into" in sentence
    folder.unlink()
    assert right(worker.call("locate", source=repo.source), contents)


def test_a_download_can_be_cancelled_and_begun_again(worker, repo, contents):
    answer = worker.call("locate", source=repo.source, cancel=True)
    assert answer["kind"] == "Cancelled"
    assert not list((worker.cache / f"models--{repo.name.replace('/', '--')}").glob("blobs/*"))
    assert right(worker.call("locate", source=repo.source), contents)


@pytest.mark.parametrize("source", ["a/b/c:d.pt", "one", "-/x.pt", "a/b@", "x/none.pt", "../up/x"])
def test_what_is_no_name_on_the_hub_gets_a_sentence(worker, source):
    assert "There is no" in worker.sentence("locate", source=source)


@pytest.mark.parametrize(
    "source",
    ["a/b:../../x.pt", "a/b:/etc/x.pt", "a/b:x/../y.pt", "a/b:x//y.pt", "a/b:./x.pt", "a/b:..",
     "a/b:x\\..\\y.pt", "a/b:C:x.pt", "a/b:x/", "a/b:x.pt@../../y"],
)  # fmt: skip
def test_what_leads_out_of_a_repository_gets_our_sentence(hub, worker, source):
    before = len(hub.seen)
    assert "relative and without '..'." in worker.sentence("locate", source=source)
    assert len(hub.seen) == before


@pytest.mark.parametrize("source", ["x" * 400, "a/" + "b" * 400, "x/" * 3000, "a/b:" + "c" * 400])
def test_a_long_name_gets_a_sentence(worker, source):
    answer = worker.call("load", source=source)
    assert answer["kind"] == "CheckpointError" and len(answer["error"]) < 300
    assert "There is no generator file" in answer["error"]


# The named generators


def ffhq(hub) -> tuple[str, str]:
    return "akhaliq/OneshotCLIP-stylegan2-ffhq", "akhaliq/jojogan-stylegan2-ffhq-config-f"


@pytest.fixture
def places(hub, worker, tmp_path):
    """Both places of FFHQ, with a tiny generator each; nothing of them in the cache."""
    for i, name in enumerate(ffhq(hub)):
        generator = tiny_generator()
        generator.to_rgb1.bias.data += i
        torch.save({"g_ema": generator.state_dict()}, tmp_path / "g.pt")
        data = (tmp_path / "g.pt").read_bytes()
        hub.repos[name] = Repo({"stylegan2-ffhq-config-f.pt": data})
        shutil.rmtree(worker.cache / f"models--{name.replace('/', '--')}", ignore_errors=True)
    yield [hub.repos[name] for name in ffhq(hub)]
    for name in ffhq(hub):
        del hub.repos[name]
    assert worker.sound()


def test_ffhq_comes_from_its_first_place(hub, worker, places):
    assert ffhq(hub)[0] in worker.call("locate", source="ffhq")["name"]
    assert worker.call("load", source="ffhq")["size"] == 16
    assert "no revision 'v9'" in worker.sentence("locate", source="ffhq@v9")


@pytest.mark.parametrize("fault", [status(404, **GONE), status(403, **GATED)], ids=["404", "gated"])
def test_ffhq_comes_from_its_second_place_where_the_first_has_gone(hub, worker, places, fault):
    places[0].faults = {"meta": [fault, ...]}
    assert ffhq(hub)[1] in worker.call("locate", source="ffhq")["name"]


def test_ffhq_comes_from_the_second_places_cache_when_nothing_answers(hub, worker, places):
    places[0].faults = {"meta": [status(404, **GONE), ...]}
    worker.call("locate", source="ffhq")
    answer = worker.call("locate", source="ffhq", offline=True)
    assert ffhq(hub)[1] in answer["name"]


def test_ffhq_that_no_place_has_gets_a_sentence_with_both(hub, worker, places):
    for place in places:
        place.faults = {"meta": [status(404, **GONE), ...]}
    answer = worker.call("locate", source="ffhq")
    assert all(name in answer["error"] for name in ffhq(hub))
    sentence = worker.sentence("locate", source="ffhq", offline=True)
    assert "offline mode is on" in sentence


def test_the_generator_to_start_with(worker, places):
    choice = worker.call("choose", wanted="auto", gpu="")
    assert choice["source"] == "demo" and "no GPU here" in choice["reason"]
    assert choice["servable"] == ["demo"]
    choice = worker.call("choose", wanted="auto", gpu="a GPU (cuda)")
    assert choice["source"] == "ffhq" and "there is a GPU (cuda)" in choice["reason"]
    assert choice["servable"] == ["demo", "ffhq"]
    choice = worker.call("choose", wanted="auto", gpu="a GPU (cuda)", offline=True)
    assert choice["source"] == "demo" and "is not in the cache" in choice["reason"]
    worker.call("locate", source="ffhq")
    choice = worker.call("choose", wanted="auto", gpu="a GPU (cuda)", offline=True)
    assert choice["source"] == "ffhq"
    for place in places:
        place.faults = {"meta": [status(500), ...]}
    assert worker.call("answers", source="ffhq")["answers"] == [True, False]
    choice = worker.call("choose", wanted="some.pt", gpu="")
    assert (choice["source"], choice["reason"]) == ("some.pt", "")


# CLIP


@pytest.fixture(scope="module")
def clip_bytes(tmp_path_factory):
    clip = make_clip("tiny", 16, 32, 1, 64, 8, 77, 49408, 64, 1, 1)
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save({key: value.half() for key, value in clip.model.state_dict().items()}, path)
    return path.read_bytes()


@pytest.fixture
def clip_file(hub, worker, clip_bytes):
    """A CLIP at an address like OpenAI's, new for each test."""
    data = clip_bytes + b"\0" * next(numbers)  # what follows a zip archive is not of it
    checksum, name = hashlib.sha256(data).hexdigest(), f"open/{next(numbers)}"
    hub.repos[name] = Repo({f"{checksum}/ViT-T.pt": data})
    worker.call("clip_models", urls={"ViT-T": f"{hub.url}/data/{name}/{checksum}/ViT-T.pt"})
    hub.repos[name].name = name
    return hub.repos[name]


def test_clip_is_downloaded_once_into_the_hubs_folder(hub, worker, clip_file):
    answer = worker.call("load_clip", name="ViT-T")
    assert (answer["resolution"], answer["name"]) == (32, "ViT-T")
    size = len(next(iter(clip_file.files.values())))
    assert answer["reports"][-1] == [size, size, "CLIP model ViT-T"]
    worker.call("load_clip", name="ViT-T", offline=True)
    assert len(hub.requests(clip_file.name)) == 1
    assert "authorization" not in hub.requests(clip_file.name)[0]
    assert list((worker.cache.parent / "assets").rglob("*ViT-T.pt"))


@pytest.mark.parametrize(
    "faults",
    [[cut], [reset], [cut, status(416)], [flipped], [status(429, Retry_After="5")]],
    ids=["cut", "reset", "416", "flipped", "429"],
)
def test_clip_is_whole_after_what_passes(worker, clip_file, faults):
    clip_file.faults = {"data": list(faults)}
    assert worker.call("load_clip", name="ViT-T")["resolution"] == 32
    assert not clip_file.faults["data"]


@pytest.mark.parametrize("fault", LONG.values(), ids=LONG.keys())
def test_clip_that_is_long_to_wait_for_is_not_waited_for(worker, clip_file, fault):
    clip_file.faults = {"data": [fault, ...]}
    answer = worker.call("load_clip", name="ViT-T")
    assert "try again in 3600 seconds, or use the bundled" in answer["error"]
    assert max(answer["slept"], default=0) <= 60
    clip_file.faults = {}
    assert worker.call("load_clip", name="ViT-T")["resolution"] == 32


def test_clip_goes_on_from_what_an_earlier_process_left(hub, worker, clip_file):
    clip_file.faults = {"data": [cut, status(503)]}
    assert "status 503" in worker.sentence("load_clip", name="ViT-T")
    assets = worker.cache.parent / "assets"
    (partial,) = assets.rglob("*.incomplete")
    there = partial.stat().st_size
    assert there > 1000
    assert worker.call("load_clip", name="ViT-T")["resolution"] == 32
    assert hub.requests(clip_file.name)[-1]["range"] == f"bytes={there}-"
    assert not list(assets.rglob("*.incomplete"))


@pytest.mark.parametrize(
    "fault, complaint",
    [
        (status(404), r"status 404\): try again later, or use the bundled"),
        (status(503), r"status 503"),
        (page, "another checksum"),
        (flipped, "arrives damaged"),
    ],
    ids=["404", "503", "page", "flipped"],
)
def test_clip_that_cannot_be_had_ends_in_one_sentence(worker, clip_file, fault, complaint):
    clip_file.faults = {"data": [fault, ...]}
    sentence = worker.sentence("load_clip", name="ViT-T")
    assert re.search(complaint, sentence), sentence
    assert "offline mode is on" in worker.sentence("load_clip", name="ViT-T", offline=True)
    clip_file.faults = {}
    assert worker.call("load_clip", name="ViT-T")["resolution"] == 32


def test_clip_on_a_full_disk(worker, clip_file):
    sentence = worker.sentence("load_clip", name="ViT-T", largest_file=100_000)
    assert "The disk is full" in sentence
    assert worker.call("load_clip", name="ViT-T")["resolution"] == 32


# A Hub that has gone


@pytest.fixture
def gone(contents, clip_bytes, tmp_path):
    """A process whose Hub answered once, for the file of someone/repo, and has stopped."""
    checksum = hashlib.sha256(clip_bytes).hexdigest()
    with running_hub() as hub, HubWorker(tmp_path, hub.url) as worker:
        hub.repos["someone/repo"] = Repo({FILE: contents})
        worker.call("locate", source=f"someone/repo:{FILE}")
        worker.call("clip_models", urls={"ViT-T": f"{hub.url}/data/o/c/{checksum}/ViT-T.pt"})
        hub.stop()
        yield worker


def test_when_nothing_answers_the_cache_serves(gone, contents):
    assert right(gone.call("locate", source=f"someone/repo:{FILE}"), contents)
    assert right(gone.call("locate", source="someone/repo"), contents)


def test_when_nothing_answers_what_is_not_in_the_cache_gets_a_sentence(gone):
    sentence = gone.sentence("locate", source="a/c:x.pt")
    assert "does not answer or cuts off: check the connection" in sentence
    assert "does not answer" in gone.sentence("locate", source="a/c")
    assert "check the connection" in gone.sentence("load_clip", name="ViT-T")


def clip_repository(clip_bytes: bytes) -> dict[str, bytes]:
    """A repository as open_clip's people keep them, with OpenAI's architecture in it."""
    sizes = {"vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 8},
             "text_cfg": {"context_length": 77, "width": 64, "heads": 1, "layers": 1}}  # fmt: skip
    model = {"embed_dim": 16, "quick_gelu": True, **sizes}
    return {
        "open_clip_config.json": json.dumps({"model_cfg": model}).encode(),
        "open_clip_pytorch_model.bin": clip_bytes,
    }


def test_a_clip_of_a_repository(hub, worker, clip_bytes):
    name = f"laion/clip-{next(numbers)}"
    hub.repos[name] = Repo(clip_repository(clip_bytes))
    source = f"hf-hub:{name}"
    sentence = worker.sentence("load_clip", name=source, offline=True)
    assert sentence.startswith(f"{name}:open_clip_config.json is not in the cache, and offline")
    answer = worker.call("load_clip", name=source)
    assert (answer["resolution"], answer["name"]) == (32, source)
    assert answer["reports"][-1] == [len(clip_bytes)] * 2 + [f"{name}:open_clip_pytorch_model.bin"]
    assert worker.call("load_clip", name=source, offline=True)["resolution"] == 32
    assert len(hub.requests(name)) == 2  # configuration and weights, once each
    assert worker.sound()


def test_a_repository_of_transformers_without_what_may_be_left_out(hub, worker):
    name = f"openai/clip-{next(numbers)}"
    heads = {"text_config": {"num_attention_heads": 1}, "vision_config": {"num_attention_heads": 2}}
    files = {"config.json": json.dumps(heads).encode(), "model.safetensors": save(theirs())}
    hub.repos[name] = Repo(files)
    for offline in (False, True):
        answer = worker.call("load_clip", name=f"hf-hub:{name}", offline=offline)
        assert answer["resolution"] == 32


def test_a_repository_without_a_clip(worker, repo):
    sentence = worker.sentence("load_clip", name=f"hf-hub:{repo.name}")
    assert "has neither open_clip_config.json nor config.json" in sentence
    sentence = worker.sentence("load_clip", name="hf-hub:no/body")
    assert "There is no 'no/body' on the Hub" in sentence
    repo.files = {"open_clip_config.json": b"{}"}
    assert "has no weights called open_clip_model" in worker.sentence(
        "load_clip", name=f"hf-hub:{repo.name}"
    )
