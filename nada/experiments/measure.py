"""What an adapted generator is measured by, against the bundled world.

Facts that no natural generator could give: an independent judge (`nada.demo.judge`) says what its
images show, and the true render of the same latents in the target's style says what they should
show. What a style leaves alone (the backdrop of a clown, the glasses of nearly everyone) must still
be there. What is the same for many trials is an object here, kept by `nada.experiments.workbench`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.clip import Encoder
from nada.demo.captions import ATTRIBUTES, attributes_of
from nada.demo.judge import Judge, attributes, has_attribute, verdicts
from nada.demo.render import draw, factors_of, portrait
from nada.demo.strangers import STRANGERS, style_of
from nada.demo.styles import HAIR_COLOURS, PHOTO, render
from nada.experiments.spec import Trial
from nada.generator import Generator
from nada.guidance import prompt_features
from nada.metrics import diversity, frechet_distance, identity, kernel_distance, quality
from nada.sample import latents, sample

SPREADING = (*HAIR_COLOURS, "glasses", "hat")  # of people in pictures that guide a run
FIRST_REFERENCE = 30_000  # seeds of those people
FIRST_SEED = 10_000  # of the people measured: far from those that a page shows
OTHER_PEOPLE = 20_000  # seeds of the true renders that distances between distributions compare with
PSI = 0.7  # truncation of the images judged: what the page shows
REGIONS = ("backdrop", "hair", "skin")
SAME_COLOUR = 0.1  # mean difference of RGB in 0..1 up to which a region counts as unchanged
PIECE = 32  # images drawn and looked at together where there are many


# Who is measured, and by which models


def people(generator: Generator, count: int) -> Tensor:
    """z [count, z_dim] of those that are measured, on the generator's device."""
    z = latents(range(FIRST_SEED, FIRST_SEED + count), generator.z_dim)
    return z.to(generator.mean_latent.device)


def shown(generator: Generator, count: int, psi: float = PSI) -> Tensor:
    """Images [count, 3, H, W] in [-1, 1] of those people; psi: truncation, 1 for none."""
    return sample(generator, range(FIRST_SEED, FIRST_SEED + count), psi)


class ShownPeople(NamedTuple):
    """Images [N, 3, H, W] in [-1, 1] of `people`: at truncation 0.7 and, where there is a judge,
    without any, since only then z says who is shown and a render can be held against the image."""

    truncated: Tensor
    full: Tensor | None

    def first(self, count: int) -> "ShownPeople":
        """Those of the first `count` people."""
        return ShownPeople(*(images if images is None else images[:count] for images in self))


