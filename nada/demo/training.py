"""What the training scripts share: options, a state that a re-run takes up again, pace, rates.

A job's settings are a frozen dataclass beside its script, from which its command line derives
(`parse_options`).
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.formats.files import written_whole

Settings = TypeVar("Settings")


def parse_options(
    kind: type[Settings], description: str, arguments: Sequence[str] | None
) -> Settings:
    """A job's settings as its command line gives them.

    Args:
        kind: a dataclass whose fields become the options, in order; those without a default are
            given by their place. `Annotated[type, "what it is"]` is a field with help, a tuple in
            it holds the values that are allowed, and a default of None means that the job chooses.
        description: what the script does, for `--help`.
        arguments: the command line without the script's name; None for that of this process.
    """
    parser = argparse.ArgumentParser(description=description)
    hints = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        name = one.name if one.default is MISSING else f"--{one.name.replace('_', '-')}"
        parser.add_argument(name, **_argument(hints[one.name], one.default))
    return kind(**vars(parser.parse_args(arguments)))


def _argument(hint: object, default: object) -> dict:
    """What `add_argument` has to know of a field: `hint` is a type or Annotated, or None too."""
    notes = getattr(hint, "__metadata__", ())
    hint = hint.__origin__ if notes else hint
    kind = get_args(hint)[0] if get_args(hint) else hint
    settings = {} if default is MISSING else {"default": default}
    settings["help"] = next((note for note in notes if isinstance(note, str)), None)
    if kind is bool:
        flag = argparse.BooleanOptionalAction if default is None else "store_true"
        return {**settings, "action": flag}
    choices = next((note for note in notes if isinstance(note, tuple)), None)
    return {**settings, "type": kind, "choices": choices}


def save_state(path: Path, parts: Mapping, step: int, **facts) -> None:
    """Save how far a training is.

    Args:
        path: the file to write.
        parts: modules and optimisers by name.
        step: steps that are done.
        facts: more to be written down.
    """
    states = {name: part.state_dict() for name, part in parts.items()}
    with written_whole(path, RuntimeError) as unfinished:
        torch.save({**states, **facts, "step": step}, unfinished)


def resume(path: Path, parts: Mapping, device: torch.device, **facts) -> int:
    """Take up a training that `save_state` wrote down.

    Args:
        path: the file.
        parts: modules and optimisers by name, loaded in place.
        device: where they are.
        facts: what must stand in the file, or nothing is loaded.

    Returns:
        The steps that are done; 0 where nothing was loaded.
    """
    if not path.exists():
        return 0
    saved = torch.load(path, map_location=device, weights_only=True)
    if any(saved[name] != value for name, value in facts.items()):
        return 0
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    return saved["step"]


def has_compiler() -> bool:
    """Whether `torch.compile` finds a compiler for the CPU."""
    return bool(shutil.which("g++") or shutil.which("c++"))


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where it is faster: on a GPU models so small are held up by other things."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cpu")


@torch.no_grad()
def fit_linear(head: nn.Linear, features: Tensor, truth: Tensor) -> None:
    """Fit a head by least squares with a little damping: for what was trained before, without it.

    Args:
        head: changed in place.
        features: [N, I], what it reads.
        truth: [N, O], what it should say.
    """
    ones = torch.ones(len(features), 1, device=features.device)
    damping = 0.1 * torch.eye(features.shape[1] + 1, device=features.device)
    table = torch.cat([torch.cat([features, ones], 1), damping])
    solution = torch.linalg.lstsq(table, F.pad(truth, (0, 0, 0, len(damping)))).solution
    head.weight.copy_(solution[:-1].T)
    head.bias.copy_(solution[-1])


class Pace:
    """Prints every `every` steps how a training loop gets on: smoothed loss, speed, time to go."""

    def __init__(self, steps: int, every: int, done: int = 0, label: str = ""):
        self.steps, self.every, self.done, self.label = steps, every, done, label
        self.since, self.loss = time.time(), None

    def __call__(self, step: int, loss: Tensor | float) -> None:
        """`step` steps are done, the last one with this loss, which is not waited for."""
        self.loss = loss if self.loss is None else 0.98 * self.loss + 0.02 * loss
        if step % self.every and step != self.steps:
            return
        self.loss = float(self.loss)
        now = time.time()
        pace = (now - self.since) / (step - self.done)
        self.since, self.done = now, step
        print(
            f"{self.label}step {step}/{self.steps}  loss {self.loss:.4f}  "
            f"{pace * 1e3:.0f} ms/step  eta {(self.steps - step) * pace / 60:.1f} min",
            flush=True,
        )


class Schedule:
    """How far a training is, from 0 to 1: by its steps, or by the clock where it must be over at
    `deadline` (as `time.time` counts)."""

    def __init__(self, steps: int, deadline: float = math.inf):
        self.steps, self.begun = steps, time.time()
        self.span = max(1.0, deadline - self.begun)

    def __call__(self, step: int) -> float:
        return min(1.0, max(step / self.steps, (time.time() - self.begun) / self.span))


def cosine_rate(progress: float) -> float:
    """Learning-rate factor: half a cosine from 1 to 0."""
    return 0.5 * (1 + math.cos(math.pi * progress))
