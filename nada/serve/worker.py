"""Where a server's work is done: the models it holds, and one piece of work at a time.

Usually that is this process, with a lock around each step. Where a device is lent by the call (a
Space with shared GPUs), the decorator that borrows it is given as `gpu`: then the work goes to
another process, with plain data on the way there and back.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from torch import Tensor

from nada.checkpoint import load_generator
from nada.clip import CLIP, load_clips
from nada.delta import Delta, blend
from nada.film import Key, frames
from nada.formats.catalogue import ResolvedFile, choose, locate
from nada.generator import Generator
from nada.machine import pick_device
from nada.presets import Preset, preset_for
from nada.sample import sample
from nada.serve.jobs import Job, ServedModels, StopFile, TrainingEvent, train

LENT = "a GPU lent for each run"

Blend = Sequence[tuple[Path, float]]  # domain files and their weights; none is the base itself


@dataclass(frozen=True)
class Options:
    """What to serve. generator: a source as `nada.formats.catalogue.locate` takes it. clip: as
    `nada.clip.load_clips`, or "auto" for what suits the generator. device: of the process that
    serves. reason: why this generator, a sentence for the page, "" where it was asked for.
    """

    generator: str = "demo"
    clip: str = "auto"
    device: str = "auto"
    reason: str = ""

    @property
    def base(self) -> str:
        """The key of PRESETS and of the examples that fits the generator."""
        return preset_for(self.generator).name

    @property
    def clips(self) -> str:
        """The CLIP models to load: the bundled ones know the bundled generator's world alone."""
        return preset_for(self.generator).clip if self.clip == "auto" else self.clip


def choose_options(generator: str, clip: str, device: str, lent: bool = False) -> Options:
    """What to serve where the generator may be "auto": the best that can be had here; `device` and
    `lent` as `gpu_of` takes them."""
    choice = choose(generator, gpu_of(device, lent))
    return Options(choice.source, clip, device, choice.reason)


def gpu_of(device: str, lent: bool = False) -> str:
    """The GPU that does the work, for people; "" if none does.

    lent: whether a device is lent by the call, which this process does not see; `device` is then
    only of the process that serves.
    """
    if lent:
        return LENT
    found = pick_device(device)
    return "" if found.type == "cpu" else f"a GPU ({found})"


@dataclass(frozen=True)
class Loaded:
    """The models of a server, and where the generator came from."""

    models: ServedModels
    place: ResolvedFile


@dataclass(frozen=True)
class Download:
    """How a download stands: bytes there, bytes in all (None if unknown), of what."""

    done: int
    total: int | None
    name: str

    def __str__(self) -> str:
        if not self.total:
            return f"Downloading {self.name}: {self.done / 2**20:.1f} MB."
        amount = f"{self.done / 2**20:.1f} of {self.total / 2**20:.1f} MB"
        return f"Downloading {self.name}: {amount}, {100 * self.done / self.total:.0f} %."


_loaded: dict[Options, Loaded] = {}
_loading = threading.Lock()  # two visitors who come at once load the models once
_downloads: dict[Options, Download] = {}


def load(options: Options) -> Loaded:
    """The models of a server, loaded by whoever asks first.

    Raises:
        ValueError: a model or a device that cannot be had.
    """
    if options in _loaded:  # whoever uses these does not wait for a download of others
        return _loaded[options]
    with _loading:
        if options not in _loaded:
            try:
                _loaded[options] = _load(options)
            finally:
                _downloads.pop(options, None)
        return _loaded[options]


def _load(options: Options) -> Loaded:
    device, report = pick_device(options.device), partial(_tell, options)
    place = locate(options.generator, progress=report)
    generator = load_generator(place, device)
    clips = _clips_of_another(options) or load_clips(options.clips, device, progress=report)
    return Loaded(ServedModels(generator, clips), place)


def _clips_of_another(options: Options) -> Sequence[CLIP]:
    """The CLIP models that another generator was loaded with, if they are the same ones."""
    for other, loaded in _loaded.items():
        if (other.clips, other.device) == (options.clips, options.device):
            return loaded.models.clips
    return ()


def _tell(options: Options, done: int, total: int | None, name: str) -> None:
    _downloads[options] = Download(done, total, name)


