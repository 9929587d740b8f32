"""What tells the generator where to go: directions and losses in CLIP's space.

A loss here is a function of unit features, wrapped so that it can be called with images. Several
of them make a `WeightedSum`, which encodes each batch once per CLIP model however many terms look
at it. `build_loss` makes the usual mix. Sections and equations: StyleGAN-NADA, arXiv 2108.00946.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.augment import Augmented
from nada.clip import Encoder, PromptError, check_text, has_tokens, reach_of
from nada.formats.messages import quote
from nada.settings import Range, check, setting

# The prompt templates of the CLIP paper for ImageNet, less the plural "a photo of many {}.": 79.
_ARTICLES = ("a", "the")
_QUALITIES = (
    "bad", "low resolution", "cropped", "bright", "dark", "close-up", "black and white",
    "pixelated", "jpeg corrupted", "blurry", "good",
)  # fmt: skip
_CONDITIONS = ("hard to see", "clean", "dirty", "cool", "large", "nice", "weird", "small")
_MEDIA = (
    "a sculpture", "a rendering", "a tattoo", "a drawing", "a painting", "a doodle", "a sketch",
    "a rendition", "graffiti", "art", "itap",
)  # fmt: skip
_MATERIALS = ("embroidered", "plastic", "origami", "toy", "cartoon", "plushie")
TEMPLATES = (
    "a photo of my {}.", "a photo of one {}.", "itap of my {}.",
    *(f"{article} {{}} in a video game." for article in _ARTICLES),
    *(f"a photo of {article} {{}}." for article in _ARTICLES),
    *(f"a {quality} photo of {article} {{}}." for quality in _QUALITIES for article in _ARTICLES),
    *(f"a photo of {article} {state} {{}}." for state in _CONDITIONS for article in _ARTICLES),
    *(f"{medium} of {article} {{}}." for medium in _MEDIA for article in _ARTICLES),
    *(f"{article} {material} {{}}." for material in _MATERIALS for article in _ARTICLES),
)  # fmt: skip

TEMPLATE_SETS = {"bare": ("{}",), "imagenet": TEMPLATES}

# cos is undefined at 0, where the twins start, and its gradient unbounded near it: clamp the norm
# (unit features: 3 degrees), so that the first steps do not dominate Adam's second moment.
SHORTEST_MOVE = 0.05


# Directions


def prompt_features(clip: Encoder, prompt: str, templates: Sequence[str] = TEMPLATES) -> Tensor:
    """Unit features [T, D] of a prompt put into each template.

    The prompt is inserted as it is: braces in it mean nothing.

    Raises:
        PromptError: CLIP cannot read it.
    """
    clip.check_prompt(prompt)
    with torch.no_grad():
        return clip.encode_text([template.replace("{}", prompt) for template in templates])


def text_direction(
    clip: Encoder, source: str, target: str, templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """Unit [D] from a source prompt to a target prompt, averaged over templates (section 3.2).

    Raises:
        PromptError: a prompt cannot be read, or both mean the same to this model.
    """
    return F.normalize(text_move(clip, source, target, templates), dim=0)


def mean_move(
    clip: Encoder, source: str, target: str, templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """[D]: the mean difference of two prompts over templates, 0 where they mean the same.

    Raises:
        PromptError: a prompt cannot be read.
    """
    before, after = (prompt_features(clip, prompt, templates) for prompt in (source, target))
    return (after - before).mean(dim=0)


def text_move(
    clip: Encoder, source: str, target: str, templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """[D] from a source prompt to a target prompt, averaged over templates: ΔT as it is.

    Its length, which `text_direction` does away with, says how far the words lie apart, and so
    about how far images should move (`reach_of`).

    Raises:
        PromptError: a prompt cannot be read, or both mean the same to this model.
    """
    move = mean_move(clip, source, target, templates)
    if move.norm() < 1e-3:
        raise PromptError(
            f"{quote(source)} and {quote(target)} are the same to CLIP model "
            f"{clip.name}: choose a target that differs from the source."
        )
    return move


def move_from_samples(
    clip: Encoder, samples: Tensor, target: str, templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """[D] from what the generator shows to a target prompt, averaged over templates; for who names
    no source.

    Args:
        clip: the model whose space it is.
        samples: [M, 3, H, W] in [-1, 1], of the frozen generator.
        target, templates: as `text_move` takes them.

    Raises:
        PromptError: the prompt cannot be read.
    """
    words = prompt_features(clip, target, templates).mean(dim=0)
    return words - mean_feature(clip, samples)


def image_direction(clip: Encoder, source_images: Tensor, target_images: Tensor) -> Tensor:
    """Unit [D] from the mean of source images to the mean of target images.

    Args:
        clip: the model whose space it is.
        source_images: [N, 3, H, W] in [-1, 1]; samples of the frozen generator, 16 say.
        target_images: [N, 3, H, W] in [-1, 1]; images of the wanted domain.

    Raises:
        ValueError: the means coincide.
    """
    target = Target(pictures=target_images, samples=source_images)
    return F.normalize(picture_move(clip, target), dim=0)


# What a run moves to


@dataclass(frozen=True)
class Target:
    """What a run moves to: words, pictures of the wanted domain, or both.

    Attributes:
        words: the prompt; "" for none.
        pictures: [N, 3, H, W] in [-1, 1]; None for none.
        digests: sha256 of their files, where they came from files.
        samples: [M, 3, H, W] in [-1, 1], what the frozen generator shows: where pictures lead away
            from, and words where none stand for the source.

    Raises:
        PromptError: neither words nor pictures.
    """

    words: str = ""
    pictures: Tensor | None = None
    digests: tuple[str, ...] = ()
    samples: Tensor | None = None

    def __post_init__(self) -> None:
        if self.pictures is None:
            check_text(self.words)

    @classmethod
    def of(cls, target: "str | Target") -> "Target":
        """A target as it is, or one of words."""
        return target if isinstance(target, Target) else cls(target)

    def share(self, weight: float) -> float:
        """Of the pictures in all, from 0 to 1, if they have this weight and the words 1."""
        if self.pictures is None:
            return 0.0
        return weight / (1 + weight) if self.words.strip() else 1.0


class Aim(NamedTuple):
    """Where a target lies in a CLIP's space, seen from the source.

    Attributes:
        direction: unit [D].
        asked: how far along it images should go; None where nobody knows (`reach_of`).
    """

    direction: Tensor
    asked: float | None


def move_to(
    clip: Encoder,
    source: str,
    target: "str | Target",
    templates: Sequence[str] = TEMPLATES,
    picture_weight: float = 1.0,
) -> Aim:
    """From the source to a target: the unit directions of its words and of its pictures, weighed,
    added and made unit again (UniHDA, arXiv 2401.12596).

    How far pictures ask to go is how far their mean lies from the samples'; for words it is what
    the model's reach makes of their length, and nobody can tell without words for the source, for
    which what the samples show stands then.

    Raises:
        PromptError: a prompt cannot be read, both mean the same to this model, or the pictures
            look like the samples to it.
        ValueError: there are no samples.
    """
    target, parts = Target.of(target), []  # of parts: share, move, how far
    pictured = target.share(picture_weight)
    if pictured < 1:
        parts.append((1 - pictured, *_words_move(clip, source, target, templates)))
    if pictured > 0:
        move = picture_move(clip, target)
        parts.append((pictured, move, float(move.norm())))
    known = [share * asked for share, _, asked in parts if asked is not None]
    direction = _unit_sum((share, move) for share, move, _ in parts)
    return Aim(direction, sum(known) if len(known) == len(parts) else None)


def _words_move(
    clip: Encoder, source: str, target: Target, templates: Sequence[str]
) -> tuple[Tensor, float | None]:
    """The move that a target's words ask for, and how far images should go along it."""
    if not source.strip():
        return move_from_samples(clip, _samples(target), target.words, templates), None
    move, reach = text_move(clip, source, target.words, templates), reach_of(clip)
    return move, None if reach is None else reach * float(move.norm())


