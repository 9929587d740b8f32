"""The events of the page, with tiny models and without a browser: what changes, by its name."""

import inspect
import json
import sys
import threading
from pathlib import Path

import gradio as gr
import pytest

import app
import nada.serve.jobs
from nada.checkpoint import save_generator
from nada.clip import save_clip
from nada.delta import BANDS, Strength
from nada.serve.events import WEIGHTS, WEIGHTS_BY_BAND, Change, PageEvents, Visit
from nada.serve.generators import GeneratorChoices
from nada.serve.models import Options
from nada.serve.validate import BadInput
from tests.helpers import tiny_generator
from tests.served import ROOT, WORDS

FORM = {"source": "photo", "target": "zombie", "steps": 2, "k": 2, "batch": 2}
LOOK = {"seeds": "1-2", "coarse": 1.0, "middle": 1.0, "fine": 1.0, "sample_truncation": 0.7}
ALONE = {"carry_over": False}
KEY, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
LINK = '{"source": "photo", "target": "zombie", "seed": 7}'
DRAWN = {"seeds": "1-2", "sample_truncation": 0.7}


@pytest.fixture(scope="module")
def options(tmp_path_factory, clip_tiny):
    """A tiny generator and a tiny CLIP, as files."""
    folder = tmp_path_factory.mktemp("models")
    save_generator(tiny_generator(), folder / "generator.safetensors")
    save_clip(clip_tiny.model, folder / "clip.safetensors", range(49408), WORDS)
    names = (str(folder / f"{name}.safetensors") for name in ("generator", "clip"))
    return Options(*names, device="cpu")


@pytest.fixture
def choices(options):
    """The server of that generator, which is loaded."""
    choices = GeneratorChoices(options)
    choices.first.worker.models()
    return choices


@pytest.fixture
def events(choices):
    return PageEvents(choices)


@pytest.fixture
def session(choices):
    yield choices.sessions.come_back("me", KEY)
    choices.sessions.forget("me")


@pytest.fixture
def wired(choices):
    """For each event the names of the components that gradio lets it change."""
    with gr.Blocks() as blocks:
        parts = app.lay_out(choices)
        app.wire(blocks, parts, choices)
    name_of = {part: name for name, part in parts.items()}
    return {fn.api_name: {name_of[part] for part in fn.outputs} for fn in blocks.fns.values()}


@pytest.fixture
def form(choices):
    return {**choices.first.worker.preset.served(), **FORM}


def test_what_an_event_changes_is_wired_to_it(choices, events, session, form, wired):
    seen = {}

    def note(event, *arguments, who=session, **values):
        changes = getattr(events, event)(who, *arguments, **values)
        for change in [changes] if isinstance(changes, dict) else changes:
            assert change
            seen.setdefault(event, set()).update(change)

    note("greet", KEY, LINK, who=Visit("me", None))
    note("unfold", **{**form, "steps": -1})
    note("hint", **form)
    for target in ("zombie", "anime"):
        note("train", start="", **DRAWN, **{**form, "target": target})
    session.train(session.job({**form, "target": "zombie"}, "", "1", 0.7))
    note("watch")
    ids = [domain.id for domain in session.domains]
    note("look", **LOOK)
    note("even", strength=0.5, **DRAWN)
    note("more", **LOOK)
    note("back", 1, **LOOK)
    note("strip", **LOOK)
    note("film", **LOOK)
    note("weigh", ids)
    weights = {name: 0.5 for names in WEIGHTS_BY_BAND.values() for name in names.values()}
    note("mix", **LOOK, **ALONE, chosen=ids, **{**weights, f"{WEIGHTS[0]}_fine": 1.5})
    assert session.looked_at[0][1] == Strength(0.5, 0.5, 1.5)
    note("keep_mix", **LOOK)
    note("load", upload(session.domains.get(ids[0]).path), **LOOK, **ALONE)
    for act in ("open", "on", "forget"):
        note("act", {"act": act, "id": ids[0]}, **LOOK, **ALONE)
    for generator in (choices.name_of(choices.first), "nothing"):
        note("choose", generator)
    assert events.stop(session) is None
    session.remember({**LOOK, **FORM, "fine": 0.5})
    note("greet", KEY, LINK, who=Visit("me", None))
    note("forget_all", Visit("me", None), OTHER)
    methods = [name for name, _ in inspect.getmembers(events, inspect.ismethod) if name[0] != "_"]
    assert sorted([*seen, "stop"]) == methods
    for event, names in seen.items():
        assert names == wired[event], event


