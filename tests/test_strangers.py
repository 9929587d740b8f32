"""Domain files and texts that anyone could send: a sentence or a sound picture, by each way in."""

import html
import json
import re
import time
import urllib.error

import numpy as np
import pytest
import torch
from gradio_client import handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import expect

from nada.__main__ import main
from nada.adapt import Progress
from nada.checkpoint import Origin, fingerprint, save_generator, sha256, write_safetensors
from nada.clip import save_clip
from nada.delta import FORMAT, LARGEST, MAX_TENSORS, Delta, DeltaError, blend, fits
from nada.facts import describe, generator_facts, run_facts, unusual
from nada.formats.messages import plain, quote
from nada.formats.metadata import KINDS, MAX_LENGTH, read_metadata, write_metadata
from nada.formats.remarks import remark
from nada.presets import PRESETS
from nada.sample import ImageError
from nada.serve.domains import KeptDomain, KeptDomains
from nada.serve.models import Options
from nada.serve.service import Service
from nada.serve.view import cards
from tests.api import QUICK, call
from tests.helpers import tiny_generator
from tests.page import WIDTHS, adapt, button, field, load, tab
from tests.page import fits as fits_width
from tests.served import WORDS

BASE = tiny_generator().half().float()  # what tests/served.py serves, from a file of half floats
OWN = fingerprint(BASE)
BIAS = "convs.2.activate.bias"
PARTS = ("config", "guidance", "generator")  # facts that have parts
ATTACK = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
RIGHT_TO_LEFT = "\u202egpj.exe\u2066\u200f"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31mred\x00\x7f"


def changed(value) -> dict:
    """Tensors of a domain that differ from the base by a little, and one of them of `value`."""
    state = {key: value for key, value in BASE.state_dict().items() if key.startswith("convs.2.")}
    tensors = {key: value + 0.01 for key, value in state.items()}
    return {**tensors, BIAS: torch.full_like(state[BIAS], value)}


def everywhere(value: float) -> dict:
    """All tensors of the generator, each of one value."""
    return {key: torch.full_like(tensor, value) for key, tensor in BASE.state_dict().items()}


def named(*names: str) -> dict:
    return {name: torch.ones(1) for name in names}


def write(path, text: str = '{"target": "zombie"}', tensors=None, base: str = OWN):
    """A domain file with an honest checksum over whatever it holds."""
    tensors = changed(0.5) if tensors is None else tensors
    header = {"format": FORMAT, "base": base, "metadata": text}
    write_safetensors(tensors, path, {**header, "sha256": sha256(tensors, base, text)})
    return path


def facts(**values) -> dict:
    return {"text": json.dumps({"source": "photo", "target": "zombie", **values})}


def filled(value) -> dict:
    """`value` in place of each fact, and of each part of one."""
    names = {name: value for name in KINDS}
    parts = {name: dict.fromkeys(KINDS[name], value) for name in PARTS}
    blend = [dict.fromkeys(KINDS["blend"][0], value)]
    return {"text": json.dumps({**names, **parts, "blend": blend})}