def _samples(target: Target) -> Tensor:
    if target.samples is None:
        raise ValueError(
            "Without words for the source, and for pictures, it matters what the generator shows: "
            "give samples of it."
        )
    return target.samples


def picture_move(clip: Encoder, target: Target) -> Tensor:
    """[D] from the mean of the samples to the mean of the pictures, as it is.

    Raises:
        PromptError: they coincide.
        ValueError: there are no samples.
    """
    if target.pictures is None:
        raise ValueError("There are no pictures in the target: give some.")
    move = mean_feature(clip, target.pictures) - mean_feature(clip, _samples(target))
    if move.norm() < 1e-3:
        raise PromptError(
            f"The pictures look like the generator's own to CLIP model {clip.name}: "
            "choose pictures of another domain."
        )
    return move


def goal_of(
    clip: Encoder,
    target: "str | Target",
    templates: Sequence[str] = ("{}",),
    picture_weight: float = 1.0,
) -> Tensor:
    """Unit [D], what the adapted images should be near to: the words, the pictures' mean, or both
    by their weights.

    Raises:
        PromptError: the words cannot be read.
    """
    target, parts = Target.of(target), []
    pictured = target.share(picture_weight)
    if pictured < 1:
        words = prompt_features(clip, target.words, templates).mean(dim=0)
        parts.append((1 - pictured, words))
    if target.pictures is not None and pictured > 0:
        parts.append((pictured, mean_feature(clip, target.pictures)))
    return _unit_sum(parts)


