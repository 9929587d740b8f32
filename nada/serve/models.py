"""The models that a server holds: which ones, loaded once, and where the generator came from."""

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch

from nada.checkpoint import Origin, fingerprint, read_generator
from nada.clip import Encoder, load_clips
from nada.facts import generator_facts
from nada.formats.catalogue import ResolvedFile, choose, locate
from nada.generator import Generator
from nada.machine import pick_device
from nada.presets import preset_for

LENT = "a GPU lent for each run"


@dataclass(frozen=True)
class Options:
    """What to serve.

    Args:
        generator: a source as `nada.formats.catalogue.locate` takes it.
        clip: as `nada.clip.load_clips` takes it, or "auto" for what suits the generator.
        device: of the process that serves.
        reason: why this generator, a sentence for the page; "" where it was asked for.
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

    Args:
        device: of the process that serves, as `nada.machine.pick_device` takes it.
        lent: whether a device is lent by the call, which this process does not see.
    """
    if lent:
        return LENT
    found = pick_device(device)
    return "" if found.type == "cpu" else f"a GPU ({found})"


@dataclass(frozen=True)
class ServedModels:
    """What all runs read and none writes to; `facts` is what domains say of their generator."""

    generator: Generator
    clips: Sequence[Encoder]
    facts: dict = field(default_factory=dict)

    def to(self, device: torch.device) -> "ServedModels":
        """A copy on another device."""
        generator, clips = copy.deepcopy((self.generator, self.clips))
        return ServedModels(generator.to(device), [clip.to(device) for clip in clips], self.facts)


@dataclass(frozen=True)
class Loaded:
    """The models of a server, where the generator came from, what of that file was taken, and its
    fingerprint."""

    models: ServedModels
    place: ResolvedFile
    origin: Origin
    fingerprint: str


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


class ModelStore:
    """The models of this process, by the options that name them; the first to ask loads them.

    They stay: there are as many as generators are served. CLIP models that several of them use are
    loaded once.
    """

    def __init__(self):
        self._loaded: dict[Options, Loaded] = {}
        self._downloads: dict[Options, Download] = {}
        self._lent: dict[Options, ServedModels] = {}
        self._lock = threading.Lock()  # two visitors who come at once load the models once

    def is_ready(self, options: Options) -> bool:
        """Whether the models are there; a request must not wait for a download of theirs."""
        return options in self._loaded

    def download(self, options: Options) -> Download | None:
        """How far a download of the models is, while there is one."""
        return self._downloads.get(options)

    def get(self, options: Options) -> Loaded:
        """The models, loaded if need be.

        Raises:
            ValueError: a model or a device that cannot be had.
        """
        if options in self._loaded:  # these must not wait while others download
            return self._loaded[options]
        with self._lock:
            if options not in self._loaded:
                try:
                    self._loaded[options] = self._load(options)
                finally:
                    self._downloads.pop(options, None)
            return self._loaded[options]

    def get_lent(self, options: Options) -> ServedModels:
        """The models on the device that this process was lent; a process may be used again."""
        if options not in self._lent:
            self._lent[options] = self.get(options).models.to(pick_device("auto"))
        return self._lent[options]

    def _load(self, options: Options) -> Loaded:
        device, report = pick_device(options.device), partial(self._note, options)
        place = locate(options.generator, progress=report)
        generator, origin = read_generator(place.path)
        origin.warn()
        generator = generator.to(device)
        clips = self._clips_of_another(options)
        clips = clips or load_clips(options.clips, device, progress=report)
        models = ServedModels(generator, clips, generator_facts(place.name, origin))
        return Loaded(models, place, origin, fingerprint(generator))

    def _clips_of_another(self, options: Options) -> Sequence[Encoder]:
        """The CLIP models that another generator was loaded with, if they are the same ones."""
        for other, loaded in self._loaded.items():
            if (other.clips, other.device) == (options.clips, options.device):
                return loaded.models.clips
        return ()

    def _note(self, options: Options, done: int, total: int | None, name: str) -> None:
        self._downloads[options] = Download(done, total, name)


# One for the process: work that goes to another process (a lent device) finds there, by its
# options alone, the models that were loaded before the fork.
STORE = ModelStore()


def load_models(options: Options, lent: bool = False) -> ServedModels:
    """The models of this process, on the device that it was lent if `lent`."""
    return STORE.get_lent(options) if lent else STORE.get(options).models