# What is taken, and draws
TAKEN = {
    "markup": filled(ATTACK),
    "markup in names": facts(**{ATTACK: {ATTACK: [ATTACK]}}),
    "control characters": filled(f"zom{ESCAPES}bie\n\tx"),
    "right to left marks": filled(RIGHT_TO_LEFT),
    "right to left letters": filled("זומבי رسم"),
    "nothing but what is not seen": filled("\u200b\u202e\ufeff"),
    "half a character": {"text": r'{"target": "zombie \ud800", "\udfff": "\udfff"}'},
    "one long word": filled("w" * 2000),
    "a source without a target": {"text": '{"source": "photo"}'},
    "no source": {"text": '{"source": null, "target": "zombie"}'},
    "a mix without sources": facts(blend=[{"weight": 1, "source": None, "target": None}]),
    "nothing": {"text": "{}"},
    "large whole numbers": filled(2**63 - 1),
    "numbers for texts": filled(7.5),
    "texts for numbers": filled("7"),
    "lists": filled([[], {}]),
    "objects": filled({"a": {"b": None}}),
    "null": filled(None),
    "true": filled(True),
    "zeros": {"tensors": everywhere(0.0)},
    "zeros of one": {"tensors": changed(0.0)},
    "subnormal": {"tensors": everywhere(1e-45)},
    "tiny": {"tensors": everywhere(1e-30)},
    "large": {"tensors": changed(1e4)},
    "no change": {"tensors": {}},
}
# What is refused when it is read
REFUSED = {
    "a megabyte": (facts(target="x" * 1_000_000), "characters, and may have|is not a domain file"),
    "long": (facts(target="x" * 70_000), "characters, and may have 65536"),
    "raw letters": ({"text": f'["{"ж" * 300_000}"]'}, "may have"),
    "a long text": (facts(target="x" * 2001), "more than 2000 characters"),
    "a long name": (facts(**{"x" * 2001: 1}), "more than 2000 characters"),
    "many values": (facts(layers=list(range(3000))), "more than 2000 values"),
    "deep": (facts(config=json.loads("[" * 9 + "]" * 9)), "nested more than 8 deep"),
    "deeper": ({"text": "[" * 500 + "]" * 500}, "not a JSON object|nested"),
    "deepest": ({"text": "[" * 60_000}, "nested|not JSON"),
    "beyond 64 bits": (facts(seed=2**63), "whole number of more than 64 bits"),
    "thousands of digits": ({"text": '{"k": ' + "9" * 6000 + "}"}, "more than 64 bits"),
    "nan": ({"text": '{"loss": NaN}'}, "holds NaN"),
    "infinity": ({"text": '{"loss": [-Infinity]}'}, "holds -Infinity"),
    "beyond a float": ({"text": '{"loss": 1e999}'}, "too large for a float"),
    "no object": ({"text": '["zombie"]'}, "not a JSON object"),
    "no JSON": ({"text": "zombie"}, "not JSON"),
    "no fingerprint": ({"base": ATTACK}, "fingerprint of 64 digits"),
    "a short fingerprint": ({"base": "a" * 63}, "fingerprint of 64 digits"),
    "huge": ({"tensors": changed(1e15)}, "beyond 1,000,000"),
    "largest": ({"tensors": changed(-3.4e38)}, "beyond 1,000,000"),
    "not a number": ({"tensors": changed(float("nan"))}, "holds nan"),
    "no numbers": ({"tensors": {BIAS: torch.ones(0, 2)}}, "one to five dimensions"),
    "a foreign tensor": ({"tensors": named(ATTACK)}, "not a tensor of a generator"),
    "a tensor's endless name": ({"tensors": named("noises." + "a" * 10**6)}, "not a tensor|domain"),
    "many tensors": ({"tensors": named(*(f"noises.{i}" for i in range(3000)))}, "3000 tensors"),
    "endless tensors": ({"tensors": named(*(f"noises.{i}" for i in range(20000)))}, "not a domain"),
}  # fmt: skip
# What is read, but is not of the generator that is served
FOREIGN = {
    "other base": ({"base": "0" * 64}, "made from another generator"),
    "other shape": ({"tensors": {BIAS: torch.ones(7)}}, "does not fit the generator"),
    "a transposed tensor": ({"tensors": {BIAS: torch.ones(1, 6)}}, "does not fit the generator"),
    "a tensor too many": ({"tensors": named("convs.9.conv.weight")}, "does not fit the generator"),
}
# What is read and fits, but draws nothing
BLACK = {
    "overflow": {"tensors": everywhere(LARGEST)},
    "a large bias": {"tensors": changed(LARGEST)},
}
UNUSUAL = ("zeros", "zeros of one", "tiny", "subnormal")  # and taken
ALL = {**{name: given for name, (given, _) in {**REFUSED, **FOREIGN}.items()}, **TAKEN, **BLACK}

SOME = ("half a character", "markup", "deeper", "other shape", "overflow")


def is_sentence(text: str) -> bool:
    return text == plain(text) and text.endswith(".") and len(text) < 400


# Read by the library


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_can_be_shown_drawn_and_saved_anew(name, tmp_path):
    delta = Delta.load(write(tmp_path / "d.safetensors", **TAKEN[name]))
    assert len(json.dumps(describe(delta, True), allow_nan=False)) < 2 * MAX_LENGTH
    (card,) = json.loads(cards([KeptDomain("1", tmp_path, OWN, delta.metadata)], []))
    texts = [card["title"], *card["facts"].values()]
    assert all(text and text == plain(text) and len(text) <= 200 for text in texts)
    assert not any("None" in text for text in texts)
    delta.save(tmp_path / "again.safetensors")
    assert Delta.load(tmp_path / "again.safetensors").metadata == delta.metadata
    assert all(v.isfinite().all() for v in blend(BASE, [(delta, 1.0)]).state_dict().values())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_gets_a_sentence_at_once(name, tmp_path):
    given, complaint = REFUSED[name]
    path = write(tmp_path / "d.safetensors", **given)
    begin = time.monotonic()
    with pytest.raises(DeltaError, match=complaint) as caught:
        Delta.load(path)
    assert is_sentence(str(caught.value)) and time.monotonic() - begin < 1


