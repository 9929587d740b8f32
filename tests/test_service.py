"""What a server does for its visitors, with tiny models and without a page."""

import pytest

import nada.memory
from nada.memory import TooLittleMemory, estimate, plans
from nada.serve.api import Api
from nada.serve.jobs import train
from nada.serve.service import Service
from nada.serve.validate import SPOKEN
from nada.serve.view import status
from nada.serve.worker import Options
from tests.jobs import JOB


@pytest.fixture
def studio(models):
    """A studio whose runs are those of tiny models."""
    studio = Service(Options("demo", device="cpu"))
    studio.device.train = lambda job, stop: train(models, job, stop, studio.device.turn)
    yield studio
    studio.visitors.forget("me")


def test_the_end_is_told_once_even_if_it_comes_between_a_look_and_its_telling(studio):
    told = []
    for run, state in studio.follow("me", JOB):
        assert run.finished.wait(60)
        told.append(status(run, state))
    assert [one["state"] for one in told] == ["starting", "finished"]
    assert [one["message"].split()[0] for one in told] == ["Getting", "Done:"]


def test_a_look_holds_together_whatever_has_happened_since(studio):
    for run, _ in studio.follow("me", JOB):
        run.finished.wait(60)
    late = status(run, "running")
    assert late["eta"] >= 0 and late["message"] == "Training: step 3 of 3."


SETTINGS = {"source": "photo", "target": "zombie", "steps": 2, "k": 2, "batch": 2}


def adapt(studio):
    """The statuses that `/adapt` streams, with tiny models."""
    settings = {**studio.device.preset.served(), **SETTINGS}
    return [status for _, status, _ in Api(studio).adapt("me", **settings)]


def test_scripts_are_told_how_a_run_fits_into_memory(studio, models, monkeypatch):
    assert adapt(studio)[-1]["hints"] == []
    job = studio.job({**studio.device.preset.served(), **SETTINGS})
    config, views = job.preset.config, job.preset.guidance.views
    one_by_one = list(plans(models.generator, config))[1]
    needed = estimate(models.generator, models.clips, one_by_one, views)
    monkeypatch.setattr(nada.memory, "free_bytes", lambda device: needed)
    assert adapt(studio)[-1]["hints"] == ["To fit into memory: 1 of 2 pictures at once."]


def test_what_cannot_fit_is_refused_in_a_sentence(studio, monkeypatch):
    monkeypatch.setattr(nada.memory, "free_bytes", lambda device: 1000)
    with pytest.raises(SPOKEN, match=r"of memory at the least and .* are free"):
        adapt(studio)
    assert TooLittleMemory in SPOKEN