@torch.no_grad()
def mean_feature(clip: Encoder, images: Tensor) -> Tensor:
    """[D] of images [N, 3, H, W] in [-1, 1], a few at a time."""
    return torch.cat([clip.encode_image(part) for part in images.split(8)]).mean(dim=0)


def _unit_sum(weighed: Iterable[tuple[float, Tensor]]) -> Tensor:
    vectors = [share * F.normalize(vector, dim=0) for share, vector in weighed]
    return F.normalize(torch.stack(vectors).sum(dim=0), dim=0)


# Losses


class FeatureLoss(nn.Module, ABC):
    """A loss of the unit features [N, D] of source and adapted images of the same latents.

    sees_tokens: whether `compare` takes unit tokens of patches [N, L, W] instead.
    """

    sees_tokens = False
    clip: Encoder

    def __init__(self, clip: Encoder):
        super().__init__()
        self.clip = clip

    @property
    def resolution(self) -> int:
        """Side in pixels of the images that CLIP sees."""
        return self.clip.resolution

    @abstractmethod
    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        """The scalar loss of two sets of features [N, D]."""

    def forward(self, source_images: Tensor, adapted_images: Tensor) -> Tensor:
        """The scalar loss of images [N, 3, H, W] in [-1, 1]; no gradient for the source."""
        with torch.no_grad():
            source = self.clip.encode_image(source_images)
        return self.compare(source, self.clip.encode_image(adapted_images))


class DirectionalLoss(FeatureLoss):
    """1 − cos(E(adapted) − E(source), direction), averaged over the batch (equation 2); in [0, 2].

    Identical twins have loss 1 and the gradient of a plain step along the direction
    (SHORTEST_MOVE).

    Args:
        clip: E.
        direction: [D], from `text_direction` or `image_direction`.
    """

    direction: Tensor

    def __init__(self, clip: Encoder, direction: Tensor):
        super().__init__(clip)
        self.register_buffer("direction", F.normalize(direction.detach().float(), dim=-1))

    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        move = adapted - source  # [N, D]
        length = move.norm(dim=1).clamp(min=SHORTEST_MOVE)
        return (1 - move @ self.direction / length).mean()


class GlobalLoss(FeatureLoss):
    """1 − cos(E(adapted), E(target)), averaged over the batch (equation 1); in [0, 2].

    Args:
        clip: E.
        target: a prompt, or words and pictures.
        templates, picture_weight: as `goal_of` takes them.
    """

    goal: Tensor

    def __init__(
        self,
        clip: Encoder,
        target: str | Target,
        templates: Sequence[str] = ("{}",),
        picture_weight: float = 1.0,
    ):
        super().__init__(clip)
        self.register_buffer("goal", goal_of(clip, target, templates, picture_weight))

    def compare(self, source: Tensor | None, adapted: Tensor) -> Tensor:
        return (1 - adapted @ self.goal).mean()

    def forward(self, images: Tensor) -> Tensor:  # type: ignore[override]  # needs no source
        """The scalar loss of images [N, 3, H, W] in [-1, 1]."""
        return self.compare(None, self.clip.encode_image(images))