@pytest.mark.parametrize("name", FOREIGN)
def test_what_does_not_fit_is_read_and_known_not_to_fit(name, tmp_path):
    given, complaint = FOREIGN[name]
    delta = Delta.load(write(tmp_path / "d.safetensors", **given))
    assert not fits(delta, BASE, OWN)
    with pytest.raises(DeltaError, match=complaint):
        blend(BASE, [(delta, 1.0)])


@pytest.mark.parametrize("value", [5, 0.5, "x", [], ["x"], [5], {}, {"a": 1}, None, True, 2e9])
def test_a_known_fact_is_of_its_kind_or_not_there(value):
    parts = {name: KINDS[name] for name in PARTS} | {"blend": KINDS["blend"][0]}
    for name, kind in KINDS.items():
        read = read_metadata(json.dumps({name: value, "other": value}))
        assert read["other"] == value and (name not in read or of_kind(read[name], kind))
    for name, kinds in parts.items():
        given = dict.fromkeys(kinds, value) | {"other": value}
        read = read_metadata(json.dumps({name: [given] if name == "blend" else given}))[name]
        (read,) = read if name == "blend" else (read,)
        assert read["other"] == value
        assert all(of_kind(read[part], kinds[part]) for part in kinds.keys() & read.keys())


def of_kind(value, kind) -> bool:
    if isinstance(kind, list):
        return isinstance(value, list) and all(of_kind(part, kind[0]) for part in value)
    if isinstance(kind, dict):
        return isinstance(value, dict)
    return type(value) in ((int, float) if kind is float else (kind,))


@pytest.mark.parametrize("preset", PRESETS)
def test_what_our_own_runs_say_is_read_as_it_was_written(preset, clip_tiny):
    progress = Progress(60, 60, 0.5, {}, ("conv1", "convs.0"), 0.1, 12.5, 0.0)
    own = run_facts([clip_tiny], "пожилой zombie 🧟", PRESETS[preset], progress)
    origin = Origin("g.pt", (remark("clamp", clamp=2),), (), (remark("no_noise"),), ("g",))
    own |= generator_facts("org/repo:g.pt", origin)
    own = json.loads(json.dumps(own | {"quality": 0.25, "diversity": 0.5, "started_from": "elf"}))
    assert read_metadata(json.dumps(own)) == own
    assert write_metadata(own) == json.dumps(own, sort_keys=True)


def test_the_longest_metadata_and_the_most_tensors_can_be_saved_anew(tmp_path):
    names = [f"noises.{'a' * 40}.{i}" for i in range(MAX_TENSORS)]
    text = json.dumps({str(i): ['"\\' * 500] for i in range(30)})
    delta = Delta.load(write(tmp_path / "d.safetensors", text, named(*names)))
    assert len(text) > 0.9 * MAX_LENGTH and len(delta.tensors) == MAX_TENSORS
    delta.save(tmp_path / "again.safetensors")
    assert Delta.load(tmp_path / "again.safetensors").metadata == delta.metadata
    with pytest.raises(DeltaError, match="cannot be saved: its metadata has"):
        Delta(OWN, {}, {**delta.metadata, "more": ["x" * 2000] * 9}).save(tmp_path / "d")


def test_a_mix_beyond_what_a_file_may_hold_is_refused(tmp_path):
    delta = Delta.load(write(tmp_path / "d.safetensors", tensors=changed(LARGEST)))
    for weights in [(1.5,), (1.0, 1.0), (-9e5,), (1e6, -1e6, 2)]:
        with pytest.raises(DeltaError, match="These weights make numbers beyond 1,000,000"):
            blend(BASE, [(delta, weight) for weight in weights])


def test_what_is_unusual_is_said():
    assert unusual(Delta(OWN, changed(0.5))) is None and unusual(Delta(OWN, {})) is None
    assert (
        unusual(Delta(OWN, changed(0.0)))
        == f"Unusual for a domain: there are but zeros in “{BIAS}”."
    )
    assert f"numbers beyond 10,000 in “{BIAS}”." in unusual(Delta(OWN, changed(-5e5)))


