"""The app through its API, as scripts and strangers call it."""

import concurrent.futures
import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from gradio_client import handle_file
from PIL import Image

import app
from nada.checkpoint import load_generator
from nada.delta import Delta, Strength, blend, carry_over, diff
from nada.layers import SELECTORS
from nada.sample import sample
from nada.serve.api import Api
from nada.serve.images import page_grid
from nada.serve.line import MAX_WAITING
from tests.api import LONG, QUICK, adapt, answered, call, connect, same, started, told_info
from tests.helpers import adapted, equal, quick_first, styled, trained_on, wait_for
from tests.served import serve


def test_the_names_that_scripts_rely_on(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    names = {
        name: (
            [parameter["parameter_name"] for parameter in told["parameters"]],
            [value["label"] for value in told["returns"]],
        )
        for name, told in endpoints.items()
    }
    job = (
        "source target steps k select_every seed batch lr directional global_ in_domain truncation "
        "method to_rgb parameters style_lr cap point reach picture_weight token "
        "domain_file carry_over pictures".split(),
        ["Pairs", "Status", "Domain file"],
    )
    assert names == {
        "/adapt": job,
        "/adapt_once": job,
        "/sample": (["seeds", "truncation", "domain_file", "strength", "carry_over"], ["Samples"]),
        "/blend": (
            ["domain_files", "weights", "seeds", "truncation", "carry_over"],
            ["Samples", "Domain file"],
        ),
        "/domain": (["domain_file"], ["Domain"]),
        "/info": ([], ["Info"]),
        "/forget": ([], ["Forgotten"]),
    }
    needed = [
        p["parameter_name"]
        for told in endpoints.values()
        for p in told["parameters"]
        if not p["parameter_has_default"]
    ]
    assert needed == []


def test_every_parameter_and_return_is_documented(client):
    for name, told in client.view_api(return_format="dict")["named_endpoints"].items():
        text = getattr(Api, name.strip("/")).__doc__
        assert told["description"] and told["description"] in text
        for parameter in told["parameters"]:
            assert f"\n            {parameter['parameter_name']}: " in text
        for value in told["returns"]:
            assert f"\n            {value['label'].lower().replace(' ', '_')}: " in text


def test_a_run_streams_and_ends_with_a_domain_file(client):
    job = client.submit(**{**QUICK, "steps": 100, "batch": 8}, api_name="/adapt")
    picture, status, file = job.result(120)
    told = [output[1] for output in job.outputs()]
    steps = [one["step"] for one in told]
    assert steps == sorted(steps) and len(set(steps)) > 2 and told[0]["state"] == "starting"
    states = [one["state"] for one in told]
    assert states == sorted(states, key=["starting", "running", "finished"].index)
    assert states.count("finished") == 1 and told[-1] == status  # the end, told once
    assert all(one["eta"] >= 0 for one in told if one["state"] == "running" and one["step"])
    assert set(status) == set(told[0])
    assert status["state"] == "finished" and status["step"] == status["steps"] == 100
    assert len(status["layers"]) == 2 and set(status["terms"]) == {"directional"}
    assert Image.open(picture).size == (896, 448)  # 4 seeds of 16 pixels, 14 times as large, twice
    delta = Delta.load(file)
    assert delta.metadata["target"] == "pencil sketch" and delta.metadata["steps_done"] == 100


def test_one_seed_one_result_and_another_another(client):
    first, again, other = (Delta.load(adapt(client, seed=seed, k=0)[2]) for seed in (3, 3, 4))
    assert equal(first.tensors, again.tensors)
    assert any(not torch.equal(first.tensors[key], other.tensors[key]) for key in other.tensors)


def test_the_presets_own_k_fits_itself_to_a_small_generator(client):
    _, status, _ = client.predict("photo", "zombie", steps=2, api_name="/adapt")
    assert len(status["layers"]) == 5  # all there are, of the preset's 10


def test_settings_reach_the_run(client):
    settings = {
        "method": "w_shift",
        "to_rgb": True,
        "k": 5,
        "global_": 2.0,
        "in_domain": 0.5,
        "select_every": 2,
        "lr": 0.01,
        "truncation": 0.5,
    }
    _, status, file = adapt(client, **settings)
    told = Delta.load(file).metadata
    assert set(status["terms"]) == {"directional", "global", "in_domain"}
    assert told["method"] == "w_shift" and told["k"] == 5
    assert len(status["layers"]) == 5 + 3  # beside them the RGB outputs
    assert (told["guidance"]["global_"], told["guidance"]["in_domain"]) == (2.0, 0.5)
    config = told["config"]
    assert (config["lr"], config["truncation_psi"], config["select_every"]) == (0.01, 0.5, 2)
    assert config["train_to_rgb"] is True


def test_a_run_of_styles_gives_a_domain_of_kilobytes(client, server):
    _, _, file = adapt(client, parameters="styles", style_lr=0.1, to_rgb=True)
    delta = Delta.load(file)
    assert all(key.endswith("conv.modulation.bias") for key in delta.tensors)
    config = delta.metadata["config"]
    assert config["style_lr"] == 0.1 and config["parameters"] == "styles"
    assert Path(file).stat().st_size < 20 * 1024


def test_samples_are_the_librarys(client, server, tmp_path):
    file = adapt(client)[2]
    told = client.predict(api_name="/info")
    base = load_generator(server.log.parent / told["generator"])
    half = blend(base, [(Delta.load(file), 0.5)])
    by_resolution = {"coarse": -0.5, "middle": 1.5, "fine": 0}
    swapped = blend(base, [(Delta.load(file), Strength(**by_resolution))])
    for domain, strength, generator in (
        (None, 1, base),
        (handle_file(file), by_resolution, swapped),
        (handle_file(file), 0.5, half),
    ):
        picture = client.predict(
            seeds="3, 7-9",
            domain_file=domain,
            strength=strength,
            truncation=0.6,
            api_name="/sample",
        )
        expected = page_grid(sample(generator, [3, 7, 8, 9], 0.6), 4)
        assert same(Image.open(picture), expected)
    assert not same(Image.open(picture), page_grid(sample(base, [3, 7, 8, 9], 0.6), 4))


def test_info_tells_what_runs(client):
    told = client.predict(api_name="/info")
    assert told["size"] == 16 and told["device"] == "cpu" and told["methods"] == list(SELECTORS)
    assert told["generator"] == "generator.safetensors" and told["clip"] == ["clip.safetensors"]
    assert len(told["fingerprint"]) == 64 and told["layers"][0] == "conv1"


LETTERS = "abcdefghijklmnopqrstuvwxyz"
BAD = {
    "blank target": ({"target": " \n\t"}, "target: The prompt is empty"),
    "10,000 characters": ({"target": "zombie " * 1429}, "target: The prompt has 10003 characters"),
    "10,000 letters": ({"target": "z" * 10_000}, "target: The prompt has 10000 characters"),
    "too many tokens": ({"target": "zombie painting " * 30}, "tokens .*shorten it"),
    "not text": ({"target": 7}, "target: A prompt must be text"),
    "no prompt": ({"source": None}, "source: A prompt must be text"),
    "identical": ({"target": " Photo "}, "target: Source and target are the same"),
    "never seen": ({"target": "gorblax"}, "never shown “gorblax”"),
    "only an article known": ({"target": "a gorblax"}, "never shown “gorblax”"),
    "markup": ({"target": "<img src=x onerror=alert(1)>"}, "never shown “img”"),
    "emoji": ({"target": "🙂"}, "never shown “🙂”"),
    "points": ({"target": "?!"}, "never shown"),
    "k of 99": ({"k": 99}, "k: Layers k is “99”; choose from 0 to 26"),
    "k above this generator's": ({"k": 6}, "k: This generator has 5 layers"),
    "steps of -1": ({"steps": -1}, "steps: Steps is “-1”; choose from 1 to 2000"),
    "no steps": ({"steps": 0}, "steps: Steps is “0”"),
    "half a step": ({"steps": 1.5}, "steps: Steps is “1.5”; a whole number"),
    "steps as text": ({"steps": "ten"}, "steps: Steps is “ten”; a whole number"),
    "a list": ({"steps": [4]}, "steps: Steps is “.4.”; a whole number"),
    "no number": ({"batch": None}, "batch: Batch is “None”"),
    "true for a number": ({"batch": True}, "batch: Batch is “True”"),
    "seed as text": ({"seed": "seven"}, "seed: Seed is “seven”"),
    "negative seed": ({"seed": -5}, "seed: Seed is “-5”"),
    "huge rate": ({"lr": 1e30}, "lr: Learning rate is “1e.30”"),
    "a huge number": ({"steps": 10**400}, "steps: Steps is “10000"),
    "unknown method": (
        {"method": "guess"},
        "method: Selection method is “guess”; use one of gradient,",
    ),
    "method of another type": ({"method": {"a": 1}}, "method: Selection method is"),
    "to_rgb as text": ({"to_rgb": "yes"}, "to_rgb: RGB layers is “yes”"),
    "nothing guides": ({"directional": 0, "global_": 0}, "directional: Nothing guides"),
    "a point that this CLIP cannot place": (
        {"directional": 0, "global_": 0, "point": 1},
        "directional: Nothing guides",
    ),
    "in-domain alone in a batch": ({"in_domain": 1, "batch": 1}, "batch: The in-domain loss"),
}


@pytest.mark.parametrize("change, sentence", BAD.values(), ids=BAD)
def test_a_bad_request_gets_a_sentence(client, change, sentence):
    with pytest.raises(Exception, match=sentence) as caught:
        adapt(client, **change)
    assert len(str(caught.value)) < 300 and "Traceback" not in str(caught.value)


BAD_SAMPLES = {
    "no seed": ({"seeds": ""}, "seeds"),
    "a word": ({"seeds": "seven"}, "seeds contain 'seven'"),
    "backwards": ({"seeds": "9-3"}, "backwards"),
    "too many": ({"seeds": "1-100000"}, "more than 36"),
    "nothing": ({"seeds": None}, "seeds"),
    "strength": ({"strength": 3}, "Strength is “3”; choose from -0.5 to 1.5"),
    "strength as text": ({"strength": "full"}, "Strength is “full”"),
    "strength of two": (
        {"strength": {"coarse": 1, "fine": 1}},
        "one each for coarse, middle, fine",
    ),
    "strength too fine": (
        {"strength": {"coarse": 1, "middle": 1, "fine": 9}},
        r"Strength \(fine\) is “9”; choose from -0.5 to 1.5",
    ),
    "truncation": ({"truncation": -1}, "Truncation of samples is “-1”"),
}


@pytest.mark.parametrize("change, sentence", BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_a_bad_sample_gets_a_sentence(client, change, sentence):
    with pytest.raises(Exception, match=sentence):
        client.predict(**{"seeds": "1", **change}, api_name="/sample")


def broken_files(file, folder):
    """Domain files that are none, by name."""
    whole = open(file, "rb").read()
    contents = {
        "cut": whole[:-100],
        "html": b"<html>404</html>",
        "empty": b"",
        "edited": whole[:-1] + bytes([whole[-1] ^ 1]),
    }
    for name, content in contents.items():
        path = folder / f"{name}.safetensors"
        path.write_bytes(content)
        yield name, path


def test_a_broken_domain_file_gets_a_sentence(client, tmp_path):
    good = adapt(client)[2]
    refused = []
    for name, path in broken_files(good, tmp_path):
        with pytest.raises(Exception, match=r"domain file|checksum|cut off") as caught:
            client.predict(seeds="1", domain_file=handle_file(path), api_name="/sample")
        assert "Traceback" not in str(caught.value) and str(tmp_path) not in str(caught.value)
        refused.append(name)
    assert refused == ["cut", "html", "empty", "edited"]
    assert client.predict(seeds="1", domain_file=handle_file(good), api_name="/sample")


def test_a_run_goes_on_from_a_domain_file(client):
    first = adapt(client, target="zombie", seed=1)[2]
    file = adapt(client, domain_file=handle_file(first))[2]
    told = client.predict(domain_file=handle_file(file), api_name="/domain")
    assert (told["target"], told["started_from"]) == ("pencil sketch", "zombie")


def test_the_answer_at_once_is_the_end_of_the_stream(client):
    file = client.predict(**QUICK, api_name="/adapt_once")[2]
    one, other = Delta.load(file), Delta.load(adapt(client)[2])
    assert equal(one.tensors, other.tensors)


def test_a_domain_is_described(client):
    file = adapt(client, seed=11)[2]
    told = client.predict(domain_file=handle_file(file), api_name="/domain")
    assert told["fits"] and told["base"] == client.predict(api_name="/info")["fingerprint"]
    assert (told["source"], told["target"], told["seed"]) == ("photo", "pencil sketch", 11)
    assert told["steps_done"] == 4 and len(told["layers"]) == told["changed_layers"] == 2
    assert told["kind"] == "weights" and told["bytes"] == Path(file).stat().st_size
    assert all(isinstance(told[name], float) for name in ("loss", "quality", "diversity"))
    Delta("0" * 64, {}, {}).save(strange := Path(file).with_name("strange.safetensors"))
    assert not client.predict(domain_file=handle_file(strange), api_name="/domain")["fits"]
    for arguments, name in (
        ({"seeds": "1", "domain_file": handle_file(strange)}, "/sample"),
        ({"domain_files": [handle_file(strange)]}, "/blend"),
        ({**QUICK, "domain_file": handle_file(strange)}, "/adapt"),
    ):
        with pytest.raises(Exception, match="made from another generator"):
            client.predict(**arguments, api_name=name)


def test_blends_are_the_librarys(client, server):
    files = [adapt(client, target=target)[2] for target in ("zombie", "pencil sketch")]
    base = load_generator(server.log.parent / "generator.safetensors")
    given = {"domain_files": [handle_file(file) for file in files], "weights": "0.75 -0.5"}
    picture, mixed = client.predict(**given, seeds="1-4", truncation=0.6, api_name="/blend")
    expected = blend(base, list(zip(map(Delta.load, files), (0.75, -0.5))))
    assert same(Image.open(picture), page_grid(sample(expected, [1, 2, 3, 4], 0.6), 4))
    again = sample(blend(base, [(Delta.load(mixed), 1.0)]), [1], 0.6)
    torch.testing.assert_close(again, sample(expected, [1], 0.6), rtol=0, atol=1e-4)
    told = client.predict(domain_file=handle_file(mixed), api_name="/domain")
    assert told["title"] == "zombie + pencil sketch" and told["blend"][1]["weight"] == -0.5
    weights = [{"coarse": 1, "middle": 0.5, "fine": 0}, 0.25]
    _, swapped = client.predict(**{**given, "weights": weights}, seeds="1", api_name="/blend")
    first, second = Delta.load(swapped).metadata["blend"]
    assert first["by_resolution"] == weights[0] and second["weight"] == 0.25
    expected = blend(base, list(zip(map(Delta.load, files), (Strength(1, 0.5, 0), 0.25))))
    again = sample(blend(base, [(Delta.load(swapped), 1.0)]), [1], 0.6)
    torch.testing.assert_close(again, sample(expected, [1], 0.6), rtol=0, atol=1e-4)
    _, halves = client.predict(domain_files=given["domain_files"], api_name="/blend")
    assert [part["weight"] for part in Delta.load(halves).metadata["blend"]] == [0.5, 0.5]


@pytest.fixture
def painted(tmp_path):
    """Files of three pictures of one kind."""
    files = [tmp_path / f"{name}.png" for name in ("rose", "poppy", "cherry")]
    for file, colour in zip(files, ("crimson", "red", "darkred")):
        Image.new("RGB", (40, 30), colour).save(file)
    return [handle_file(file) for file in files]


def test_pictures_alone_are_a_target(client, painted):
    _, status, file = adapt(client, target="", pictures=painted)
    assert status["state"] == "finished" and 0 < status["way"] < 2
    delta = Delta.load(file)
    assert delta.metadata["target"] == "" and delta.metadata["pictures"]["count"] == 3
    assert {len(digest) for digest in delta.metadata["pictures"]["sha256"]} == {64}
    assert Path(file).name == "3-pictures.safetensors"
    told = client.predict(domain_file=handle_file(file), api_name="/domain")
    assert told["title"] == "3 pictures" and told["pictures"]["count"] == 3
    other = adapt(client, target="", pictures=painted[:1])[2]
    assert not equal(Delta.load(other).tensors, delta.tensors)


def test_a_source_may_be_left_out(client, painted):
    _, status, file = adapt(client, source=" ")
    named, words = Delta.load(adapt(client)[2]), Delta.load(file)
    assert status["state"] == "finished" and "way" not in status["terms"]
    assert words.metadata["source"] == "" and not equal(words.tensors, named.tensors)
    assert adapt(client, source="", target="", pictures=painted)[1]["state"] == "finished"


def test_pictures_stand_beside_words_with_a_weight(client, painted):
    files = {
        weight: adapt(client, pictures=painted, picture_weight=weight)[2] for weight in (0.0, 2.0)
    }
    deltas = {weight: Delta.load(file) for weight, file in files.items()}
    assert deltas[2.0].metadata["target"] == "pencil sketch"
    assert deltas[2.0].metadata["guidance"]["picture_weight"] == 2.0
    assert equal(deltas[0.0].tensors, Delta.load(adapt(client)[2]).tensors)
    assert not equal(deltas[0.0].tensors, deltas[2.0].tensors)


def test_a_bad_picture_is_named_and_costs_nothing(client, painted, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    bad = handle_file(tmp_path / "bad.png")
    for given, sentence in (
        ([*painted, bad], "“bad.png” is no picture: give a PNG"),
        (painted * 6, "Got 18 pictures: give 1 to 16"),
        ("https://example.com/a.png", "Pictures are .*; upload a picture"),
        ([{"path": "/etc/passwd"}], "Pictures are .*; upload a picture"),
    ):
        with pytest.raises(Exception, match=sentence):
            adapt(client, target="", pictures=given)
    with pytest.raises(Exception, match="The prompt is empty"):
        adapt(client, target="", pictures=[])
    for no_text in (0, [], False):  # is none, but no empty text either
        with pytest.raises(Exception, match="A prompt must be text"):
            adapt(client, target=no_text, pictures=painted)


def test_a_domain_of_styles_is_carried_over_when_asked(client, server, tmp_path):
    own = load_generator(server.log.parent / "generator.safetensors")
    parent = trained_on(own)
    parts = {"styles": styled(parent), "weights": adapted(parent, "w", ("convs.1.conv.weight",))}
    files = {kind: tmp_path / f"{kind}.safetensors" for kind in parts}
    for kind, other in parts.items():
        diff(parent, other, {"target": kind}).save(files[kind])
    styles, weights = map(handle_file, files.values())
    told = client.predict(domain_file=styles, api_name="/domain")
    assert (told["kind"], told["fits"], told["changed_layers"]) == ("styles", False, 8)
    given = {"seeds": "1-4", "truncation": 0.6, "domain_file": styles}
    with pytest.raises(Exception, match=r"another generator .* carried over"):
        client.predict(**given, api_name="/sample")
    delta = carry_over(Delta.load(files["styles"]), own)
    moved = page_grid(sample(blend(own, [(delta, 1.0)]), [1, 2, 3, 4], 0.6), 4)
    picture = client.predict(**given, carry_over=True, api_name="/sample")
    assert same(Image.open(picture), moved)
    mix = {"domain_files": [styles], "weights": "1", "carry_over": True, "api_name": "/blend"}
    picture, mixed = client.predict(**mix, seeds="1-4", truncation=0.6)
    assert same(Image.open(picture), moved) and Delta.load(mixed).kind == "styles"
    _, status, file = adapt(client, domain_file=styles, carry_over=True)
    assert status["state"] == "finished"
    assert Delta.load(file).metadata["started_from"] == "styles"
    with pytest.raises(Exception, match=r"changes weights.*nada distil"):
        client.predict(**{**given, "domain_file": weights}, carry_over=True, api_name="/sample")


def test_files_of_the_server_are_out_of_reach(client, server):
    told = {"path": str(server.log), "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.url}/gradio_api/file={server.log}")
    assert "event: error" in call(server, "sample", {"seeds": "1", "domain_file": told})


VALUES = (None, "\x00", "x" * 20_000, -1, 1e308, [["a"]], {}, {"path": 7},
          {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}})  # fmt: skip
# of VALUES, those that are what the parameter takes
FITTING = {"domain_file": (None,), "pictures": (None,)}


def bad_bodies(client):
    """(endpoint, arguments) with one parameter of a wrong type, shape or size."""
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    good = {"/adapt": QUICK, "/adapt_once": QUICK, "/sample": {"seeds": "1"}}
    for name, told in endpoints.items():
        for parameter in told["parameters"]:
            field = parameter["parameter_name"]
            fitting = FITTING.get(field, ()) if name != "/domain" else ()
            for value in VALUES:
                if value not in fitting:
                    yield name.strip("/"), {**good.get(name, {}), field: value}


@pytest.mark.slow
def test_every_parameter_refuses_what_it_is_not(client, server):
    """Two hundred bodies and more: a sentence for each, and the next good call succeeds."""
    refused = 0
    for name, arguments in bad_bodies(client):
        try:
            answer = call(server, name, arguments)
        except urllib.error.HTTPError as error:
            answer = error.read().decode()
            assert error.code in (400, 422), (name, arguments, answer)
        said = re.findall(r'"(?:error|message|detail)": ?"((?:[^"\\]|\\.)*)"', answer)
        assert said and "event: complete" not in answer, (name, str(arguments)[:300], answer)
        assert all(one.rstrip().endswith(".") and "\\n" not in one for one in said), said
        assert "should not have" not in answer and "Traceback" not in answer, (name, arguments)
        refused += 1
    assert refused >= 200
    assert adapt(client)[1]["state"] == "finished"


def test_two_prompts_are_enough_without_a_client(server):
    answer = call(server, "adapt", {**QUICK, "steps": 2})
    last = json.loads(answer.strip().splitlines()[-1].removeprefix("data: "))
    assert "event: complete" in answer and last[1]["state"] == "finished"


def test_partly_unknown_words_run_with_a_hint(client):
    status = adapt(client, target="zombie 🙂 <b>gorblax</b>")[1]
    assert status["state"] == "finished"
    assert "never shown “🙂”, “b”, “gorblax”" in status["hints"][0]


def test_a_cancelled_run_ends_and_the_next_starts_at_once(client, server):
    job = client.submit(**LONG, api_name="/adapt")
    started(job)
    job.cancel()
    begin = time.monotonic()
    assert adapt(client)[1]["state"] == "finished"
    assert time.monotonic() - begin < 20  # the rest of the run would take minutes


KILLED = """
import sys, time
from gradio_client import Client
job = Client(sys.argv[1], verbose=False, httpx_kwargs={'timeout': 60}).submit(
    source="photo", target="zombie", steps=2000, batch=16, k=0, api_name="/adapt")
while not any(output[1]["step"] for output in job.outputs()):
    time.sleep(0.05)
print("started", flush=True)
job.result()
"""


@pytest.mark.slow
def test_a_killed_client_leaves_the_device_free(client, server):
    command = [sys.executable, "-c", KILLED, server.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout.readline() == "started\n"
        doomed.send_signal(signal.SIGKILL)
    begin = time.monotonic()
    assert adapt(client)[1]["state"] == "finished"
    assert time.monotonic() - begin < 20


@pytest.mark.slow
def test_twenty_visitors_see_only_their_own_runs(server):
    words = ("zombie", "anime", "old person", "pencil sketch", "painting")

    def visit(number):
        own = connect(server)
        settings = {"target": words[number % 5], "seed": number, "steps": 3 + number}
        job = own.submit(**{**QUICK, **settings}, api_name="/adapt")
        file = job.result(240)[2]
        told = own.predict(domain_file=handle_file(file), api_name="/domain")
        own.close()
        seen = {output[1]["steps"] for output in job.outputs()}
        return told["target"], told["seed"], told["steps_done"], seen

    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        results = list(pool.map(visit, range(20)))
    assert results == [(words[n % 5], n, 3 + n, {3 + n}) for n in range(20)]


@pytest.mark.parametrize("phase", quick_first("running", "waiting", "starting", "at the end"))
def test_cancelled_in_any_phase_the_next_run_starts_at_once(client, server, phase):
    other = connect(server)
    if phase == "waiting":
        first = other.submit(**LONG, api_name="/adapt")
        started(first)
    steps = 2 if phase == "at the end" else 2000
    job = client.submit(**{**QUICK, "steps": steps}, api_name="/adapt")
    if phase == "running":
        started(job)
    elif phase == "starting":
        wait_for(job.outputs)  # earlier, the client has no number yet to cancel by
    elif phase == "at the end":
        wait_for(lambda: any(output[1]["step"] for output in job.outputs()) or job.done())
    elif phase == "waiting":
        wait_for(lambda: job.outputs() and job.outputs()[-1][1]["state"] == "waiting")
    job.cancel()
    if phase == "waiting":
        first.cancel()
    begin = time.monotonic()
    assert adapt(client)[1]["state"] == "finished"
    assert time.monotonic() - begin < 90  # the rest of the run would take minutes
    other.close()


def test_samples_come_between_the_steps_of_a_run(client, server):
    job = client.submit(**LONG, api_name="/adapt")
    started(job)
    other = connect(server)
    assert other.predict(seeds="1", api_name="/sample") and not job.done()
    job.cancel()
    other.close()


def posted(server, event, *values) -> str:
    """What an endpoint answers that only the page uses, which can be posted to all the same."""
    body = json.dumps({"data": values}).encode()
    address = f"{server.url}/gradio_api/call/{event}"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    return answered(server, event, request)


KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4


def test_a_stranger_gets_nothing_of_a_run(client, server):
    assert adapt(client)[1]["state"] == "finished"
    answer = posted(server, "watch")
    assert "event: complete" in answer and "pencil" not in answer and "path" not in answer


def test_only_its_key_opens_what_a_browser_made(client, server):
    posted(server, "greet", KEY, '{"target": "zombie"}')
    file = adapt(client, target="zombie")[2]
    mine = load_domain(server, KEY, file)
    assert "zombie" in mine and "zombie" in posted(server, "greet", KEY, "")
    for key in (OTHER, KEY[:-1] + "e", KEY.upper(), "", None, [KEY], "../" + KEY):
        answer = posted(server, "greet", key, "")
        assert "event: complete" in answer and "zombie.safetensors" not in answer
    assert KEY not in server.log.read_text()
    for sent in server.log.parent.rglob("*"):
        assert KEY not in sent.name and (sent.is_dir() or KEY.encode() not in sent.read_bytes())


def load_domain(server, key, file) -> str:
    """Give a domain file to the visitor of a key, in one line of pages of their own."""
    session = "page-of-" + key[:8]

    def join(event, values):
        fn = next(d["id"] for d in config["dependencies"] if d["api_name"] == event)
        body = json.dumps({"data": values, "fn_index": fn, "session_hash": session}).encode()
        address, kind = f"{server.url}/gradio_api/queue/join", {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=60).read()
        address = f"{server.url}/gradio_api/queue/data?session_hash={session}"
        return urllib.request.urlopen(address, timeout=60).read().decode()

    config = json.load(urllib.request.urlopen(f"{server.url}/config", timeout=60))
    join("greet", [key, ""])
    uploaded = {"path": upload(server, file), "meta": {"_type": "gradio.FileData"}}
    return join("load", [uploaded, "1-2", 1.0, 1.0, 1.0, 0.7, False])


def upload(server, file) -> str:
    """Where the server has put a file."""
    head = 'Content-Disposition: form-data; name="files"; filename="zombie.safetensors"'
    content = Path(file).read_bytes()
    body = f"--x\r\n{head}\r\n\r\n".encode() + content + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    request = urllib.request.Request(f"{server.url}/gradio_api/upload", body, kind)
    (path,) = json.load(urllib.request.urlopen(request, timeout=60))
    return path


def test_what_a_script_made_is_forgotten_when_it_asks(server):
    own = connect(server)
    before = told_info(server)["visitors"]
    file = own.predict(**QUICK, api_name="/adapt_once")[2]
    assert told_info(server)["visitors"] == before + 1 and Path(file).is_file()
    assert own.predict(api_name="/forget") is True
    own.close()
    assert told_info(server)["visitors"] <= before + 1


@pytest.mark.slow
def test_when_no_run_has_a_place_all_else_still_answers(server):
    clients = [connect(server) for _ in range(MAX_WAITING + 2)]
    jobs = [client.submit(**LONG, api_name="/adapt") for client in clients[:-1]]
    wait_for(lambda: told_info(server)["runs"] == {"training": 1, "waiting": MAX_WAITING})
    places = sorted(wait_for(job.outputs)[-1][1]["before_it"] for job in jobs)
    assert places == list(range(MAX_WAITING + 1))
    last = clients[-1]
    with pytest.raises(Exception, match="20 runs wait already; try again"):
        last.predict(**LONG, api_name="/adapt")
    began = time.monotonic()
    assert last.predict(seeds="1", api_name="/sample") and told_info(server)["size"] == 16
    assert posted(server, "greet", OTHER, "") and time.monotonic() - began < 10
    for job, client in zip(jobs, clients):
        job.cancel()
        client.close()
    wait_for(lambda: told_info(server)["runs"] == {"training": 0, "waiting": 0})
    assert adapt(last)[1]["state"] == "finished"
    last.close()


def test_a_client_has_one_run_and_the_next_stops_it(client):
    first = client.submit(**LONG, api_name="/adapt")
    started(first)
    assert adapt(client)[1]["state"] == "finished"
    assert first.result(60)[1]["state"] == "stopped"


@pytest.mark.slow
def test_a_run_that_nobody_fetches_ends_in_seconds(tmp_path, clip_tiny):
    with serve(tmp_path, clip_tiny, "--keep", "5") as server:  # so a run is kept on for 2.5 s
        address = f"{server.url}/gradio_api/call/v2/adapt"
        kind = {"Content-Type": "application/json"}
        for _ in range(3):  # one trains, the others wait
            request = urllib.request.Request(address, json.dumps(LONG).encode(), kind)
            urllib.request.urlopen(request, timeout=60).read()
        wait_for(lambda: told_info(server)["runs"] == {"training": 1, "waiting": 2})
        began = time.monotonic()
        wait_for(lambda: told_info(server)["runs"] == {"training": 0, "waiting": 0})
        assert time.monotonic() - began < 15


@pytest.mark.slow
def test_fifty_runs_leave_memory_as_it_was(client, server):
    def run(number):
        settings = {**LONG, "steps": 10 + 990 * (number % 2), "batch": 4}
        job = client.submit(**settings, api_name="/adapt")
        if number % 2:
            started(job)
            job.cancel()
        else:
            assert job.result(60)[1]["state"] == "finished"

    for number in range(4):  # allocators, caches and lazy imports settle
        run(number)
    before = server.resident()
    for number in range(50):
        run(number)
    wait_for(lambda: server.resident() - before < 40)  # MB; the last one may still be ending
    assert server.process.poll() is None


@pytest.mark.slow
def test_fifty_sessions_that_left_are_forgotten(tmp_path, clip_tiny):
    with serve(tmp_path, clip_tiny, "--keep", "0.1") as server:
        for number in range(50):
            visitor = connect(server)
            visitor.predict(**{**QUICK, "steps": 1, "seed": number}, api_name="/adapt_once")
            visitor.close()
        assert count(server) > 0
        wait_for(lambda: count(server) == 0)


def count(server) -> int:
    """How many visitors a server remembers; who asks for this is none."""
    return told_info(server)["visitors"]


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--port", "0"], "0 is not a port: choose from 1 to 65535."),
        (["--port", "99999"], "99999 is not a port"),
        (["--port", "-1"], "-1 is not a port"),
        (["--keep", "nan"], "nan is not a time: give minutes, such as 60."),
        (["--keep", "inf"], "inf is not a time"),
        (["--keep", "-1"], "-1 is not a time"),
        (["--root-path", "/na da"], "/na da is not a path: give one such as /nada."),
        (["--root-path", "/nada?x=1"], "/nada?x=1 is not a path"),
    ],
)
def test_a_bad_option_gets_a_sentence(capsys, arguments, sentence):
    with pytest.raises(SystemExit) as caught:
        app.parse(arguments)
    assert caught.value.code == 2 and sentence in capsys.readouterr().err