class InDomainLoss(FeatureLoss):
    """Mean squared change of the cosine between two images of a batch; keeps people different.

    Compares every pair of different adapted images with the same pair of source images
    (relational regularisation, as in Ojha et al. 2021); batches of 2 or more.
    """

    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        count = len(source)
        if count < 2:
            raise ValueError(
                f"The in-domain term compares images with each other and got {count}: "
                "set the batch to 2 or more, or its weight to 0."
            )
        change = adapted @ adapted.T - source @ source.T  # [N, N], the diagonal is 0
        return change.square().sum() / (count * (count - 1))


class CapLoss(FeatureLoss):
    """mean max(0, p/ℓ − 1)², p the way gone along the direction: nothing on the way, and a rail
    behind the end.

    Args:
        clip: E.
        direction: [D], from `text_direction` or `image_direction`.
        length: ℓ, how far along it the images should go, above 0.
    """

    direction: Tensor

    def __init__(self, clip: Encoder, direction: Tensor, length: float):
        super().__init__(clip)
        self.length = length
        self.register_buffer("direction", F.normalize(direction.detach().float(), dim=-1))

    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        return (self.way(source, adapted) - 1).clamp(min=0).square().mean()

    def way(self, source: Tensor, adapted: Tensor) -> Tensor:
        """[N]: how much of the way each image has gone; 0 at the start, 1 at the end."""
        return (adapted - source) @ self.direction / self.length


class WayGone(CapLoss):
    """The mean of the way gone: looked at, never trained on."""

    @torch.no_grad()
    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        return self.way(source, adapted).mean()


class PointLoss(FeatureLoss):
    """1 − cos(E(adapted), E(source) + move), averaged over the batch: to each image a target of its
    own, as far from it as the move is long.

    Args:
        clip: E.
        move: [D], a direction times how far to go.
    """

    move: Tensor

    def __init__(self, clip: Encoder, move: Tensor):
        super().__init__(clip)
        self.register_buffer("move", move.detach().float())

    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        return (1 - F.cosine_similarity(adapted, source + self.move, dim=1)).mean()


class TokenLoss(FeatureLoss):
    """How far patches look from the pictures' own, whatever they show: the attentive style loss of
    DiFa (arXiv 2207.08736); in [0, 2].

    With the cosine distance C [L, M] of the tokens of an image and of a picture: the larger of the
    mean over rows of min C and the mean over columns of min C, averaged over pairs of both.

    Args:
        clip: a model that `has_tokens`.
        pictures: [R, 3, H, W] in [-1, 1].
    """

    sees_tokens = True
    tokens: Tensor

    @torch.no_grad()
    def __init__(self, clip: Encoder, pictures: Tensor):
        super().__init__(clip)
        tokens = [_features_and_tokens(clip, one[None])[1] for one in pictures]
        self.register_buffer("tokens", torch.cat(tokens))

    def compare(self, source: Tensor | None, adapted: Tensor) -> Tensor:
        """The scalar loss of unit tokens [N, L, W]; the source's are not looked at."""
        distance = 1 - torch.einsum("nlw,rmw->nrlm", adapted, self.tokens)
        return torch.maximum(
            distance.amin(dim=3).mean(dim=2), distance.amin(dim=2).mean(dim=2)
        ).mean()

    def forward(self, source_images: Tensor, adapted_images: Tensor) -> Tensor:
        """The scalar loss of images [N, 3, H, W] in [-1, 1]."""
        return self.compare(None, _features_and_tokens(self.clip, adapted_images)[1])


def _features_and_tokens(clip: Encoder, images: Tensor) -> tuple[Tensor, Tensor]:
    return clip.encode_image_and_tokens(images)  # type: ignore[attr-defined]


