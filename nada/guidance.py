"""What tells the generator where to go: directions and losses in CLIP's space.

A loss here is a function of unit features, wrapped so that it can be called with pictures. Several
of them make a `WeightedSum`, which encodes each batch once per CLIP model however many terms look
at it. `objective` builds the usual mix. Facts about the method: StyleGAN-NADA, arXiv 2108.00946.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.clip import CLIP, PromptError, resize
from nada.formats.messages import quote

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

# A move in CLIP's space shorter than this (unit features: 3 degrees) counts by its length instead
# of as a whole step. The twins start identical, where a cosine has no value and next to it a
# gradient without bound, which would fill Adam's memory and hold back the next hundred steps.
SHORTEST_MOVE = 0.05


# Directions


def prompt_features(clip: CLIP, prompt: str, templates: Sequence[str] = TEMPLATES) -> Tensor:
    """Unit features [T, D] of a prompt put into each template; PromptError if CLIP cannot read it.

    The prompt is inserted as it is: braces in it mean nothing.
    """
    clip.check_prompt(prompt)
    with torch.no_grad():
        return clip.encode_text([template.replace("{}", prompt) for template in templates])


def text_direction(
    clip: CLIP, source: str, target: str, templates: Sequence[str] = TEMPLATES
) -> Tensor:
    """Unit [D] from a source prompt to a target prompt, averaged over templates (section 3.2).

    PromptError when a prompt cannot be read or when both mean the same to this model.
    """
    before, after = (prompt_features(clip, prompt, templates) for prompt in (source, target))
    direction = (after - before).mean(dim=0)
    if direction.norm() < 1e-3:
        raise PromptError(
            f"{quote(source)} and {quote(target)} are the same to CLIP model "
            f"{clip.name}: choose a target that differs from the source."
        )
    return F.normalize(direction, dim=0)


def image_direction(clip: CLIP, source_images: Tensor, target_images: Tensor) -> Tensor:
    """Unit [D] from the mean of source pictures (samples of the frozen generator, 16 say) to the
    mean of target pictures, both [N, 3, H, W] in [-1, 1]. ValueError when the means coincide."""
    with torch.no_grad():
        direction = _mean_feature(clip, target_images) - _mean_feature(clip, source_images)
    if direction.norm() < 1e-3:
        raise ValueError(
            f"The pictures look like the generator's own to CLIP model {clip.name}: "
            "choose pictures of another domain."
        )
    return F.normalize(direction, dim=0)


def _mean_feature(clip: CLIP, images: Tensor) -> Tensor:
    return clip.encode_image(images).mean(dim=0)


# Losses


class FeatureLoss(nn.Module, ABC):
    """A loss of the unit features [N, D] of source and adapted pictures of the same latents."""

    def __init__(self, clip: CLIP):
        super().__init__()
        self.clip = clip

    @property
    def resolution(self) -> int:
        """Side in pixels of the pictures that CLIP sees."""
        return self.clip.resolution

    @abstractmethod
    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        """The scalar loss of two sets of features [N, D]."""

    def forward(self, source_images: Tensor, adapted_images: Tensor) -> Tensor:
        """The scalar loss of pictures [N, 3, H, W] in [-1, 1]; no gradient for the source."""
        with torch.no_grad():
            source = self.clip.encode_image(source_images)
        return self.compare(source, self.clip.encode_image(adapted_images))


class DirectionalLoss(FeatureLoss):
    """1 − cos(E(adapted) − E(source), direction), averaged over the batch (equation 2); in [0, 2].

    direction: [D], from `text_direction` or `image_direction`. Identical twins have loss 1 and the
    gradient of a plain step along the direction (SHORTEST_MOVE).
    """

    def __init__(self, clip: CLIP, direction: Tensor):
        super().__init__(clip)
        self.register_buffer("direction", F.normalize(direction.detach().float(), dim=-1))

    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        move = adapted - source  # [N, D]
        length = move.norm(dim=1).clamp(min=SHORTEST_MOVE)
        return (1 - move @ self.direction / length).mean()


class GlobalLoss(FeatureLoss):
    """1 − cos(E(adapted), E(target text)), averaged over the batch (equation 1); in [0, 2].

    target: a prompt, put into each of `templates`; the features are averaged and made unit.
    """

    def __init__(self, clip: CLIP, target: str, templates: Sequence[str] = ("{}",)):
        super().__init__(clip)
        text = prompt_features(clip, target, templates).mean(dim=0)
        self.register_buffer("text", F.normalize(text, dim=0))

    def compare(self, source: Tensor | None, adapted: Tensor) -> Tensor:
        return (1 - adapted @ self.text).mean()

    def forward(self, images: Tensor) -> Tensor:
        """The scalar loss of pictures [N, 3, H, W] in [-1, 1]."""
        return self.compare(None, self.clip.encode_image(images))


class InDomainLoss(FeatureLoss):
    """Mean squared change of the cosine between two pictures of a batch; keeps people different.

    Compares every pair of different adapted pictures with the same pair of source pictures
    (relational regularisation, as in Ojha et al. 2021); batches of 2 or more.
    """

    def compare(self, source: Tensor, adapted: Tensor) -> Tensor:
        count = len(source)
        if count < 2:
            raise ValueError(
                f"The in-domain term compares pictures with each other and got {count}: "
                "set the batch to 2 or more, or its weight to 0."
            )
        change = adapted @ adapted.T - source @ source.T  # [N, N], the diagonal is 0
        return change.square().sum() / (count * (count - 1))


class WeightedSum(nn.Module):
    """Σ weight · term over {name: (weight, term)}; each term a FeatureLoss."""

    def __init__(self, weighted: Mapping[str, tuple[float, FeatureLoss]]):
        super().__init__()
        if not weighted:
            raise ValueError("Every loss weight is 0: give at least one term a weight.")
        self.weights = {name: float(weight) for name, (weight, _) in weighted.items()}
        self.losses = nn.ModuleList(term for _, term in weighted.values())

    def terms(self, source_images: Tensor, adapted_images: Tensor) -> dict[str, Tensor]:
        """Each term by name, unweighted; pictures are encoded once per CLIP model."""
        features = {}
        for clip in {id(term.clip): term.clip for term in self.losses}.values():
            with torch.no_grad():
                source = clip.encode_image(source_images)
            features[id(clip)] = source, clip.encode_image(adapted_images)
        values = (term.compare(*features[id(term.clip)]) for term in self.losses)
        return dict(zip(self.weights, values, strict=True))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` returned."""
        return sum(self.weights[name] * value for name, value in terms.items())

    def forward(self, source_images: Tensor, adapted_images: Tensor) -> Tensor:
        """The scalar loss of pictures [N, 3, H, W] in [-1, 1]."""
        return self.total(self.terms(source_images, adapted_images))

    @property
    def resolution(self) -> int:
        """The largest picture that any of the CLIP models takes, in pixels."""
        return max(term.clip.resolution for term in self.losses)


