"""What a server does for its visitors, with tiny models and without a page."""

import pytest

import nada.memory
from nada.memory import TooLittleMemory, estimate, plans
from nada.serve.api import Api
from nada.serve.jobs import train
from nada.serve.models import Options
from nada.serve.service import Service
from nada.serve.sessions import Sessions
from nada.serve.validate import SPOKEN
from nada.serve.view import status
from tests.jobs import JOB


@pytest.fixture
def service(models):
    """A service whose runs are those of tiny models."""
    service = Service(Options("demo", device="cpu"))
    turn = service.worker.turn
    service.worker.train = lambda job, stop: train(lambda: models, job, stop, turn)
    return service


@pytest.fixture
def sessions(service):
    """The sessions of those who work with it."""
    sessions = Sessions(service)
    yield sessions
    sessions.forget("me")


def test_the_end_is_told_once_even_if_it_comes_between_a_look_and_its_telling(sessions):
    statuses = []
    run = sessions.get("me").train(JOB)
    for state in run.follow():
        assert run.finished.wait(60)
        statuses.append(status(run, state))
    assert [one["state"] for one in statuses] == ["starting", "finished"]
    assert [one["message"].split()[0] for one in statuses] == ["Getting", "Done:"]


def test_a_look_holds_together_whatever_has_happened_since(sessions):
    run = sessions.get("me").train(JOB)
    for _ in run.follow():
        run.finished.wait(60)
    late = status(run, "running")
    assert late["eta"] >= 0 and late["message"] == "Training: step 3 of 3."


SETTINGS = {"source": "photo", "target": "zombie", "steps": 2, "k": 2, "batch": 2}


def adapt(sessions):
    """The statuses that `/adapt` streams, with tiny models."""
    service = sessions.service
    settings = {**service.worker.preset.served(), **SETTINGS}
    results = Api(service, sessions).adapt(sessions.get("me"), **settings)
    return [status for _, status, _ in results]


def test_scripts_are_told_how_a_run_fits_into_memory(sessions, models, monkeypatch):
    assert adapt(sessions)[-1]["hints"] == []
    service = sessions.service
    job = service.job({**service.worker.preset.served(), **SETTINGS})
    config, views = job.preset.config, job.preset.guidance.views
    one_by_one = list(plans(models.generator, config))[1]
    needed = estimate(models.generator, models.clips, one_by_one, views)
    monkeypatch.setattr(nada.memory, "free_bytes", lambda device: needed)
    assert adapt(sessions)[-1]["hints"] == ["To fit into memory: 1 of 2 pictures at once."]


def test_what_cannot_fit_is_refused_in_a_sentence(sessions, monkeypatch):
    monkeypatch.setattr(nada.memory, "free_bytes", lambda device: 1000)
    with pytest.raises(SPOKEN, match=r"of memory at the least and .* are free"):
        adapt(sessions)
    assert TooLittleMemory in SPOKEN
