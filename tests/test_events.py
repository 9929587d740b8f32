"""The events of the page, with tiny models and without a browser: what changes, by its name."""

import inspect
import sys
import threading
from pathlib import Path

import gradio as gr
import pytest

import app
import nada.serve.jobs
from nada.checkpoint import save_generator
from nada.clip import save_clip
from nada.serve.events import WEIGHTS, PageEvents
from nada.serve.generators import GeneratorChoices
from nada.serve.models import Options
from nada.serve.validate import BadInput
from tests.helpers import tiny_generator
from tests.served import ROOT, WORDS

FORM = {"source": "photo", "target": "zombie", "steps": 2, "k": 2, "batch": 2}
LOOK = {"seeds": "1-2", "strength": 1.0, "sample_truncation": 0.7}
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
    yield choices.sessions.get("me")
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

    def note(event, *arguments, **values):
        changes = getattr(events, event)(session, *arguments, **values)
        for change in [changes] if isinstance(changes, dict) else changes:
            assert change
            seen.setdefault(event, set()).update(change)

    note("greet", **DRAWN)
    note("unfold", **{**form, "steps": -1})
    note("hint", **form)
    for target in ("zombie", "anime"):
        note("train", start="", **DRAWN, **{**form, "target": target})
        note("settle", **DRAWN)
    ids = [domain.id for domain in session.domains]
    note("look", **LOOK)
    note("more", **LOOK)
    note("back", 1, **LOOK)
    note("strip", **DRAWN)
    note("film", **LOOK)
    note("weigh", ids)
    note("mix", **LOOK, chosen=ids, **dict.fromkeys(WEIGHTS, 0.5))
    note("keep_mix")
    note("load", upload(session.domains.get(ids[0]).path), **LOOK)
    for act in ("open", "on", "forget"):
        note("act", {"act": act, "id": ids[0]}, **LOOK)
    for generator in (choices.name_of(choices.first), "nothing"):
        note("choose", generator, **DRAWN)
    methods = [name for name, _ in inspect.getmembers(events, inspect.ismethod) if name[0] != "_"]
    assert sorted([*seen, "leave"]) == methods
    for event, names in seen.items():
        assert names == wired[event], event


def upload(path) -> dict:
    """A file as gradio gives it."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_a_session_without_a_run_has_nothing_to_settle(events, session):
    assert events.settle(session, **DRAWN) == {}


def test_a_domain_is_gone_on_from_by_its_id(events, session, form):
    list(events.train(session, start="", **DRAWN, **form))
    events.settle(session, **DRAWN)
    (first,) = session.domains
    assert events.act(session, {"act": "on", "id": first.id}, **LOOK)["start"].props["value"] == (
        first.id
    )
    list(events.train(session, start=first.id, **DRAWN, **{**form, "target": "anime"}))
    events.settle(session, **DRAWN)
    assert [domain.metadata.get("started_from") for domain in session.domains] == [None, "zombie"]
    with pytest.raises(BadInput, match="not kept any more"):
        list(events.train(session, start="nobody", **DRAWN, **form))


def test_settling_twice_keeps_one_domain(events, session, form):
    list(events.train(session, start="", **DRAWN, **form))
    for _ in range(2):
        events.settle(session, **DRAWN)
    assert len(session.domains) == 1


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
