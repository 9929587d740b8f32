"""What one server does with one generator, for everybody alike and without a page.

Plain data in and out; `BadInput` and its like for what cannot be done. What belongs to one visitor
stands in `nada.serve.session`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

import op
from nada.clip import known_words, unknown_words
from nada.delta import STYLES, Delta, blend, carry_over, check_fits, diff, fits
from nada.facts import blend_facts, describe
from nada.formats.messages import quote
from nada.guidance import Target
from nada.layers import SELECTORS
from nada.presets import SERVED, examples
from nada.prompts import FILLERS
from nada.serve.domains import KeptDomain
from nada.serve.hints import hints
from nada.serve.images import SMALL, data_urls
from nada.serve.jobs import Job
from nada.serve.models import Options
from nada.serve.validate import (
    CARRY_OVER,
    MAX_MIX,
    MAX_SAMPLES,
    STRENGTH,
    TRUNCATION,
    BadInput,
    check_domain,
    check_file,
    check_flag,
    check_job,
    check_number,
    check_pictures,
    check_seeds,
    check_strength,
    check_weights,
)
from nada.serve.worker import Blend, Part, Worker, read

Domain = TypeVar("Domain", Delta, KeptDomain)


class Service:
    """One generator that is served, with its CLIP models.

    Args:
        options: which generator, which CLIP, on which device.
        gpu: see `nada.serve.worker.Worker`.
        turn: see there; shared by all services of a server.
    """

    def __init__(
        self,
        options: Options,
        gpu: Callable | None = None,
        turn: AbstractContextManager | None = None,
    ):
        if gpu:  # what is lent by the call is used in another process
            options = replace(options, device="cpu")
        self.options, self.worker = options, Worker(options, gpu, turn)
        self.frozen = lru_cache(4)(lambda seeds, truncation: self.draw((), seeds, truncation))

    # Runs

    def problem(self, settings: dict, pictured: bool = False) -> BadInput | None:
        """What is wrong with the settings of a run, if the models are there to check them.

        Args:
            settings, pictured: as `nada.serve.validate.check_job` takes them.
        """
        try:
            if self.worker.is_ready:
                check_job(self.worker.models(), self.worker.preset, settings, pictured)
        except BadInput as error:
            return error
        return None

    def hints(self, settings: dict) -> list[str]:
        """Sentences worth reading before a run; [] for settings that cannot run anyway."""
        models, base = self.worker.models(), self.options.base
        try:
            return hints(models, base, self.worker.preset, settings)
        except BadInput:
            return []

    def known_words(self, settings: dict) -> list[str]:
        """The words that a small CLIP knows, where one of the prompts has others; else []."""
        clip = self.worker.models().clips[0]
        prompts = [settings[name] for name in ("source", "target")]
        unknown = [unknown_words(clip, text[:1000]) for text in prompts if isinstance(text, str)]
        return sorted((known_words(clip) or frozenset()) - FILLERS) if any(unknown) else []

    def job(self, settings: dict, start: Path | None = None, pictures=None) -> Job:
        """What the settings of a run describe.

        Args:
            settings: as `nada.serve.validate.check_job` takes them.
            start: a domain file to go on from.
            pictures: uploads, as `nada.serve.validate.check_pictures` takes them.
        """
        read = check_pictures("pictures", pictures)
        job = check_job(self.worker.models(), self.worker.preset, settings, bool(read))
        if read:
            job = replace(job, target=Target(str(job.target), *read))
        if start is not None:
            self.check_fits(Delta.load(start))
        return replace(job, start=start)

    # Domains

    def check_fits(self, domain: Domain) -> Domain:
        """The domain, if it was made from the generator that is served.

        Raises:
            DeltaError: it was made from another one, or its tensors are of other shapes.
        """
        base, own = self.worker.models().generator, self.worker.loaded().fingerprint
        if isinstance(domain, Delta):
            check_fits(domain, base, own)
        elif domain.base_fingerprint != own:  # else it was looked at when it came
            check_fits(Delta.load(domain.path), base, own)
        return domain

    def uploaded(self, field: str, upload, carry_over=False) -> Delta:
        """The domain in an uploaded file; an error if it cannot be used here.

        carry_over: whether one of another generator of the family may be made to fit.
        """
        delta = check_domain(field, upload)
        if check_flag("carry_over", CARRY_OVER, carry_over):
            return self.carried(delta)
        return self.check_fits(delta)

    def carried(self, delta: Delta) -> Delta:
        """The domain carried over to the generator that is served."""
        return carry_over(delta, self.worker.models().generator)

    def mixed(self, parts: Blend) -> Delta:
        """Several domains as one."""
        base = self.worker.models().generator
        deltas = [(read(part), weight) for part, weight in parts]
        adapted = blend(base, [part for part in deltas if part[1]])
        return diff(base, adapted, blend_facts(deltas))

    def draw(self, parts: Blend, seeds: Sequence[int], truncation: float) -> Tensor:
        """Images of seeds by the base with domains blended in, [N, 3, H, W] in [-1, 1]."""
        return self.worker.draw(parts, seeds, truncation)

    def thumbnails(self, domain: Path) -> list[str]:
        """Small images by a domain, as data URLs for its card."""
        seeds = self.worker.preset.config.preview_seeds[:4]
        return data_urls(self.draw([(domain, 1.0)], seeds, 0.7), SMALL)

    # What is asked for without a session

    def sample(self, seeds, domain_file, strength, truncation, carry_over=False) -> Tensor:
        """Images of seeds, by the base or by an uploaded domain at some strength."""
        seeds = check_seeds(seeds)
        strength = check_strength("strength", STRENGTH, strength)
        truncation = check_number("truncation", TRUNCATION, truncation)
        check_flag("carry_over", CARRY_OVER, carry_over)
        if domain_file is None:
            return self.draw((), seeds, truncation)
        part = self._part("domain_file", domain_file, carry_over)
        return self.draw([(part, strength)], seeds, truncation)

    def blend(
        self, domain_files, weights, seeds, truncation, carry_over=False
    ) -> tuple[Tensor, Delta]:
        """Images by a mix of uploaded domains, and the mix as a domain."""
        if not isinstance(domain_files, list) or not 1 <= len(domain_files) <= MAX_MIX:
            raise BadInput(
                "domain_files",
                f"The domain files are {quote(domain_files)}; upload a list of one to {MAX_MIX}.",
            )
        seeds, truncation = check_seeds(seeds), check_number("truncation", TRUNCATION, truncation)
        domains = [
            self._part(f"domain_files[{i}]", upload, carry_over)
            for i, upload in enumerate(domain_files)
        ]
        parts = list(zip(domains, check_weights(len(domains), weights)))
        return self.draw(parts, seeds, truncation), self.mixed(parts)

    def _part(self, field: str, upload, carry_over) -> Part:
        """An uploaded domain as a part of a blend: one of styles, which may be carried over, is
        small enough to go to another process; others are read there."""
        delta = self.uploaded(field, upload, carry_over)
        return delta if delta.kind == STYLES else check_file(field, upload)

    def describe(self, domain_file) -> dict:
        """What an uploaded domain file says of itself, and whether it fits this server."""
        delta = check_domain("domain_file", domain_file)
        own = self.worker.models().generator, self.worker.loaded().fingerprint
        size = check_file("domain_file", domain_file).stat().st_size
        return describe(delta, fits(delta, *own), size)

    def info(self, usage: dict | None = None) -> dict:
        """What this server runs: generator, CLIP, device, and what may be asked for.

        usage: what it holds now, see `nada.serve.sessions.Sessions.usage`.
        """
        models, loaded = self.worker.models(), self.worker.loaded()
        generator, words = models.generator, known_words(models.clips[0])
        return {
            "generator": str(loaded.place.name),
            "source": str(loaded.place),
            **loaded.origin.facts(),
            "reason": self.options.reason,
            "size": generator.size,
            "parameters": sum(p.numel() for p in generator.parameters()),
            "fingerprint": loaded.fingerprint,
            "clip": [clip.name for clip in models.clips],
            "words": sorted(words) if words is not None else None,
            "device": self.worker.device_name(),
            "threads": torch.get_num_threads(),
            "operations": op.describe(generator.mean_latent.device),
            "torch": torch.__version__,
            "layers": list(self.worker.preset.config.chosen_among(generator)),
            "methods": list(SELECTORS),
            "limits": limits(),
            "examples": examples(self.options.base),
            **(usage or {}),
        }


def limits() -> dict:
    """The least and most of each number that may be asked for."""
    numbers = {**SERVED, "strength": STRENGTH, "sample_truncation": TRUNCATION}
    ranges = {name: known.served for name, known in numbers.items() if known.served}
    bounds = {name: [limit.low, limit.high] for name, limit in ranges.items()}
    return {**bounds, "seeds": MAX_SAMPLES, "domains": MAX_MIX}