class Ensemble:
    """Several CLIP models as one `Encoder`: its features' cosine is the mean of theirs."""

    def __init__(self, clips: Sequence[Encoder]):
        self.clips = clips

    @property
    def name(self) -> str:
        """The names of the models, as `load_clips` takes them."""
        return "+".join(clip.name for clip in self.clips)

    @property
    def resolution(self) -> int:
        """Side in pixels of the largest images that one of the models looks at."""
        return max(clip.resolution for clip in self.clips)

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit features [N, ΣD] of images [N, 3, H, W] in [-1, 1]."""
        return self._joined([clip.encode_image(images) for clip in self.clips])

    def encode_text(self, prompts: list[str]) -> Tensor:
        """Unit features [N, ΣD]."""
        return self._joined([clip.encode_text(prompts) for clip in self.clips])

    def check_prompt(self, prompt: str) -> None:
        """PromptError if one of the models cannot read it."""
        for clip in self.clips:
            clip.check_prompt(prompt)

    def _joined(self, features: list[Tensor]) -> Tensor:
        return torch.cat(features, dim=1) / math.sqrt(len(features))


@dataclass(frozen=True)
class Observer:
    """What looks at adapted generators.

    Args:
        base: the generator before adaptation.
        clip: what measures quality, identity and diversity, whatever guided the training.
        judge: None where there is no truth to compare with.
    """

    base: Generator
    clip: Ensemble
    judge: Judge | None

    def show(self, generator: Generator, count: int) -> ShownPeople:
        """What a generator makes of the first `count` people."""
        full = shown(generator, count, 1.0) if self.judge else None
        return ShownPeople(shown(generator, count), full)


# Along the way


class Probe:
    """Looks at a generator on its way to a target: cheap enough for every few steps.

    quality, identity, clip_diversity: see `nada.metrics`; the measuring CLIP's features,
    truncation 0.7. Where there is a judge also judged, lp and diversity as `assess` has them.
    """

    @torch.no_grad()
    def __init__(self, observer: Observer, target: str, count: int):
        self.observer, self.target, self.count = observer, target, count
        self.text = prompt_features(observer.clip, target, ("{}",))
        before = observer.show(observer.base, count)
        self.source = observer.clip.encode_image(before.truncated)
        if observer.judge:
            self.truth = render(people(observer.base, count), style_of(target), observer.base.size)
            self.distance = distance_to_truth(before.full, self.truth)
            self.diversity = diversity(observer.judge.features(before.full))
        self.start = self.figures(before)

    def __call__(self, generator: Generator) -> dict[str, float]:
        return self.figures(self.observer.show(generator, self.count))

    @torch.no_grad()
    def figures(self, images: ShownPeople) -> dict[str, float]:
        """Of what a generator shows; more people than `count` do not count."""
        images = images.first(self.count)
        features = self.observer.clip.encode_image(images.truncated)
        figures = {
            "quality": quality(features, self.text),
            "identity": identity(features, self.source),
            "clip_diversity": diversity(features),
        }
        return figures | (self._against_truth(images) if self.observer.judge else {})

    def _against_truth(self, images: ShownPeople) -> dict[str, float]:
        judge = self.observer.judge
        return {
            "judged": judged_as(judge, images.truncated, self.target),
            "lp": distance_to_truth(images.full, self.truth) / self.distance,
            "diversity": diversity(judge.features(images.full)) / self.diversity,
        }


# In the end


@dataclass(frozen=True)
class FrozenPeople:
    """The people that `assess` looks at, before any adaptation: the same for every trial.

    Args:
        z: [N, z_dim].
        full: [N, 3, H, W] in [-1, 1] by the base, without truncation.
        photos: renders of the same people.
        features: the measuring CLIP's, of the base's images at truncation 0.7.
        verdicts: the judge's on those.
        diversity, diversity_of_photos: of `full` and `photos` in the judge's features.
        masks: [N, 1, H, W] for each of REGIONS.
    """

    z: Tensor
    full: Tensor
    photos: Tensor
    features: Tensor
    verdicts: list[str]
    diversity: float
    diversity_of_photos: float
    masks: dict[str, Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, observer: Observer, count: int) -> "FrozenPeople":
        """The first `count` people."""
        base, judge, z = observer.base, observer.judge, people(observer.base, count)
        truncated, full = observer.show(base, count)
        photos = render(z, "photo", base.size)
        return cls(
            z,
            full,
            photos,
            observer.clip.encode_image(truncated),
            verdicts(judge, truncated),
            diversity(judge.features(full)),
            diversity(judge.features(photos)),
            masks(z, base.size),
        )


@dataclass(frozen=True)
class Truth:
    """What a target should look like: the same for every trial that has it.

    Args:
        renders: [N, 3, H, W] of the people in the target's style.
        diversity: of those in the judge's features.
        others: the judge's features [N, D] of as many other people's renders in that style.
    """

    renders: Tensor
    diversity: float
    others: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, observer: Observer, target: str, count: int) -> "Truth":
        """Of the first `count` people."""
        base, judge = observer.base, observer.judge
        renders = render(people(base, count), style_of(target), base.size)
        z = latents(range(OTHER_PEOPLE, OTHER_PEOPLE + count), base.z_dim).to(
            base.mean_latent.device
        )
        others = judge.features(render(z, style_of(target), base.size))
        return cls(renders, diversity(judge.features(renders)), others)


@torch.no_grad()
def assess(
    observer: Observer, before: FrozenPeople, truth: Truth, after: ShownPeople, target: str
) -> dict[str, float | None]:
    """The figures of what an adapted generator shows.

    Returns:
        judged_before, judged: share of images that the judge calls the target, frozen and adapted;
            None for adapted ones in a style that it has never seen.
        lp: L1 distance to the true render of the same z in the target's style, relative to before
            adaptation; below 1 means that the images moved towards the truth.
        quality, identity: see `nada.metrics`; the measuring CLIP's features.
        diversity: in the judge's features, relative to the frozen images; diversity_truth: the
            same of the true renders, which is what the style itself leaves.
        backdrop, hair, skin, glasses: see `colours_kept` and `glasses_kept`.
        kernel: kernel distance (KID) in the judge's features from renders of other people.
    """
    judge, features = observer.judge, observer.clip.encode_image(after.truncated)
    judged = judge.features(after.full)
    relative_l1 = distance_to_truth(after.full, truth.renders)
    relative_l1 /= distance_to_truth(before.full, truth.renders)
    return {
        "judged_before": share(before.verdicts, target),
        "judged": judged_as(judge, after.truncated, target),
        "lp": relative_l1,
        "quality": quality(features, prompt_features(observer.clip, target, ("{}",))),
        "diversity": diversity(judged) / before.diversity,
        "diversity_truth": truth.diversity / before.diversity_of_photos,
        "identity": identity(features, before.features),
        **colours_kept(before.masks, before.full, after.full, before.photos, truth.renders),
        "glasses": glasses_kept(judge, before.z, after.full, truth.renders, target),
        "kernel": kernel_distance(judged, truth.others),
    }


def distance_to_truth(images: Tensor, truth: Tensor) -> float:
    """Mean absolute difference of images [N, 3, H, W] pooled 4×4: blind to fine misalignment."""
    return (F.avg_pool2d(images, 4) - F.avg_pool2d(truth, 4)).abs().mean().item()


def share(verdicts: list[str], target: str) -> float:
    """How many of the judge's verdicts say the target, from 0 to 1."""
    return verdicts.count(target) / len(verdicts)


