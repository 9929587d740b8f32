"""Runs in the background: every way to end, who owns what, and what is left behind."""

import gc
import pickle
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import nada.memory
import nada.sample
import nada.serve.jobs
from nada.adapt import DivergedError
from nada.checkpoint import fingerprint
from nada.clip import PromptError
from nada.delta import Delta, DeltaError, blend
from nada.facts import measured_facts
from nada.generator import Generator
from nada.guidance import Target
from nada.memory import TooLittleMemory, estimate, plans
from nada.sample import ImageError, sample
from nada.serve.jobs import Job, StopFile, train
from nada.serve.sessions import Sessions
from tests.helpers import equal, wait_for
from tests.jobs import CONFIG, ENDLESS, JOB, PRESET, finished, stepped, with_config


@pytest.fixture
def start(models):
    """Start a job, among visitors and under a lock of the test's own."""
    turn = threading.Lock()
    worker = SimpleNamespace(train=lambda job, stop: train(lambda: models, job, stop, turn))
    sessions = Sessions(SimpleNamespace(worker=worker, thumbnails=lambda path: ()))

    runs = []

    def begin(job=JOB, id="me"):
        runs.append(run := sessions.get(id).train(job))
        return run

    begin.sessions, begin.turn = sessions, turn
    yield begin
    for id in list(sessions._tabs):
        sessions.forget(id)
    for run in runs:  # none works on in the next test
        run.finished.wait(60)


def test_a_run_leaves_a_domain_that_draws_what_it_showed(start, models):
    before = fingerprint(models.generator)
    run = finished(start())
    assert (run.state, run.error, run.progress.step, len(run.losses)) == ("finished", None, 3, 3)
    delta = Delta.load(run.domain)
    assert delta.metadata["target"] == "zombie" and delta.metadata["steps_done"] == 3
    adapted = blend(models.generator, [(delta, 1.0)])
    assert torch.equal(run.after, sample(adapted, CONFIG.preview_seeds, CONFIG.preview_psi))
    source = sample(models.generator, CONFIG.preview_seeds, CONFIG.preview_psi)
    assert torch.equal(run.before, source) and not torch.equal(run.after, source)
    assert fingerprint(models.generator) == before


def test_a_run_towards_pictures_keeps_none_of_them(start, models):
    colours = torch.rand(2, 3, 1, 1).expand(-1, -1, 20, 20)
    run = finished(start(replace(JOB, target=Target("", colours, ("a", "b")))))
    assert run.state == "finished" and run.job.target == "2 pictures"
    told = Delta.load(run.domain).metadata
    assert told["pictures"] == {"count": 2, "sha256": ["a", "b"]} and told["target"] == ""
    assert run.domain.name == "2-pictures.safetensors"
    pickle.loads(pickle.dumps(replace(JOB, target=Target("", colours))))  # for another process


def test_a_stopped_run_keeps_what_it_has(start, models):
    run = stepped(start(ENDLESS))
    run.stop.set()
    assert finished(run).state == "stopped" and 0 < run.progress.step < 100_000
    delta = Delta.load(run.domain)
    assert delta.metadata["steps_done"] == run.progress.step
    adapted = blend(models.generator, [(delta, 1.0)])
    assert torch.equal(run.after, sample(adapted, CONFIG.preview_seeds, CONFIG.preview_psi))


def test_a_run_stopped_before_its_first_step_has_no_domain(start):
    with start.turn:  # nobody gets to do anything
        run = start()
        run.stop.set()
    assert finished(run).state == "stopped" and run.domain is None and run.progress is None
    assert torch.equal(run.before, run.after)


def test_the_clock_stops_a_run(start, monkeypatch):
    monkeypatch.setattr(nada.serve.jobs, "MAX_SECONDS", 0.0)
    assert finished(start(ENDLESS)).state == "stopped"


def test_a_job_that_cannot_be_done_fails_with_its_reason(start):
    run = finished(start(Job("", PRESET)))
    assert run.state == "failed" and isinstance(run.error, PromptError) and run.domain is None


def test_a_run_whose_numbers_explode_keeps_the_last_good_ones(start, monkeypatch):
    factors = iter([1.0, 1.0, float("nan")])
    monkeypatch.setattr(
        nada.serve.jobs,
        "prepare",
        lambda *_: (lambda _, adapted: adapted.mean() * next(factors), None),
    )
    run = finished(start())
    assert run.state == "failed" and isinstance(run.error, DivergedError)
    delta = Delta.load(run.domain)  # refuses what is no number
    assert delta.metadata["steps_done"] == 2 and delta.tensors


