"""One trial: train, look along the way, measure, write its folder."""

import json
import platform
import shutil
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch

from nada.adapt import DivergedError, Progress, adapt, trainable_copy
from nada.delta import diff
from nada.demo.strangers import style_of
from nada.demo.styles import render
from nada.experiments.folder import (
    CURVE,
    DELTA,
    ERROR,
    GRID,
    RESULT,
    SETTINGS,
    write_json,
    write_text,
)
from nada.experiments.measure import PSI, ShownPeople, references
from nada.experiments.spec import Trial
from nada.experiments.variants import (
    CachingGenerator,
    RandomLayers,
    UnpairedGenerator,
    select_by_w_shift_off_by_one,
)
from nada.experiments.workbench import SHEET_SEEDS, Workbench
from nada.facts import run_facts
from nada.formats.files import written_whole
from nada.generator import Generator
from nada.guidance import Target
from nada.layers import SELECTORS
from nada.presets import prepare
from nada.sample import image_grid, sample

BYTES_PER_PIXEL = 3 * 4  # of an image in float32


def perform(trial: Trial, folder: Path, workbench: Workbench, threads: int | None = 1) -> dict:
    """Train, measure, write the trial's files into `folder`, which is emptied first; the result.

    A trial that diverges is a result too: its last good weights are measured, and `diverged` says
    what happened. Any other error leaves its trace in `error.txt` instead of a result.

    Args:
        threads: of PyTorch in this process from now on; with one, as usual, the result does not
            depend on what goes on beside the trial. None leaves them as they are.
    """
    if threads:
        torch.set_num_threads(threads)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_json(folder / SETTINGS, {"id": trial.id, **asdict(trial)})
    try:
        return _perform(trial, folder, workbench)
    except Exception:
        write_text(folder / ERROR, traceback.format_exc())
        raise


def _perform(trial: Trial, folder: Path, workbench: Workbench) -> dict:
    adapted = trainable_copy(workbench.base(trial), trial.preset.config)
    last, diverged, images = train_and_look(trial, workbench, adapted, folder / CURVE)
    save_domain(trial, workbench, adapted, last, folder)
    result = {
        "id": trial.id,
        **asdict(trial),
        "figures": workbench.figures(trial, images),
        "steps_done": last.step if last else 0,
        "layers": list(last.layers) if last else [],
        "seconds": round(last.seconds, 2) if last else 0.0,
        "diverged": diverged,
        "made_by": f"torch {torch.__version__} on {_device_name(workbench.device)}",
    }
    write_json(folder / RESULT, result)
    return result


def train_and_look(
    trial: Trial, workbench: Workbench, adapted: Generator, curve: Path
) -> tuple[Progress | None, str | None, ShownPeople]:
    """Train `adapted` and write a line to `curve` at each look; the last step, why the trial
    diverged or None, and what the generator shows in the end.

    `Progress.seconds` counts the looks; the last step returned has the time of the steps alone.
    """
    measure, observer = trial.measure, workbench.observer(trial)
    probe = workbench.probe(observer, trial.target, measure.people)
    everybody = max(measure.people, measure.samples)
    last, looking = None, 0.0
    with curve.open("w", encoding="utf-8") as file:

        def look(images: ShownPeople, **facts) -> None:
            print(json.dumps(facts | probe.figures(images)), file=file, flush=True)

        print(json.dumps({"step": 0} | probe.start), file=file, flush=True)
        try:
            for progress in steps(trial, workbench, adapted):
                last = replace(progress, seconds=progress.seconds - looking)
                ended = progress.step == progress.steps
                if progress.step % measure.every and not ended:
                    continue
                start = time.monotonic()
                images = observer.show(adapted, everybody if ended else probe.count)
                look(images, step=last.step, loss=last.loss, terms=last.terms,
                     layers=last.layers, seconds=round(last.seconds, 2))  # fmt: skip
                looking += time.monotonic() - start
        except DivergedError as error:
            return last, str(error), observer.show(adapted, everybody)
    return last, None, images


def steps(trial: Trial, workbench: Workbench, adapted: Generator) -> Iterator[Progress]:
    """The steps of the training."""
    preset = trial.preset
    base = workbench.base(trial)
    loss, usual = prepare(workbench.guides(trial), target(trial, base), preset, base)
    twin = frozen_twin(trial, workbench)
    yield from adapt(twin, adapted, loss, preset.config, selector(trial, usual))


def target(trial: Trial, base: Generator) -> Target:
    """What the trial moves to: the target's name, pictures of it, or both."""
    pictures = references(trial, base.z_dim)
    return Target(
        trial.target if trial.settings.get("words", True) else "",
        render(pictures, style_of(trial.target), base.size) if len(pictures) else None,
    )


def selector(trial: Trial, usual: partial) -> Callable:
    """The trial's choice of layers; `usual` is what `prepare` gave."""
    others = {
        "w_shift_off_by_one": select_by_w_shift_off_by_one,
        "random": RandomLayers(zlib.crc32(f"{trial.target} {trial.seed}".encode())),
    }
    return partial({**SELECTORS, **others}[trial.settings["method"]], **usual.keywords)


def frozen_twin(trial: Trial, workbench: Workbench) -> Generator:
    """A copy of the base that does not match the other twin where the trial asks for that; else the
    base itself, as `CachingGenerator` where there is room for all its images."""
    base = workbench.base(trial)
    noise = trial.settings["noise"] == "independent"
    crossover = trial.settings["crossover"] == "unpaired"
    if noise or crossover:
        return UnpairedGenerator.like(base, noise, crossover, trial.seed)
    config = trial.preset.config
    pixels = config.steps * config.batch * config.synthesis_options(base).resolution ** 2
    fits = pixels * BYTES_PER_PIXEL <= CachingGenerator.ROOM
    return workbench.caching_twin(base) if fits else base


def save_domain(
    trial: Trial, workbench: Workbench, adapted: Generator, last: Progress | None, folder: Path
) -> None:
    """Write the domain file, and some people, frozen above and adapted below."""
    base, own = workbench.base(trial), ("method", "noise", "noise_strength", "crossover")
    clips, wanted = workbench.guides(trial), target(trial, base)
    facts = run_facts(clips, wanted, trial.preset, last) if last else {}
    facts |= {name: trial.settings[name] for name in own}
    diff(base, adapted, facts).save(folder / DELTA)
    rows = torch.cat([workbench.sheet(base), sample(adapted, SHEET_SEEDS, PSI)])
    with written_whole(folder / GRID) as unfinished:
        image_grid(rows, len(SHEET_SEEDS)).save(unfinished, format="PNG")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