def judged_as(judge: Judge, images: Tensor, target: str) -> float | None:
    """Share of images [N, 3, H, W] in [-1, 1] that the judge calls the target; None for one that
    it has never seen."""
    return None if target in STRANGERS else share(verdicts(judge, images), target)


def masks(z: Tensor, size: int) -> dict[str, Tensor]:
    """Where each of REGIONS is in the images of the people z [N, 96]: [N, 1, size, size] of 0
    and 1."""
    scene = draw(portrait(factors_of(z)), size)
    return {region: (scene.part(region) > 0.9).to(z.dtype) for region in REGIONS}


def colours_kept(
    where: dict[str, Tensor], before: Tensor, after: Tensor, photos: Tensor, truth: Tensor
) -> dict[str, float | None]:
    """For each region the share of people whose mean colour there stayed, among those whose colour
    the style leaves alone; None where it leaves next to nobody's.

    Args:
        where: as `masks` gives it.
        before, after, photos, truth: [N, 3, H, W] in [-1, 1].
    """
    kept = {}
    for region, mask in where.items():
        area = mask.mean((1, 2, 3))

        def change(a: Tensor, b: Tensor, mask=mask, area=area) -> Tensor:
            means = ((a - b) / 2 * mask).mean((2, 3)) / area.clamp(min=1e-6)[:, None]
            return means.abs().mean(1)  # [N]

        left = (change(photos, truth) < SAME_COLOUR) & (area > 0.02)
        stayed = change(before, after) < SAME_COLOUR
        kept[region] = _share_of(stayed, left)
    return kept


def glasses_kept(
    judge: Judge, z: Tensor, after: Tensor, truth: Tensor, target: str
) -> float | None:
    """Share of people who have glasses, or none, as they should, where the judge can tell it from
    the true render; None where it can of next to nobody."""
    label = attributes_of(factors_of(z), style_of(target))[:, list(ATTRIBUTES).index("glasses")]
    visible = (label >= 0) & (has_attribute(judge, truth, "glasses") == (label == 1))
    return _share_of(has_attribute(judge, after, "glasses") == (label == 1), visible)


def _share_of(right: Tensor, among: Tensor) -> float | None:
    """Mean of bools where `among`; None for a tenth or fewer of them."""
    return right[among].double().mean().item() if among.double().mean() > 0.1 else None


# Pictures as prompts


def references(trial: Trial, z_dim: int) -> Tensor:
    """z [N, z_dim] of the people in the pictures that guide a trial; others for another seed."""
    first = FIRST_REFERENCE + 100 * trial.seed
    return latents(range(first, first + trial.settings.get("pictures", 0)), z_dim)


@torch.no_grad()
def leak(judge: Judge, who: Tensor, images: Tensor, truth: Tensor) -> float:
    """How much more often than they should images show what the people in the pictures had by
    chance, hair colour, glasses and hat: 0 not at all, 1 always; negative for less often.

    The mean over those attributes of the change of an attribute's rate among the images, with the
    sign of what the people in the pictures have more or less of than usual, weighed by how much.

    Args:
        judge: tells attributes, of truth as well, so that what a style hides from it cancels out.
        who: z [R, 96] of the people in the pictures.
        images, truth: [N, 3, H, W] in [-1, 1] of the same people.
    """
    usual = attributes_of(
        factors_of(latents(range(OTHER_PEOPLE, OTHER_PEOPLE + 1024), who.shape[1])), PHOTO
    )
    theirs = attributes_of(factors_of(who), PHOTO)
    indices = [list(ATTRIBUTES).index(name) for name in SPREADING]
    by_chance, more = (
        _rates(one)[indices] - _rates(other)[indices]
        for one, other in (
            (theirs == 1, usual == 1),
            (attributes(judge, images), attributes(judge, truth)),
        )
    )
    return float((by_chance * more).sum() / by_chance.abs().sum())


def _rates(has: Tensor) -> Tensor:
    return has.double().mean(dim=0)


# The generator itself


@torch.no_grad()
def assess_base(base: Generator, judge: Judge, count: int = 1024) -> dict[str, float]:
    """Fréchet distance, in the judge's features, of the base's images of `count` people from
    renders of others, and of renders of the first from those: what is left of it for the truth."""
    first, second = latents(range(OTHER_PEOPLE, OTHER_PEOPLE + 2 * count), base.z_dim).split(count)
    device = base.mean_latent.device

    def features(paint: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        images = (paint(piece.to(device)).clamp(-1, 1) for piece in z.split(PIECE))
        return torch.cat([judge.features(piece) for piece in images])

    def painted(z: Tensor) -> Tensor:
        return render(z, "photo", base.size)

    others = features(painted, second)
    return {
        "generator": frechet_distance(features(base, first), others),
        "renders": frechet_distance(features(painted, first), others),
    }
