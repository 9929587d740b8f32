"""Training jobs of moments, and waiting for them."""

import time
from dataclasses import replace

from nada.presets import PRESETS
from nada.serve.jobs import Job

CONFIG = replace(PRESETS["demo"].config, steps=3, batch=2, select_batch=2, preview_every=1)
PRESET = replace(PRESETS["demo"], config=CONFIG).with_({"k": 2})
JOB = Job("zombie", PRESET)


def with_config(**changes) -> Job:
    return Job("zombie", replace(PRESET, config=replace(CONFIG, **changes)))


ENDLESS = with_config(steps=100_000)


def finished(run):
    assert run.finished.wait(60)
    return run


def stepped(run):
    """A run that has done a step."""
    deadline = time.monotonic() + 60
    while run.progress is None:
        assert time.monotonic() < deadline and not run.finished.is_set(), run.error
        time.sleep(0.01)
    return run