class RandomViews(nn.Module):
    """Randomly changed copies of pictures; those of several batches all changed alike, so that the
    difference between a source and an adapted picture stays what it is.

    Pictures are clamped to [-1, 1] first: CLIP is not pleased by what nobody sees. Random numbers
    come from a CPU generator of this object's own, set by `seed`: the same changes on every device.

    views: copies of each picture. translate: largest shift, of the side; scale: largest change of
    size, of 1; rotate: degrees; cutout: largest side of the grey square, of the side; colour:
    largest change of brightness (of half the range), contrast and saturation, of 1. Half of the
    views are mirrored.
    """

    def __init__(
        self,
        views: int = 2,
        translate: float = 0.06,
        scale: float = 0.12,
        rotate: float = 8.0,
        cutout: float = 0.25,
        colour: float = 0.15,
    ):
        super().__init__()
        if views < 1:
            raise ValueError(f"The number of views must be 1 or more, got {views}.")
        self.views = views
        self.translate, self.scale, self.rotate = translate, scale, math.radians(rotate)
        self.cutout, self.colour = cutout, colour
        self.random = torch.Generator()
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Start the sequence of random changes that belongs to `seed`."""
        self.random.manual_seed(seed)

    def draw(self, side: int, *batches: Tensor) -> tuple[Tensor, ...]:
        """Batches [N, 3, H, W] → [views·N, 3, side, side], all changed alike."""
        batches = [resize(images, side).repeat(self.views, 1, 1, 1) for images in batches]
        count, device = len(batches[0]), batches[0].device
        grid = self._grid(count, side).to(device)
        matrix, offset = (part.to(device) for part in self._colours(count))
        mask = self._mask(count, side).to(device)
        return tuple(_change(images, grid, matrix, offset, mask) for images in batches)

    def _uniform(self, count: int, limit: float) -> Tensor:
        """`count` numbers in [-limit, limit], on the CPU."""
        return (torch.rand(count, generator=self.random) * 2 - 1) * limit

    def _grid(self, count: int, side: int) -> Tensor:
        """Where each output pixel is read from, [N, side, side, 2]: an affine map of the plane."""
        angle, zoom = self._uniform(count, self.rotate), 1 + self._uniform(count, self.scale)
        mirror = self._uniform(count, 1.0).sign()
        right, down = (self._uniform(count, 2 * self.translate) for _ in range(2))
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        rows = [cos * mirror, -sin, right, sin * mirror, cos, down]
        theta = torch.stack(rows, dim=1).view(count, 2, 3)
        return F.affine_grid(theta, [count, 3, side, side], align_corners=False)

    def _colours(self, count: int) -> tuple[Tensor, Tensor]:
        """Saturation, contrast and brightness as one map c ↦ M c + b: [N, 3, 3] and [N, 1, 1]."""
        saturation, contrast = (1 + self._uniform(count, self.colour) for _ in range(2))
        luma = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)  # ITU-R BT.601
        saturation, contrast = saturation.view(-1, 1, 1), contrast.view(-1, 1, 1)
        matrix = contrast * (saturation * torch.eye(3) + (1 - saturation) * luma)
        return matrix, self._uniform(count, self.colour).view(-1, 1, 1)

    def _mask(self, count: int, side: int) -> Tensor:
        """1 where the picture is kept and 0 in a random square, [N, 1, side, side]."""
        centre = self._uniform(2 * count, 1.0).view(2, count, 1)
        half = self._uniform(count, self.cutout).abs().view(count, 1)  # in a range of length 2
        line = (torch.arange(side) + 0.5) / side * 2 - 1
        down, right = (line - centre).abs() < half  # [N, side] each
        return 1 - (down[:, None, :, None] & right[:, None, None, :]).float()


class Augmented(RandomViews):
    """A loss of randomly changed copies of each picture instead of the picture itself.

    A direction that fools CLIP in one exact view rarely fools it in many. views, changes: as
    `RandomViews` takes them.
    """

    def __init__(self, loss: WeightedSum, views: int = 2, **changes: float):
        super().__init__(views, **changes)
        self.loss = loss

    @property
    def resolution(self) -> int:
        """The largest picture that any of the CLIP models takes, in pixels."""
        return self.loss.resolution

    def views_of(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Batches [N, 3, H, W] → [views·N, 3, s, s], all changed alike; s is CLIP's resolution."""
        return self.draw(self.resolution, *batches)

    def terms(self, source_images: Tensor, adapted_images: Tensor) -> dict[str, Tensor]:
        """The wrapped loss's terms of one draw of views."""
        return self.loss.terms(*self.views_of(source_images, adapted_images))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` returned."""
        return self.loss.total(terms)

    def forward(self, source_images: Tensor, adapted_images: Tensor) -> Tensor:
        """The scalar loss of one draw of views."""
        return self.total(self.terms(source_images, adapted_images))


def _change(images: Tensor, grid: Tensor, matrix: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    images = images.clamp(-1, 1)  # as they are shown: nothing is gained by whiter than white
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    images = (matrix @ images.flatten(2) + offset).view_as(images)
    return images * mask


def build_loss(
    clips: Sequence[CLIP],
    source: str,
    target: str,
    directional: float = 1.0,
    global_: float = 0.0,
    in_domain: float = 0.0,
    views: int = 0,
    templates: Sequence[str] = TEMPLATES,
    weights: Sequence[float] | None = None,
) -> WeightedSum | Augmented:
    """The usual loss of (source images, adapted images) for one CLIP model or an ensemble.

    directional, global_, in_domain: weights of the terms, 0 leaves one out. The global term uses
    the bare target prompt; `templates` are the direction's. views: augmented copies of each
    picture, 0 for the picture itself. weights: one per model, all 1 by default; their sum counts
    as 1, so that the loss of an ensemble has the scale of one model's.
    """
    weights = [1.0] * len(clips) if weights is None else list(weights)
    if len(weights) != len(clips) or not clips or sum(weights) <= 0:
        raise ValueError(f"Got {len(clips)} CLIP models and weights {weights}: give one for each.")
    if len({clip.name for clip in clips}) < len(clips):
        raise ValueError("A CLIP model is named twice: name each once and use weights instead.")
    weighted = {}
    for clip, share in zip(clips, weights, strict=True):
        suffix = f" {clip.name}" if len(clips) > 1 else ""
        parts = _parts(clip, source, target, directional, global_, in_domain, templates)
        for name, (weight, term) in parts.items():
            weighted[name + suffix] = (weight * share / sum(weights), term)
    loss = WeightedSum(weighted)
    return Augmented(loss, views) if views else loss


def target_loss(clips: Sequence[CLIP], target: str) -> Callable[[Tensor], Tensor]:
    """The global loss of images for one CLIP model or the mean over an ensemble: what the layer
    selectors take as their objective."""
    losses = [GlobalLoss(clip, target) for clip in clips]
    return lambda images: sum(loss(images) for loss in losses) / len(losses)


def _parts(clip, source, target, directional, global_, in_domain, templates) -> dict:
    # The direction is taken in any case: it is what notices a bad or a pointless pair of prompts.
    direction = text_direction(clip, source, target, templates)
    parts = {
        "directional": (directional, DirectionalLoss(clip, direction)),
        "global": (global_, GlobalLoss(clip, target)),
        "in_domain": (in_domain, InDomainLoss(clip)),
    }
    return {name: part for name, part in parts.items() if part[0]}
