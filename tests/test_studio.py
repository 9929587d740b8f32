"""What a server does for its visitors, with tiny models and without a page."""

import pytest

from nada.device import Options
from nada.runs import train
from nada.studio import Studio
from nada.view import status
from tests.test_runs import JOB, models  # noqa: F401


@pytest.fixture
def studio(models):  # noqa: F811
    """A studio whose runs are those of tiny models."""
    studio = Studio(Options("demo", device="cpu"))
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