def upload(path) -> dict:
    """A file as gradio gives it."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_a_domain_is_gone_on_from_by_its_id(events, session, form):
    list(events.train(session, start="", **DRAWN, **form))
    (first,) = session.domains
    assert events.act(session, {"act": "on", "id": first.id}, **LOOK, **ALONE)["start"].props[
        "value"
    ] == (first.id)
    list(events.train(session, start=first.id, **DRAWN, **{**form, "target": "anime"}))
    assert [domain.metadata.get("started_from") for domain in session.domains] == [None, "zombie"]
    with pytest.raises(BadInput, match="not kept any more"):
        list(events.train(session, start="nobody", **DRAWN, **form))


# Coming back


def told(events, key, link="", id="another page"):
    """What a page is told when it opens."""
    *_, changes = events.greet(Visit(id, None), key, link)
    return {n: c.props.get("value") if isinstance(c, Change) else c for n, c in changes.items()}


def test_a_page_comes_back_as_it_was_left(events, choices, form):
    mine = choices.sessions.come_back("page", KEY)
    list(events.train(mine, start="", **DRAWN, **form))
    look = {"seeds": "5-6", "coarse": 1.0, "middle": 0.5, "fine": 0.0, "sample_truncation": 0.3}
    mine.remember({**form, **look})
    mine.looked_at = mine.looked_at
    here = events.look(mine, **look)
    back = told(events, KEY)
    assert {name: back[name] for name in (*form, *look)} == {**form, **look}
    assert back["strength"] == 0.5 and "by_resolution" in back  # which unfolds
    assert back["pairs"] == here["pairs"] and json.loads(back["run"])["state"] == "finished"
    assert len(json.loads(back["cards"])) == 1 and back["file"].endswith("zombie.safetensors")
    stranger = told(events, OTHER)
    assert stranger["cards"] == "[]" and stranger["run"] == "" and "target" not in stranger
    assert choices.sessions.get("another page") is not mine


def test_who_comes_back_to_a_run_watches_it_to_its_end(events, choices, form):
    mine = choices.sessions.come_back("page", KEY)
    first = events.train(mine, start="", **DRAWN, **{**form, "steps": 2000})
    while not json.loads(next(first)["run"])["step"]:
        pass
    first.close()  # the line is lost
    assert json.loads(told(events, KEY)["run"])["state"] == "running"
    again = events.watch(choices.sessions.get("another page"))
    begun = next(again)
    assert json.loads(begun["run"])["state"] == "running"
    assert all(json.loads(begun["pairs"])[side] for side in ("before", "after"))
    events.stop(mine)
    *_, end = again
    assert json.loads(end["run"])["state"] == "stopped" and len(json.loads(end["cards"])) == 1
    assert list(events.watch(mine)) == [{}]


def test_another_run_of_the_visitors_is_watched_in_all_their_pages(events, choices, form):
    mine = choices.sessions.come_back("page", KEY)
    first = events.train(mine, start="", **DRAWN, **{**form, "steps": 2000})
    while not json.loads(next(first)["run"])["step"]:
        pass
    *_, end = events.train(mine, start="", **DRAWN, **{**form, "target": "anime"})
    assert json.loads(end["run"])["step"] == 2
    *_, last = first
    assert json.loads(last["run"])["step"] == 2 and json.loads(last["run"])["state"] == "finished"
    titles = [json.loads(last["cards"])[i]["title"] for i in range(2)]
    assert titles == ["anime", "zombie"]  # what the first had made by then is kept too


@pytest.mark.parametrize("link", ["", "[", "7", "null", '{"seed": "x", "target": 7}', "[" * 9000])
def test_a_link_may_be_anything(events, link):
    assert "target" not in told(events, KEY, link)


def test_a_link_fills_the_form_unless_the_page_wrote_it(events, choices):
    choices.sessions.come_back("page", KEY).remember({"target": "anime", "seed": 3})
    link = {"source": "old person", "target": "zombie", "seed": 7}
    asked = told(events, KEY, json.dumps({**link, "own": False}))
    assert {name: asked[name] for name in link} == link
    own = json.dumps({**link, "own": True})
    back = told(events, KEY, own)
    assert (back["target"], back["seed"], back.get("source")) == ("anime", 3, None)
    assert told(events, OTHER, own)["target"] == "zombie"  # the server remembers nothing


def test_what_a_field_holds_is_checked_when_it_comes_back(events, choices):
    mine = choices.sessions.come_back("page", KEY)
    mine.remember({"steps": "many", "k": -1, "coarse": 99, "seeds": "?", "lr": 1e400})
    back = told(events, KEY)
    assert (
        back["steps"] == mine.service.worker.preset.config.steps
        and back["seeds"] == "?"
        and [back[name] for name in ("strength", *BANDS)] == [1.0] * 4
    )
    assert json.loads(back["pairs"])["seeds"] == list(range(1, 9))


def test_all_is_forgotten_at_once(events, choices, form):
    mine = choices.sessions.come_back("page", KEY)
    list(events.train(mine, start="", **DRAWN, **form))
    assert events.forget_all(mine, Visit("page", None), "") == {}
    changes = events.forget_all(mine, Visit("page", None), OTHER)
    assert changes["cards"] == "[]" and not mine.folder.exists()
    assert told(events, KEY)["cards"] == "[]"
    assert choices.sessions.get("page") is choices.sessions.come_back("new page", OTHER)


def frames() -> list[str]:
    """The functions of this project that are being called, the outermost first."""
    frame, names = sys._getframe(1), []
    while frame:
        file = Path(frame.f_code.co_filename)
        if ROOT in file.parents and "tests" not in file.parts and "venv" not in file.parts:
            names.append(f"{file.stem}.{frame.f_code.co_name}")
        frame = frame.f_back
    return names[::-1]


def test_from_a_click_to_adapt_there_are_at_most_six_calls(choices, events, form, monkeypatch):
    stacks = []

    class Thread(threading.Thread):
        def start(self):
            if self._target and "Context" in repr(self._target):
                stacks.append(frames())
            super().start()

    def adapt(*arguments):
        stacks.append([*frames(), "adapt.adapt"])
        return (step for step in ())

    monkeypatch.setattr(nada.serve.jobs.threading, "Thread", Thread)
    monkeypatch.setattr(nada.serve.jobs, "adapt", adapt)
    click = app.answering(events.train, choices.sessions)
    request = gr.Request(session_hash="me")
    list(click(request, start="", **DRAWN, **form))
    clicked, trained = stacks
    calls = [*clicked, *trained]
    assert calls[0] == "app.stream" and calls[-1] == "adapt.adapt"
    assert len(calls[1:]) <= 6, calls
