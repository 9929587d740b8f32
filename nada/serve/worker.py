"""Where a server's work is done: one piece at a time, here or on a device that is lent by the call.

Usually that is this process, with a lock around each step. Where a device is lent by the call (a
Space with shared GPUs), the decorator that borrows it is given as `gpu`: then the work goes to
another process, with plain data on the way there and back.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from nada.delta import Delta, Weight, blend
from nada.film import Key, frames
from nada.presets import Preset, preset_for
from nada.sample import sample
from nada.serve.jobs import Job, LoadModels, StopFile, TrainingEvent, train
from nada.serve.models import LENT, STORE, Download, Loaded, Options, ServedModels, load_models

Part = Path | Delta  # a domain file, or a domain of styles that has none
Blend = Sequence[tuple[Part, Weight]]  # domains and their weights; none is the base itself


# The work, beside `nada.serve.jobs.train`: functions of a module, called with plain data, so that
# they may run in another process.


def read(part: Part) -> Delta:
    """The domain of a part of a blend."""
    return part if isinstance(part, Delta) else Delta.load(part)


def draw_images(load: LoadModels, parts: Blend, seeds, truncation: float) -> Tensor:
    """Images of the seeds by the base with domains blended in, [N, 3, H, W] on the CPU.

    Raises:
        DeltaError: a domain that cannot be read, or of another generator.
    """
    generator = load().generator
    deltas = [(read(part), weight) for part, weight in parts if weight]
    return sample(blend(generator, deltas) if deltas else generator, seeds, truncation).cpu()


def draw_film(load: LoadModels, parts: Blend, keys: Sequence[Key], **options) -> Tensor:
    """The frames of `nada.film.frames`, [N, 3, H, W] on the CPU."""
    deltas = [(read(part), weight) for part, weight in parts]
    return torch.stack(list(frames(load().generator, deltas, keys, **options)))


def seconds_to_train(load: LoadModels, job: Job, stop: StopFile) -> int:
    """For how long to borrow a device: measured on none, generous, two minutes at most."""
    config = job.preset.config
    return min(120, 20 + round(config.steps * config.batch * 0.05))


class Worker:
    """The work with one generator and its CLIP models.

    Args:
        options: which models.
        gpu: a decorator such as `spaces.GPU`, called with a duration in seconds or a function of
            the arguments that tells it; None where the work is done in this process.
        turn: held during each piece of work, shared by all that work on the same device; a lock of
            its own by default, where a device is lent none.
    """

    def __init__(
        self,
        options: Options,
        gpu: Callable | None = None,
        turn: AbstractContextManager | None = None,
    ):
        self.options, self._lent = options, gpu is not None
        self.turn = turn or (nullcontext() if gpu else threading.Lock())
        load = partial(load_models, options, self._lent)
        self._draw, self._film = partial(draw_images, load), partial(draw_film, load)
        self._train = partial(train, load, turn=self.turn)
        if gpu:  # a lock cannot go to another process
            self._draw = partial(gpu(duration=15)(draw_images), load)
            self._film = partial(gpu(duration=60)(draw_film), load)
            self._train = partial(gpu(duration=seconds_to_train)(train), load)

    @property
    def preset(self) -> Preset:
        """The settings that suit the generator."""
        return preset_for(self.options.generator).preset

    @property
    def is_ready(self) -> bool:
        """Whether the models are there; a request must not wait for a download of theirs."""
        return STORE.is_ready(self.options)

    @property
    def download(self) -> Download | None:
        """How far a download of the models is, while there is one."""
        return STORE.download(self.options)

    def loaded(self) -> Loaded:
        """The models with what is known of them, loaded if need be."""
        return STORE.get(self.options)

    def models(self) -> ServedModels:
        """The models in this process, loaded if need be."""
        return load_models(self.options)

    def train(self, job: Job, stop: StopFile) -> Iterator[TrainingEvent]:
        """`nada.serve.jobs.train`, step by step between the other work."""
        return self._train(job, stop)

    def draw(self, parts: Blend, seeds: Sequence[int], truncation: float) -> Tensor:
        """Images of seeds, [N, 3, H, W] in [-1, 1] on the CPU."""
        with self.turn:
            return self._draw(parts, list(seeds), truncation)

    def film(self, parts: Blend, keys: Sequence[Key], **options) -> Tensor:
        """Frames [N, 3, H, W] in [-1, 1] on the CPU; see `nada.film.frames`."""
        with self.turn:
            return self._film(parts, keys, **options)

    def device_name(self) -> str:
        """What the work is done on, for people."""
        return LENT if self._lent else str(self.models().generator.mean_latent.device)