class WeightedSum(nn.Module):
    """Σ weight · term over {name: (weight, term)}; each term a FeatureLoss."""

    def __init__(self, weighted: Mapping[str, tuple[float, FeatureLoss]]):
        super().__init__()
        if not weighted:
            raise ValueError("Every loss weight is 0: give at least one term a weight.")
        self.weights = {name: float(weight) for name, (weight, _) in weighted.items()}
        self.losses = nn.ModuleList(term for _, term in weighted.values())

    @property
    def _losses(self) -> list[FeatureLoss]:
        return cast(list[FeatureLoss], list(self.losses))

    def terms(self, source_images: Tensor, adapted_images: Tensor) -> dict[str, Tensor]:
        """Each term by name, unweighted; images are encoded once per CLIP model."""
        seen: dict[tuple[int, bool], tuple[Tensor, Tensor]] = {}
        with_tokens = {id(term.clip) for term in self._losses if term.sees_tokens}
        for clip in {id(term.clip): term.clip for term in self._losses}.values():
            with torch.no_grad():
                source = clip.encode_image(source_images)
            if id(clip) in with_tokens:
                adapted, tokens = _features_and_tokens(clip, adapted_images)
                seen[id(clip), True] = source, tokens  # which look at no source
            else:
                adapted = clip.encode_image(adapted_images)
            seen[id(clip), False] = source, adapted
        values = (term.compare(*seen[id(term.clip), term.sees_tokens]) for term in self._losses)
        return dict(zip(self.weights, values, strict=True))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` returned."""
        return cast(Tensor, sum(self.weights[name] * value for name, value in terms.items()))

    def forward(self, source_images: Tensor, adapted_images: Tensor) -> Tensor:
        """The scalar loss of images [N, 3, H, W] in [-1, 1]."""
        return self.total(self.terms(source_images, adapted_images))

    @property
    def resolution(self) -> int:
        """The largest image that any of the CLIP models takes, in pixels."""
        return max(term.clip.resolution for term in self._losses)


@dataclass(frozen=True)
class GuidanceConfig:
    """What `build_loss` is made of; ValueError names a bad setting. The lambdas weigh the terms."""

    lambda_directional: float = setting(
        1.0, "Directional loss", "Weight: along source → target.",
        range=Range(0, 1000), name="directional", place=6, served=Range(0.0, 10.0, 0.05),
    )  # fmt: skip
    lambda_global: float = setting(
        0.0, "Global loss", "Weight: likeness to the target.",
        range=Range(0, 1000), name="global_", place=7, served=Range(0.0, 10.0, 0.05),
    )  # fmt: skip
    lambda_in_domain: float = setting(
        0.0, "In-domain loss", "Weight: keeps people different.",
        range=Range(0, 1000), name="in_domain", place=8, served=Range(0.0, 10.0, 0.05),
    )  # fmt: skip
    lambda_cap: float = setting(
        0.0, "Cap", "Weight: holds back what goes further than the words ask.",
        range=Range(0, 1000), name="cap", place=14, served=Range(0.0, 20.0, 0.5),
    )  # fmt: skip
    lambda_point: float = setting(
        0.0, "Point loss", "Weight: to each picture its own target, as far off as the words ask.",
        range=Range(0, 1000), name="point", place=15, served=Range(0.0, 10.0, 0.05),
    )  # fmt: skip
    reach: float = setting(
        1.0, "Reach", "How far to go, of what the words ask: for the cap and the point loss.",
        range=Range(0.05, 10), place=16, served=Range(0.1, 2.0, 0.05),
    )  # fmt: skip
    picture_weight: float = setting(
        1.0, "Picture weight", "Of the pictures beside the words, which have 1.",
        range=Range(0, 100), place=17, served=Range(0.0, 10.0, 0.05),
    )  # fmt: skip
    lambda_token: float = setting(
        0.0, "Token loss", "Weight: brushwork and texture of the pictures, by CLIP's patches.",
        range=Range(0, 1000), name="token", place=18, served=Range(0.0, 10.0, 0.05),
    )  # fmt: skip
    views: int = setting(
        0, "Views", "Randomly changed copies of each image that CLIP sees; 0 for the image itself.",
        range=Range(0, 64),
    )  # fmt: skip
    templates: str | tuple[str, ...] = setting(
        "imagenet", "Prompt templates",
        "What the direction is averaged over: bare prompts, or the 79 that CLIP used for ImageNet.",
        choices=TEMPLATE_SETS, lists=True,
    )  # fmt: skip
    clip_weights: tuple[float, ...] | None = setting(
        None, "CLIP weights", "One for each CLIP model of an ensemble; equal unless given.",
        name="weights",
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)

    @property
    def prompt_templates(self) -> Sequence[str]:
        """The templates themselves, "{}" where a prompt goes."""
        return TEMPLATE_SETS[self.templates] if isinstance(self.templates, str) else self.templates


def build_loss(
    clips: Sequence[Encoder],
    source: str,
    target: str | Target,
    config: GuidanceConfig | None = None,
) -> WeightedSum | Augmented:
    """The usual loss of (source images, adapted images) for one CLIP model or an ensemble.

    Args:
        clips: the models, each once. Their weights count as shares of 1, so that the loss of an
            ensemble has the scale of one model's.
        source: a prompt; "" for what the target's samples show, which pictures alone start from in
            any case.
        target: a prompt, or words and pictures. The global term uses the bare target prompt.
        config: the weights and the rest; the directional loss alone by default.

    Raises:
        PromptError: a prompt cannot be read, both mean the same to a model, or none can have the
            token loss.
        ValueError: no term has a weight, or the models and their weights do not pair.
    """
    config = config or GuidanceConfig()
    weights = [1.0] * len(clips) if config.clip_weights is None else list(config.clip_weights)
    if len(weights) != len(clips) or not clips or sum(weights) <= 0:
        raise ValueError(f"Got {len(clips)} CLIP models and weights {weights}: give one for each.")
    if len({clip.name for clip in clips}) < len(clips):
        raise ValueError("A CLIP model is named twice: name each once and use weights instead.")
    weighted = {}
    for clip, share in zip(clips, weights, strict=True):
        suffix = f" {clip.name}" if len(clips) > 1 else ""
        for name, (weight, term) in _terms(clip, source, target, config).items():
            weighted[name + suffix] = (weight * share / sum(weights), term)
    if (
        config.lambda_token
        and Target.of(target).pictures is not None
        and not any(map(has_tokens, clips))
    ):
        raise PromptError(
            f"The token loss needs a vision transformer, which {quote(clips[0].name)} is not: "
            "set its weight to 0, or take another CLIP model."
        )
    loss = WeightedSum(weighted)
    return Augmented(loss, config.views) if config.views else loss


def _terms(
    clip: Encoder, source: str, target: str | Target, config: GuidanceConfig
) -> dict[str, tuple[float, FeatureLoss]]:
    # The direction is taken in any case: it is what notices a bad or a pointless pair of prompts.
    weight = config.picture_weight
    aim = move_to(clip, source, target, config.prompt_templates, weight)
    terms: dict[str, tuple[float, FeatureLoss]] = {
        "directional": (config.lambda_directional, DirectionalLoss(clip, aim.direction)),
        "global": (config.lambda_global, GlobalLoss(clip, target, picture_weight=weight)),
        "in_domain": (config.lambda_in_domain, InDomainLoss(clip)),
    }
    terms |= _reach_terms(clip, aim, config)
    pictures = Target.of(target).pictures
    if pictures is not None and config.lambda_token and has_tokens(clip):
        terms["token"] = (config.lambda_token, TokenLoss(clip, pictures))
    weighted = {name: term for name, term in terms.items() if term[0]}
    return weighted | {"way": terms["way"]} if weighted and "way" in terms else weighted


def _reach_terms(
    clip: Encoder, aim: Aim, config: GuidanceConfig
) -> dict[str, tuple[float, FeatureLoss]]:
    """What needs to know how far the target asks to go; nothing where nobody can tell."""
    if aim.asked is None:
        return {}
    length = config.reach * aim.asked
    return {
        "cap": (config.lambda_cap, CapLoss(clip, aim.direction, length)),
        "point": (config.lambda_point, PointLoss(clip, length * aim.direction)),
        # in units of what is asked for by the target, whatever was asked of the run
        "way": (0.0, WayGone(clip, aim.direction, aim.asked)),
    }


def target_loss(
    clips: Sequence[Encoder], target: str | Target, picture_weight: float = 1.0
) -> Callable[[Tensor], Tensor]:
    """The global loss of images for one CLIP model or the mean over an ensemble: what the layer
    selectors take as their objective."""
    losses = [GlobalLoss(clip, target, picture_weight=picture_weight) for clip in clips]
    return lambda images: cast(Tensor, sum(loss(images) for loss in losses)) / len(losses)
