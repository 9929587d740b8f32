"""Many trials: in processes of this machine, or as jobs of a Ray cluster."""

import json
import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from nada.checkpoint import CHECKPOINTS
from nada.experiments.folder import RESULT, home
from nada.experiments.spec import Trial
from nada.experiments.trial import perform
from nada.experiments.workbench import Workbench
from nada.formats.files import written_whole
from nada.machine import keep_freed_memory, pick_device

Outcome = tuple[Trial, dict | Exception]  # a trial and its result, or what went wrong


@lru_cache(maxsize=1)
def _workbench(device: str) -> Workbench:
    """That of this process."""
    return Workbench(device)


# Here


def in_processes(
    trials: Sequence[Trial], folder: Path, device: str, jobs: int, threads: int | None = 1
) -> Iterator[Outcome]:
    """The trials, `jobs` at once in processes of this machine; in the order in which they end.

    Args:
        folder: of the sweep.
        threads: of each process, see `perform`.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_prepare_process)
    try:
        waiting = {
            pool.submit(_perform_here, trial, home(folder, trial.id), device, threads): trial
            for trial in trials
        }
        for done in as_completed(waiting):
            yield waiting[done], done.exception() or done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _perform_here(trial: Trial, folder: Path, device: str, threads: int | None) -> dict:
    return perform(trial, folder, _workbench(device), threads)


def _prepare_process() -> None:
    """Freed memory is kept, as by the command itself, and a killed sweep must not leave processes
    behind that work on, beside those of the next."""
    keep_freed_memory()
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# On a cluster


def through_ray(
    trials: Sequence[Trial], folder: Path, device: str, address: str
) -> Iterator[Outcome]:
    """The trials as independent jobs of a Ray cluster ("local" starts one here); they send their
    files back, so that the nodes need no common disk. The library travels with them.

    Raises:
        ValueError: Ray is not installed, or there is no cluster at `address`.
    """
    ray = _connected_ray(address)
    try:
        needs = {"num_cpus": 1, "num_gpus": int(pick_device(device).type == "cuda")}
        job = ray.remote(**needs)(_perform_away)
        waiting = {job.remote(asdict(trial), device): trial for trial in trials}
        while waiting:
            (done,), _ = ray.wait(list(waiting), num_returns=1)
            trial = waiting.pop(done)
            try:
                yield trial, _bring_home(ray.get(done), home(folder, trial.id))
            except ray.exceptions.RayError as error:
                yield trial, getattr(error, "cause", None) or error
    finally:
        ray.shutdown()


def _connected_ray(address: str):
    try:
        import ray
    except ImportError as error:
        raise ValueError(
            "--ray needs the package ray, which is not installed: pip install ray."
        ) from error
    root = CHECKPOINTS.parent
    away = [".git", "build", "tests", "__pycache__", ".venv", "venv", "*.png"]
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            include_dashboard=False if address == "local" else None,
            runtime_env={"working_dir": str(root), "excludes": away},
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ValueError(
            f"There is no Ray cluster at {address!r} ({reason}): start one with `ray start "
            "--head`, or use --ray local."
        ) from error
    return ray


def _perform_away(trial: dict, device: str) -> dict[str, bytes]:
    """A trial on another machine: its files by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        perform(Trial.from_dict(trial), folder, _workbench(device))
        return {path.name: path.read_bytes() for path in folder.iterdir()}


def _bring_home(files: dict[str, bytes], folder: Path) -> dict:
    """Write the files of a trial, the one that makes it count last; its result."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in sorted(files, key=lambda name: name == RESULT):
        with written_whole(folder / name) as unfinished:
            unfinished.write_bytes(files[name])
    return json.loads(files[RESULT])