def load_models(options: Options) -> ServedModels:
    """`load`, without where they came from."""
    return load(options).models


@cache
def _borrowed(options: Options) -> ServedModels:
    """The models on the device that this process was lent; a process may be used again."""
    return load_models(options).to(pick_device("auto"))


# The work. Module-level functions of plain data: they may be called in another process.


def train_on(
    options: Options, borrowed: bool, job: Job, stop: StopFile, turn=None
) -> Iterator[TrainingEvent]:
    """`nada.serve.jobs.train` with the server's models."""
    yield from train(_models(options, borrowed), job, stop, turn)


def draw_on(options: Options, borrowed: bool, recipe: Blend, seeds, psi: float) -> Tensor:
    """Pictures of the seeds by the base with domains blended in, [N, 3, H, W] on the CPU."""
    return sample(mix(_models(options, borrowed).generator, recipe), seeds, psi).cpu()


def film_on(options: Options, borrowed: bool, recipe: Blend, keys: Sequence[Key], **film) -> Tensor:
    """The frames of `nada.film.frames`, on the CPU."""
    deltas = [(Delta.load(path), weight) for path, weight in recipe]
    return frames(_models(options, borrowed).generator, deltas, keys, **film)


def _models(options: Options, borrowed: bool) -> ServedModels:
    return _borrowed(options) if borrowed else load_models(options)


def mix(generator: Generator, recipe: Blend) -> Generator:
    """The generator with domains blended in; itself where there are none.

    Raises:
        DeltaError: a domain that cannot be read, or of another generator.
    """
    parts = [(Delta.load(path), weight) for path, weight in recipe if weight]
    return blend(generator, parts) if parts else generator


def seconds_to_train(options: Options, borrowed: bool, job: Job, stop: StopFile) -> int:
    """For how long to borrow a device: measured on none, generous, two minutes at most."""
    config = job.preset.config
    return min(120, 20 + round(config.steps * config.batch * 0.05))


class Device:
    """The work of a server.

    gpu: a decorator such as `spaces.GPU`, called with a duration in seconds or a function of the
    arguments that tells it; None where the work is done in this process.
    """

    def __init__(self, options: Options, gpu: Callable | None = None):
        self.options, self.borrowed = options, gpu is not None
        self.turn: AbstractContextManager = nullcontext() if gpu else threading.Lock()
        self._train, self._draw, self._film = train_on, draw_on, film_on
        if gpu:
            self._train = gpu(duration=seconds_to_train)(train_on)
            self._draw, self._film = gpu(duration=15)(draw_on), gpu(duration=60)(film_on)

    @property
    def preset(self) -> Preset:
        return preset_for(self.options.generator).preset

    @property
    def ready(self) -> bool:
        """Whether the models are there; a request must not wait for a download of theirs."""
        return self.options in _loaded

    @property
    def download(self) -> Download | None:
        """How far a download of the models is, while there is one."""
        return _downloads.get(self.options)

    def models(self) -> ServedModels:
        return load_models(self.options)

    def place(self) -> ResolvedFile:
        """Where the generator came from."""
        return load(self.options).place

    def train(self, job: Job, stop: StopFile) -> Iterator[TrainingEvent]:
        """`nada.serve.jobs.train`, step by step between the other work."""
        turn = {} if self.borrowed else {"turn": self.turn}
        return self._train(self.options, self.borrowed, job, stop, **turn)

    def draw(self, recipe: Blend, seeds: Sequence[int], psi: float) -> Tensor:
        """Pictures of seeds, [N, 3, H, W] in [-1, 1] on the CPU."""
        with self.turn:
            return self._draw(self.options, self.borrowed, recipe, list(seeds), psi)

    def film(self, recipe: Blend, keys: Sequence[Key], **film) -> Tensor:
        """Frames [N, 3, H, W] in [-1, 1] on the CPU; see `nada.film.frames`."""
        with self.turn:
            return self._film(self.options, self.borrowed, recipe, keys, **film)

    def name(self) -> str:
        """What the work is done on, for people."""
        if self.borrowed:
            return LENT
        return str(self.models().generator.mean_latent.device)
