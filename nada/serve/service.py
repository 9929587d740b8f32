"""All that a server does for its visitors, without a word about how it is shown.

The page and the API of `app.py` are thin over this: a method for each thing that can be asked for,
plain data in and out, `BadInput` and its like for what cannot be done.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import op
from nada.checkpoint import fingerprint
from nada.delta import Delta, check_base, diff
from nada.facts import blend_facts, describe
from nada.film import visits, write_mp4
from nada.formats.messages import quote
from nada.layers import SELECTORS
from nada.presets import SERVED, examples
from nada.prompts import FILLERS
from nada.serve.hints import hints
from nada.serve.jobs import GOING, Job, TrainingRun
from nada.serve.sessions import KEEP_SECONDS, Kept, Session, Sessions
from nada.serve.validate import (
    MAX_MIX,
    MAX_SAMPLES,
    STRENGTH,
    TRUNCATION,
    BadInput,
    check_domain,
    check_file,
    check_job,
    check_number,
    check_seeds,
    check_weights,
)
from nada.serve.view import SMALL, data_urls
from nada.serve.worker import Blend, Device, Options, mix

TICK = 0.4  # seconds between two looks at a run, which bounds how long Stop takes
SHOWN = 8  # pictures that are drawn while a run goes on
STRIP = (0.0, 0.25, 0.5, 0.75, 1.0)  # strengths
FILM_SEEDS = 3

Domain = TypeVar("Domain", Delta, Kept)


class Service:
    """One server: its device, its visitors.

    gpu: see `nada.serve.worker.Device`. keep_seconds: how long a visitor is remembered.
    """

    def __init__(
        self,
        options: Options,
        gpu: Callable | None = None,
        keep_seconds: float = KEEP_SECONDS,
    ):
        self._gpu = gpu
        if gpu:  # what is lent by the call is used in another process
            options = replace(options, device="cpu")
        self.options, self.device = options, Device(options, gpu)
        self.visitors = Sessions(keep_seconds)
        self.frozen = lru_cache(4)(lambda seeds, psi: self.device.draw((), seeds, psi))
        self._own: str | None = None

    def beside(self, options: Options) -> "Service":
        """A studio for another generator, with the same visitors, on the same device in turn."""
        other = Service(options, self._gpu)
        other.visitors, other.device.turn = self.visitors, self.device.turn
        return other

    def own(self) -> str:
        """The fingerprint of the generator that is served, taken once: nobody writes to it."""
        if self._own is None:
            self._own = fingerprint(self.device.models().generator)
        return self._own

    # Runs

    def problem(self, settings: dict) -> BadInput | None:
        """What is wrong with the settings of a run, if the models are there to tell."""
        try:
            if self.device.ready:
                check_job(self.device.models(), self.device.preset, settings)
        except BadInput as error:
            return error
        return None

    def hints(self, settings: dict) -> list[str]:
        """Sentences worth reading before a run; [] for settings that cannot run anyway."""
        models, base = self.device.models(), self.options.base
        try:
            return hints(models, base, self.device.preset, settings)
        except BadInput:
            return []

    def known_words(self, settings: dict) -> list[str]:
        """The words that a small CLIP knows, where one of the prompts has others; else []."""
        clip = self.device.models().clips[0]
        prompts = [settings[name] for name in ("source", "target")]
        unknown = [clip.unknown_words(text[:1000]) for text in prompts if isinstance(text, str)]
        return sorted(clip.words - FILLERS) if any(unknown) else []

    def job(self, settings: dict, start: Path | None = None) -> Job:
        """What the settings of a run describe; `start` is a domain file to go on from."""
        job = check_job(self.device.models(), self.device.preset, settings)
        if start is not None:
            self._check_fits(Delta.load(start))
        return replace(job, start=start)

    def kept_file(self, owner: str | None, number) -> Path | None:
        """The file of a kept domain; None for "", which stands for the generator itself."""
        return None if number == "" else self._kept(self.visitors.get(owner), number).path

    def previewing(self, job: Job, seeds, psi) -> Job:
        """The job with previews of what is looked at; as it was where that cannot be drawn."""
        try:
            wanted, psi = check_seeds(seeds)[:SHOWN], check_number("truncation", TRUNCATION, psi)
        except BadInput:
            return job
        config = replace(job.preset.config, preview_seeds=tuple(wanted), preview_psi=psi)
        return replace(job, preset=replace(job.preset, config=config))

    def follow(self, owner: str | None, job: Job) -> Iterator[tuple[TrainingRun, str]]:
        """Do a job for a visitor and look at it now and then; to leave is to stop it.

        Each look tells the state it was taken in, the last one alone an end.
        """
        run = self.visitors.start(owner, job, self.device.train)
        try:
            while (state := run.state) in GOING:
                yield run, state
                run.finished.wait(TICK)
            if run.error and not run.domain:
                raise run.error
            yield run, state
        finally:
            run.stop.set()

    def settle(self, owner: str | None) -> TrainingRun | None:
        """The end of a visitor's run, awaited; what it made is kept and looked at."""
        visitor = self.visitors.find(owner)
        run = visitor and visitor.run
        if not run:
            return None
        run.stop.set()
        run.finished.wait(120)
        if run.domain and not run.settled:
            run.settled = True
            visitor.recipe = ((self.keep(visitor, Delta.load(run.domain)).path, 1.0),)
        return run

    def leave(self, owner: str | None) -> None:
        """A visitor closed the page: what they started ends."""
        self.visitors.leave(owner)

    # What is kept

    def keep(self, visitor: Session, delta: Delta) -> Kept:
        """Add a domain to a visitor's library, with faces for its card."""
        folder = Path(visitor.folder.name) / secrets.token_hex(4)
        delta.save(folder / "new.safetensors")
        seeds = self.device.preset.config.preview_seeds[:4]
        faces = self.device.draw([(folder / "new.safetensors", 1.0)], seeds, 0.7)
        (folder / "new.safetensors").unlink()
        return visitor.keep(delta, tuple(data_urls(faces, SMALL)))

    def load(self, owner: str | None, told) -> Kept:
        """Keep the domain of an uploaded file and look at it; an error if it cannot be used."""
        delta = self._check_fits(check_domain("domain_file", told))
        visitor = self.visitors.get(owner)
        kept = self.keep(visitor, delta)
        visitor.recipe = ((kept.path, 1.0),)
        return kept

    def open(self, owner: str | None, number: str) -> Kept:
        """Look at a kept domain."""
        visitor = self.visitors.get(owner)
        kept = self._check_fits(self._kept(visitor, number))
        visitor.recipe = ((kept.path, 1.0),)
        return kept

    def forget(self, owner: str | None, number: str) -> None:
        """Let go of a kept domain."""
        visitor = self.visitors.get(owner)
        kept = self._kept(visitor, number)
        if any(path == kept.path for path, _ in visitor.recipe):
            visitor.recipe = ()
        visitor.forget(number)

    def back_to(self, owner: str | None, number: int) -> None:
        """Look at a snapshot of a visitor's run, the first being 1; the last if there are fewer."""
        visitor = self.visitors.get(owner)
        paths = list(visitor.run.snapshots.values()) if visitor.run else []
        if paths:
            visitor.recipe = ((paths[min(number, len(paths)) - 1], 1.0),)

    def mix(self, owner: str | None, numbers, weights: Sequence) -> None:
        """Look at a mix of two or three kept domains; `weights` may be longer."""
        if not isinstance(numbers, list) or not 2 <= len(numbers) <= MAX_MIX:
            raise BadInput("domains", f"Choose two or three domains to mix, not {quote(numbers)}.")
        visitor = self.visitors.get(owner)
        paths = [self._check_fits(self._kept(visitor, number)).path for number in numbers]
        weights = check_weights(len(paths), list(weights)[: len(paths)])
        visitor.recipe = tuple(zip(paths, weights))

    def keep_mix(self, owner: str | None) -> Kept:
        """Keep what is looked at as a domain of its own."""
        visitor = self.visitors.get(owner)
        if not visitor.recipe:
            raise BadInput("domains", "There is nothing to keep yet: adapt, or open a domain.")
        kept = self.keep(visitor, self.mixed(visitor.recipe))
        visitor.recipe = ((kept.path, 1.0),)
        return kept

    def mixed(self, recipe: Blend) -> Delta:
        """Several domains as one."""
        base = self.device.models().generator
        parts = [(Delta.load(path), weight) for path, weight in recipe]
        return diff(base, mix(base, recipe), blend_facts(parts))

    def _kept(self, visitor: Session, number) -> Kept:
        kept = visitor.kept.get(number) if isinstance(number, str) else None
        if kept is None:
            raise BadInput("domains", "That domain is not kept any more: load its file again.")
        return kept

    def _check_fits(self, delta: Domain) -> Domain:
        check_base(delta, self.own())
        return delta

    # What is drawn

    def explore(
        self, owner: str | None, seeds, strength, psi
    ) -> tuple[list[int], Tensor, Tensor | None]:
        """Seeds, and their pictures before and after; None where there is no domain yet."""
        wanted = check_seeds(seeds)
        strength = check_number("strength", STRENGTH, strength)
        psi = check_number("truncation", TRUNCATION, psi)
        before = self.frozen(tuple(wanted), psi)
        recipe = self.recipe(owner, strength)
        return wanted, before, self.device.draw(recipe, wanted, psi) if recipe else None

    def recipe(self, owner: str | None, strength: float = 1.0) -> Blend:
        """What a visitor looks at, at some strength."""
        visitor = self.visitors.find(owner)
        return [(path, weight * strength) for path, weight in visitor.recipe] if visitor else []

    def strip(self, owner: str | None, seeds, psi) -> tuple[Tensor, int]:
        """Pictures of the first seeds at the strengths of STRIP, row by row, and the columns."""
        wanted = check_seeds(seeds)[:FILM_SEEDS]
        psi = check_number("truncation", TRUNCATION, psi)
        recipes = [self._chosen(owner, strength) for strength in STRIP]
        columns = [self.device.draw(recipe, wanted, psi) for recipe in recipes]
        return torch.stack(columns, dim=1).flatten(0, 1), len(STRIP)

    def film(self, owner: str | None, seeds, strength, psi) -> Path:
        """An mp4 that wanders between the first seeds and their strengths."""
        wanted = check_seeds(seeds)[:FILM_SEEDS]
        strength = check_number("strength", STRENGTH, strength) or 1.0
        psi = check_number("truncation", TRUNCATION, psi)
        recipe = self._chosen(owner, 1.0)
        between = 12 if self.device.models().generator.size <= 256 else 6
        pictures = self.device.film(
            recipe, visits(wanted, strength), between=between, truncation_psi=psi
        )
        path = Path(self.visitors.get(owner).folder.name) / "film.mp4"
        write_mp4(pictures, path)
        return path

    def _chosen(self, owner: str | None, strength: float) -> Blend:
        recipe = self.recipe(owner, strength)
        if not recipe:
            raise BadInput("domains", "There is no domain yet: adapt first, or load a domain file.")
        return recipe

    # The API

    def sample(self, seeds, domain_file, strength, truncation) -> Tensor:
        """Pictures of seeds, by the base or by an uploaded domain at some strength."""
        wanted = check_seeds(seeds)
        strength = check_number("strength", STRENGTH, strength)
        psi = check_number("truncation", TRUNCATION, truncation)
        if domain_file is None:
            return self.device.draw((), wanted, psi)
        check_domain("domain_file", domain_file)
        recipe = [(check_file("domain_file", domain_file), strength)]
        return self.device.draw(recipe, wanted, psi)

    def blend(self, owner, domain_files, weights, seeds, truncation) -> tuple[Tensor, Path]:
        """Pictures by a mix of uploaded domains, and the mix as a domain file."""
        if not isinstance(domain_files, list) or not 1 <= len(domain_files) <= MAX_MIX:
            raise BadInput(
                "domain_files",
                f"The domain files are {quote(domain_files)}; upload a list of one to {MAX_MIX}.",
            )
        wanted, psi = check_seeds(seeds), check_number("truncation", TRUNCATION, truncation)
        names = [f"domain_files[{i}]" for i in range(len(domain_files))]
        for name, told in zip(names, domain_files):
            self._check_fits(check_domain(name, told))
        paths = [check_file(name, told) for name, told in zip(names, domain_files)]
        recipe = list(zip(paths, check_weights(len(paths), weights)))
        path = Path(self.visitors.get(owner).folder.name) / f"{secrets.token_hex(4)}.safetensors"
        self.mixed(recipe).save(path)
        return self.device.draw(recipe, wanted, psi), path

    def describe(self, domain_file) -> dict:
        """What an uploaded domain file says of itself, and whether it fits this server."""
        return describe(check_domain("domain_file", domain_file), self.own())

    def info(self) -> dict:
        """What this server runs: generator, CLIP, device, and what may be asked for."""
        models = self.device.models()
        generator, clip = models.generator, models.clips[0]
        return {
            "generator": str(self.device.place().name),
            "source": str(self.device.place()),
            "reason": self.options.reason,
            "size": generator.size,
            "parameters": sum(p.numel() for p in generator.parameters()),
            "fingerprint": self.own(),
            "clip": [clip.name for clip in models.clips],
            "words": sorted(clip.words) if clip.words is not None else None,
            "device": self.device.name(),
            "threads": torch.get_num_threads(),
            "operations": op.describe(generator.mean_latent.device),
            "torch": torch.__version__,
            "layers": list(self.device.preset.config.layers(generator, to_rgb=True)),
            "methods": list(SELECTORS),
            "limits": self.limits(),
            "examples": examples(self.options.base),
            "visitors": len(self.visitors),
        }

    def limits(self) -> dict:
        """The least and most of each number that may be asked for."""
        numbers = {**SERVED, "strength": STRENGTH, "sample_truncation": TRUNCATION}
        bounds = {name: known.served for name, known in numbers.items() if known.served}
        told = {name: [limits.low, limits.high] for name, limits in bounds.items()}
        return {**told, "seeds": MAX_SAMPLES, "domains": MAX_MIX}