def test_an_owner_has_one_run_and_nobody_elses(start):
    first = stepped(start(ENDLESS, "one"))
    second, other = start(JOB, "one"), start(ENDLESS, "two")
    assert finished(first).state == "stopped" and finished(second).state == "finished"
    sessions = start.sessions
    assert sessions.get("one").run is second and sessions.get("two").run is other
    assert sessions.get("three").run is None and sessions.get(None).run is None
    assert not other.stop.is_set()


def test_a_forgotten_run_stops_and_takes_its_files_along(start):
    run = stepped(start(ENDLESS))
    start.sessions.forget("me")
    finished(run)
    wait_for(lambda: not run.folder.parent.exists())


def test_who_left_long_ago_is_there_until_the_run_has_answered(start, monkeypatch):
    run, session = stepped(start(ENDLESS)), start.sessions.get("me")
    session.seen -= 1e6
    run.stop.set()
    finished(run)
    start.sessions.purge()
    assert "me" in start.sessions and run.domain.exists()
    monkeypatch.setattr("nada.serve.session.ANSWER_SECONDS", 0)
    start.sessions.purge()
    assert "me" not in start.sessions


def test_snapshots_spread_over_a_run_wherever_it_is_stopped():
    kept = []
    for step in range(1, 2001):
        if not nada.serve.jobs.snapshot_due(step) and step < 2000:
            continue
        kept.append(step)
        if len(kept) > nada.serve.jobs.MAX_SNAPSHOTS:
            kept.remove(nada.serve.jobs.snapshot_to_drop(kept))
        gaps = [after - before for before, after in zip([0, *kept], kept)]
        assert len(kept) == min(step, 8) and kept[-1] == step  # as many as there may be
        assert max(gaps) <= max(1, step // 3), kept  # and none of them far from the next
    assert kept == [256, 512, 768, 1024, 1280, 1536, 1792, 2000]


def test_snapshots_are_kept_and_draw_what_was_shown(start, models, monkeypatch):
    monkeypatch.setattr(nada.serve.jobs, "MAX_SNAPSHOTS", 3)
    run = finished(start(with_config(steps=20)))
    assert list(run.snapshots) == [8, 16, 20] and run.domain == run.snapshots[20]
    assert sorted(run.domain.parent.parent.glob("*/*.safetensors")) == list(run.snapshots.values())
    told = [Delta.load(path).metadata for path in run.snapshots.values()]
    assert [one["steps_done"] for one in told] == [8, 16, 20]
    assert (
        told[-1]["quality"]
        == measured_facts(
            blend(models.generator, [(Delta.load(run.domain), 1.0)]), models.clips[0], "zombie"
        )["quality"]
        and "quality" not in told[0]
    )


def test_snapshots_stay_within_their_room(start, monkeypatch):
    monkeypatch.setattr(nada.serve.jobs, "SNAPSHOT_BYTES", 1)
    run = finished(start(with_config(steps=9)))
    assert list(run.snapshots) == [9] and run.domain.is_file()


def test_a_run_takes_the_plan_that_fits_and_says_so(start, models, monkeypatch):
    plenty = finished(start())
    assert plenty.plan == "" and Delta.load(plenty.domain).metadata["config"]["micro_batch"] == 0
    views = PRESET.guidance.views
    one_by_one = list(plans(models.generator, CONFIG))[1]
    needed = estimate(models.generator, models.clips, one_by_one, views)
    assert needed < estimate(models.generator, models.clips, CONFIG, views)
    monkeypatch.setattr(nada.memory, "free_bytes", lambda device: needed)
    run = finished(start(id="two"))
    assert run.plan == "To fit into memory: 1 of 2 pictures at once." and run.error is None
    delta = Delta.load(run.domain)
    assert delta.metadata["config"]["micro_batch"] == 1
    for name, tensor in Delta.load(plenty.domain).tensors.items():  # the same gradient
        torch.testing.assert_close(delta.tensors[name], tensor, rtol=1e-3, atol=1e-3)


def test_a_run_that_no_plan_fits_is_refused_before_its_first_step(start, monkeypatch):
    monkeypatch.setattr(nada.memory, "free_bytes", lambda device: 1000)
    run = finished(start())
    assert run.state == "failed" and isinstance(run.error, TooLittleMemory)
    assert run.domain is None and run.progress is None and run.before is None


def test_a_run_goes_on_from_a_domain(start, models):
    first = finished(start())
    go_on = replace(JOB, target="pencil sketch", start=first.domain)
    second = finished(start(go_on, "two"))
    told = Delta.load(second.domain).metadata
    assert (told["target"], told["started_from"]) == ("pencil sketch", "zombie")
    assert torch.equal(second.before, first.before)  # what it is compared with is the base
    zero = finished(start(replace(JOB, start=first.domain, preset=slow()), "three"))
    mine, its = (Delta.load(run.domain).tensors for run in (zero, first))
    assert all((mine[key] - its[key]).abs().max() < 1e-4 for key in its)  # hardly a step further


def slow():
    return replace(PRESET, config=replace(CONFIG, lr=1e-9, style_lr=1e-9, final_lr=None, steps=1))


def test_a_start_of_another_generator_fails_with_its_reason(start, tmp_path):
    Delta("0" * 64, {}, {}).save(tmp_path / "other.safetensors")
    run = finished(start(replace(JOB, start=tmp_path / "other.safetensors")))
    assert run.state == "failed" and isinstance(run.error, DeltaError) and run.domain is None


def test_what_training_tells_survives_a_trip_to_another_process(models, tmp_path):
    stop = pickle.loads(pickle.dumps(StopFile(tmp_path / "stop")))
    events = [pickle.loads(pickle.dumps(event)) for event in train(lambda: models, JOB, stop)]
    assert [event.progress.step for event in events[1:]] == [1, 2, 3, 3]
    assert events[-1].end == "finished" and events[-1].snapshot.tensors
    stop.set()
    assert [event.end for event in train(lambda: models, ENDLESS, stop)] == [None, "stopped"]


def test_steps_wait_for_their_turn(start):
    run = stepped(start(ENDLESS))
    with start.turn:
        step = run.progress.step
        time.sleep(0.2)
        assert run.progress.step <= step + 1  # the note of a step may come after its turn
    run.stop.set()
    assert finished(run).progress.step >= step


def test_one_run_trains_at_a_time_and_the_next_when_it_ends(start):
    runs = [stepped(start(ENDLESS, "one")), start(JOB, "two"), start(JOB, "three")]
    time.sleep(1.0)
    assert [run.state for run in runs] == ["running", "waiting", "waiting"]
    assert [run.before_it for run in runs] == [0, 1, 2]
    runs[1].stop.set()
    assert finished(runs[1]).state == "stopped" and runs[1].domain is None
    runs[0].stop.set()
    assert finished(runs[2]).state == "finished" and finished(runs[0]).state == "stopped"


def test_two_runs_at_once_do_not_change_each_others_results(start, models, tmp_path):
    job = with_config(steps=6)
    alone = Delta.load(finished(start(job, "one")).domain)
    stops = [StopFile(tmp_path / name) for name in ("one", "two")]
    steps = zip(*(train(lambda: models, job, stop) for stop in stops))  # in turns
    *_, ends = steps
    for end in ends:
        assert equal(end.snapshot.tensors, alone.tensors)


def test_runs_leave_no_generator_behind(start):
    def count():
        gc.collect()
        return sum(type(thing) is Generator for thing in gc.get_objects())

    finished(start())
    before = count()
    for _ in range(5):
        stepped(start(ENDLESS))  # stops the one before
    start.sessions.forget("me")
    deadline = time.monotonic() + 30  # until the last one has seen that it should stop
    while count() > before and time.monotonic() < deadline:
        time.sleep(0.1)
    assert count() <= before  # fewer: what earlier tests left has gone meanwhile


@pytest.mark.parametrize("preview_every, error", [(1, DivergedError), (0, ImageError)])
def test_a_run_whose_images_are_none_any_more_keeps_the_last_that_were(
    start, monkeypatch, preview_every, error
):
    drawn = iter([True] * 4)  # before, and after steps 1 to 3

    def draws(images):
        if not next(drawn, False):
            raise ImageError("The pictures are not pictures any more.")
        return images

    monkeypatch.setattr(nada.sample, "check_images", draws)
    run = finished(start(with_config(steps=9, preview_every=preview_every)))
    assert run.state == "failed" and isinstance(run.error, error)
    assert run.plan == "The domain is that of step 3: later ones draw no images."
    assert Delta.load(run.domain).metadata["steps_done"] == 3
    assert run.after.isfinite().all() and run.domain.parent.name == "00003"