def test_nothing_unseen_reaches_a_terminal(tmp_path, capsys):
    save_generator(BASE, tmp_path / "g.safetensors")
    write(tmp_path / "d.safetensors", **filled(ESCAPES + RIGHT_TO_LEFT + "\ud800"))
    command = ["domain", "--generator", str(tmp_path / "g.safetensors")]
    assert main([*command, str(tmp_path / "d.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "fits: True" in lines and any("owned" in line for line in lines)
    assert all(line == plain(line) for line in lines)
    write(path := tmp_path / "\x1b[2J\x9b\u202egpj.safetensors", base="0")
    assert main([*command, str(path)]) == 2
    assert is_sentence(capsys.readouterr().err.rstrip("\n"))


@pytest.mark.parametrize(
    "text, shown",
    [
        ("a\tb\n\u2028c", "a b  c"),
        (ESCAPES, "]0;owned[2J31mred"),
        (RIGHT_TO_LEFT, "gpj.exe"),
        ("\ud800x\udc00", "�x�"),
        ("a\u200b\u200c\u200d\u2060\ufeff\u00adb\u3164", "ab"),
        ("זומבי رسم Зомби 僵尸 🧟 é", "זומבי رسم Зомби 僵尸 🧟 é"),
    ],
)
def test_plain_text_keeps_letters_and_nothing_unseen(text, shown):
    assert plain(text) == shown and plain(shown) == shown
    assert quote(text) == f"“{' '.join(shown.split())}”"


# By what serves them


@pytest.fixture(scope="module")
def service(tmp_path_factory, clip_tiny):
    """What serves BASE."""
    folder = tmp_path_factory.mktemp("models")
    save_generator(BASE, folder / "generator.safetensors")
    save_clip(clip_tiny.model, folder / "clip.safetensors", range(49408), WORDS)
    names = (str(folder / f"{name}.safetensors") for name in ("generator", "clip"))
    return Service(Options(*names, device="cpu"))


@pytest.mark.parametrize("name", FOREIGN)
def test_what_does_not_fit_is_refused_before_it_is_kept_or_trained(service, tmp_path, name):
    given, complaint = FOREIGN[name]
    path = write(tmp_path / "d.safetensors", **given)
    with pytest.raises(DeltaError, match=complaint):
        service.uploaded("domain_file", {"path": str(path), "meta": {"_type": "gradio.FileData"}})
    settings = {**service.worker.preset.served(), "source": "photo", "target": "zombie"}
    with pytest.raises(DeltaError, match=complaint):
        service.job(settings, path)
    assert service.job(settings, write(tmp_path / "good.safetensors")).start is not None


def test_what_draws_nothing_is_not_kept(service, tmp_path):
    kept = KeptDomains(tmp_path / "kept")
    delta = Delta.load(write(tmp_path / "d.safetensors", **BLACK["overflow"]))
    with pytest.raises(ImageError):
        kept.add(delta, service.thumbnails)
    assert not list((tmp_path / "kept").rglob("*.safetensors")) and not kept.files


# By the API


def ask(client, endpoint: str, **arguments):
    """What an endpoint answers, or None after checking that its refusal is a sentence."""
    try:
        return client.predict(**arguments, api_name=endpoint)
    except AppError as error:
        said = html.unescape(str(error))
        assert is_sentence(said) and "should not have" not in said, said
        return None


def draws(picture: str) -> bool:
    """Whether a picture is there and not all black."""
    return np.asarray(Image.open(picture)).max() > 0


def quick(some, all) -> list:
    """Parameters of which some are quick and the others are marked slow."""
    return [one if one in some else pytest.param(one, marks=pytest.mark.slow) for one in all]


@pytest.mark.parametrize("name", quick(SOME, ALL))
def test_every_endpoint_answers_a_strangers_file(client, tmp_path, name):
    file = handle_file(write(tmp_path / "d.safetensors", **ALL[name]))
    told = ask(client, "/domain", domain_file=file)
    sample = ask(client, "/sample", seeds="1-2", domain_file=file)
    mix = ask(client, "/blend", domain_files=[file, file], weights="1.5, -0.5", seeds="1")
    assert (told is not None) == (name not in REFUSED)
    assert told is None or told["fits"] == (name not in FOREIGN)
    assert told is None or bool(told["unusual"]) == (name in (*UNUSUAL, *BLACK))
    assert (sample is not None) == (name in TAKEN) and (sample is None or draws(sample))
    assert (mix is not None) <= (name in TAKEN)
    if mix:
        again = ask(client, "/domain", domain_file=handle_file(mix[1]))
        assert draws(mix[0]) and again["fits"] and again["blend"]


TEXTS = ("zombie \ud800", "\udfff", ESCAPES, RIGHT_TO_LEFT, "zombie\x00\u202e", "7\ud800", ATTACK)


@pytest.mark.parametrize("text", quick(TEXTS[:1], TEXTS))
def test_every_text_argument_takes_what_nobody_types(server, text):
    job = {**QUICK, "steps": 1}
    places = {
        "adapt": [(job, name) for name in ("source", "target", "method", "steps", "domain_file")],
        "adapt_once": [(job, "target")],
        "sample": [({"seeds": "1"}, name) for name in ("seeds", "domain_file", "strength")],
        "blend": [({"seeds": "1"}, name) for name in ("domain_files", "weights", "seeds")],
        "domain": [({}, "domain_file")],
    }
    for endpoint, (given, name) in ((e, place) for e, found in places.items() for place in found):
        try:
            answer = call(server, endpoint, {**given, name: text})
        except urllib.error.HTTPError as error:
            answer = error.read().decode()
            assert error.code in (400, 422), (endpoint, name, answer)
        assert "should not have" not in answer, (endpoint, name, answer)
        said = re.findall(r'"(?:error|message|detail)": ?("(?:[^"\\]|\\.)*")', answer)
        said = [html.unescape(json.loads(one)) for one in said]
        assert "event: complete" in answer or said, (endpoint, name, answer)
        assert all(is_sentence(one) for one in said if one), (endpoint, name, said)


# By the page


class Watch:
    """Whether any script of a stranger ran in a page, or could: a dialog, a mark on the window, an
    image or script of theirs."""

    def __init__(self, page):
        self.page, self.dialogs = page, []
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))

    def is_clean(self) -> bool:
        theirs = self.page.locator("img[src='x'], body script:not([src]):text('hacked')")
        ran = self.page.evaluate("window.hacked !== undefined")
        return not self.dialogs and not ran and theirs.count() == 0


def shown(page, card, sentence) -> str:
    """Wait for one of the two; which it was."""
    expect(card.or_(sentence).first).to_be_visible()
    return "card" if card.count() else "sentence"


def try_file(page, path, taken: bool) -> None:
    """Load a file on the page, see what it says, and that a run still gives a card."""
    card, toast = page.locator(".card"), page.locator(".toast-body")
    tab(page, "Kept domains")
    load(page, path)
    assert shown(page, card, toast) == ("card" if taken else "sentence"), path.name
    if taken:
        page.wait_for_function("document.querySelector('.compare img.after')?.naturalWidth > 0")
        assert plain(card.inner_text().replace("\n", "")) == card.inner_text().replace("\n", "")
    else:
        assert is_sentence(page.locator(".toast-message-text").first.inner_text())
        page.locator(".toast-close").first.click()
    adapt(page, 2)
    for _ in range(card.count()):
        count = card.count()
        card.first.get_by_text("Forget").click()
        expect(card).to_have_count(count - 1)


def test_strangers_files_leave_the_page_as_it_is(visit, tmp_path):
    try_files(visit(), tmp_path, SOME[:3])


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a run and four waits for the page with each of them
def test_all_strangers_files_one_after_another_in_one_page(visit, tmp_path):
    try_files(visit(), tmp_path, ALL)


def try_files(page, folder, names) -> None:
    watch = Watch(page)
    for number, name in enumerate(names):
        path = folder / f"<img src=x onerror=window.hacked=1> {number}.safetensors"
        try_file(page, write(path, **ALL[name]), name in TAKEN)
        assert watch.is_clean() and fits_width(page), name


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_no_script_of_anybody_runs_in_any_part_of_the_page(visit, tmp_path, width):
    """Markup in prompts, seeds, names of files, cards, choices, labels of a mix, errors."""
    page = visit(width)
    watch, cards = Watch(page), page.locator(".card")
    for number, name in enumerate(("markup", "one long word", "markup in names")):
        tab(page, "Kept domains")
        load(page, write(tmp_path / f"{number}.safetensors", **ALL[name]))
        expect(cards).to_have_count(number + 1)
    assert watch.is_clean() and fits_width(page)
    cards.last.get_by_text("Go on from").click()
    tab(page, "Mix")
    for box in page.locator("#chosen input").all()[-2:]:
        box.check()
    button(page, "Show the mix").click()
    button(page, "Keep the mix").click()
    expect(cards).to_have_count(4)
    for name in ("Source", "Target"):
        field(page, name).fill(ATTACK)
        button(page, "Adapt").click()
        page.wait_for_timeout(1000)
        assert watch.is_clean()
        field(page, name).fill("photo")
    adapt(page, 2, "zombie <img src=x>")
    field(page, "Seeds").fill("<svg/onload=window.hacked=1>")
    field(page, "Seeds").press("Enter")
    expect(page.locator(".toast-message-text").last).to_contain_text("<svg/onload")
    page.wait_for_timeout(500)
    assert watch.is_clean() and fits_width(page)
    page.wrong[:] = [said for said in page.wrong if "status of 422" not in said]  # refusals
