"""The models of one process, and what is derived from them for many trials."""

from functools import lru_cache, partial
from pathlib import Path

from torch import Tensor

from nada.checkpoint import CHECKPOINTS, fingerprint, load_generator, sha256
from nada.clip import ClipModule, load_clips, split_names
from nada.demo.judge import Judge, load_judge
from nada.demo.render import Z_DIM
from nada.demo.styles import TARGETS
from nada.experiments.measure import (
    PSI,
    Ensemble,
    FrozenPeople,
    Observer,
    Probe,
    ShownPeople,
    Truth,
    assess,
    leak,
    references,
)
from nada.experiments.spec import Trial
from nada.experiments.variants import CachingGenerator, with_noise
from nada.generator import Generator
from nada.machine import pick_device
from nada.sample import sample

SHEET_SEEDS = tuple(range(6))


class Workbench:
    """Models and what they make, each once for all trials of a process; nothing writes to them.

    Everything is kept up to a number of its kind, the one used last the longest.

    Args:
        device: where all of it lies, such as "cpu"; "auto" for the best there is.
    """

    def __init__(self, device: str = "cpu"):
        self.device = pick_device(device)
        self.generator = lru_cache(2)(partial(load_generator, device=self.device))
        self.clips = lru_cache(8)(self._clips)
        self.judge = lru_cache(2)(self._judge)
        self.caching_twin = lru_cache(2)(CachingGenerator.like)
        self.sheet = lru_cache(4)(partial(sample, seeds=SHEET_SEEDS, truncation_psi=PSI))
        self.probe = lru_cache(2 * len(TARGETS))(Probe)
        self._base = lru_cache(4)(with_noise)
        self._observer = lru_cache(8)(self._new_observer)
        self._frozen = lru_cache(2)(FrozenPeople.of)
        self._truth = lru_cache(len(TARGETS))(Truth.of)

    def base(self, trial: Trial) -> Generator:
        """The trial's generator before adaptation."""
        return self._base(self.generator(trial.generator), trial.settings["noise_strength"])

    def guides(self, trial: Trial) -> list[ClipModule]:
        """The CLIP models that guide the trial."""
        return self.clips(trial.settings["clip"])

    def observer(self, trial: Trial) -> Observer:
        """What looks at the trial.

        Raises:
            ValueError: the judge knows another world than the generator's.
        """
        return self._observer(self.base(trial), trial.measure.clip, trial.measure.judge)

    def _new_observer(self, base: Generator, clip: str, judge: str) -> Observer:
        if judge != "none" and base.z_dim != Z_DIM:
            raise ValueError(
                f"The generator takes z of {base.z_dim} and the judged world has {Z_DIM}: "
                'set judge = "none".'
            )
        return Observer(base, Ensemble(self.clips(clip)), self.judge(judge))

    def _clips(self, spec: str) -> list[ClipModule]:
        """As `load_clips`; "checkpoints/clip-resnet.safetensors" is found from any folder."""
        ours = {name: CHECKPOINTS.parent / name for name in split_names(spec)}
        names = [str(path) if path.is_file() else name for name, path in ours.items()]
        return load_clips("+".join(names), self.device)

    def _judge(self, name: str) -> Judge | None:
        if name == "none":
            return None
        path = CHECKPOINTS / "judge.safetensors" if name == "demo" else Path(name)
        return load_judge(path, self.device)

    def figures(self, trial: Trial, after: ShownPeople) -> dict[str, float | None]:
        """What the trial came to, by `samples` people: `assess` where there is a judge, and else
        as a `Probe` looks."""
        observer, count = self.observer(trial), trial.measure.samples
        if observer.judge is None:
            return self.probe(observer, trial.target, count).figures(after)
        before, truth = self._frozen(observer, count), self._truth(observer, trial.target, count)
        figures = assess(observer, before, truth, after.first(count), trial.target)
        who = references(trial, observer.base.z_dim)
        if len(who):
            figures["leak"] = leak(observer.judge, who, after.first(count).full, truth.renders)
        return figures

    def digests(self, trial: Trial) -> dict[str, str]:
        """What the trial's model names stand for: {name: SHA-256}."""
        measure, judge = trial.measure, self.observer(trial).judge
        found = {f"generator {trial.generator}": fingerprint(self.generator(trial.generator))}
        for spec in (trial.settings["clip"], measure.clip):
            found[f"clip {spec}"] = sha256(_tensors(self.clips(spec)))
        if judge:
            found[f"judge {measure.judge}"] = sha256(judge.state_dict())
        return found


def _tensors(clips: list[ClipModule]) -> dict[str, Tensor]:
    return {
        f"{i}.{key}": value
        for i, clip in enumerate(clips)
        for key, value in clip.state_dict().items()
    }
