"""How good an adapted generator is, as pure functions of features: CLIP's, or a judge's; and an
alarm on the way, from the images themselves.

Which model, which prompts and templates, which truncation and how many images made the features is
the caller's to choose, and belongs beside every number that is published.
"""

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor

COARSE = 16  # pixels a side at which images are held against each other: shapes and colours
# Of the spread of photos, true renders of the bundled world's styles keep from 0.47 (bronze
# statue) to 1.4 (cartoon); an alarm has to stay silent for all of them.
LEAST_SPREAD = 0.47
ALARMING = 0.6  # of the least that the way explains
FALLING = 0.97  # of what it was, or less: the rest is that others are looked at
WINDOW = 8  # steps of a few images each, for one of them tells little


def quality(features: Tensor, text_features: Tensor) -> float:
    """Mean cosine of adapted images and the target prompt, in [-1, 1]; more is better.

    As StyleDomain (arXiv 2212.10229) defines it.

    Args:
        features: of adapted images, [N, D].
        text_features: of the target prompt put into templates, [T, D].
    """
    _check(features, least=1)
    _check(text_features, least=1)
    return (_unit(features) @ _unit(text_features).T).mean().item()


def diversity(features: Tensor) -> float:
    """Mean of 1 − cosine over all pairs of different images, in [0, 2]; 0 when all are the same.

    More is better (StyleDomain, arXiv 2212.10229).

    Args:
        features: of adapted images, [N, D].

    Raises:
        ValueError: fewer than 2 images.
    """
    count = _check(features, least=2)
    cosines = _unit(features) @ _unit(features).T  # [N, N]
    pairs = ~torch.eye(count, dtype=torch.bool, device=features.device)
    return (1 - cosines[pairs]).mean().item()


def identity(adapted_features: Tensor, source_features: Tensor) -> float:
    """Share of adapted images whose nearest source image is that of their own seed.

    In [0, 1], more is better; 1/N is chance. Each set is centred first, which takes away the move
    that all images share: what is left is what tells people apart.

    Args:
        adapted_features, source_features: of the images of the same seeds, [N, D] each.

    Raises:
        ValueError: fewer than 2 images, or another number of one than of the other.
    """
    count = _check(adapted_features, least=2)
    if source_features.shape != adapted_features.shape:
        raise ValueError(
            f"Got features {list(adapted_features.shape)} of adapted and "
            f"{list(source_features.shape)} of source images: give one of each seed."
        )
    adapted, source = (
        _unit(features - features.mean(dim=0))
        for features in (_unit(adapted_features), _unit(source_features))
    )
    nearest = (adapted @ source.T).argmax(dim=1)
    return (nearest == torch.arange(count, device=nearest.device)).double().mean().item()


def spread(images: Tensor) -> float:
    """Mean Euclidean distance of two different images, 16 pixels a side; 0 when all are the same.

    Args:
        images: [N, C, H, W].

    Raises:
        ValueError: fewer than 2 images.
    """
    flat = F.adaptive_avg_pool2d(images.float(), COARSE).flatten(1)
    count = _check(flat, least=2)
    return torch.cdist(flat, flat).sum().item() / (count * (count - 1))


class CollapseAlarm:
    """Watches a run for people who become alike beyond what the way that it has gone explains.

    A style takes differences away, so a low spread alone is no alarm (bronze statues differ half as
    much as photos). After the whole way a domain may have LEAST_SPREAD of the source's, before it
    more in proportion. The alarm is on where the last steps' is below ALARMING of that and still
    falls.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, float]] = deque(maxlen=2 * WINDOW)

    def see(self, source: Tensor, adapted: Tensor, way: float | None) -> bool:
        """Whether it is on after one more step.

        Args:
            source, adapted: the step's images [N, 3, H, W] in [-1, 1], two or more.
            way: gone of what the words ask, 1 for all; None where nobody knows.
        """
        self._seen.append((spread(source), spread(adapted)))
        if len(self._seen) < 2 * WINDOW:
            return False
        pairs = list(self._seen)
        before, now = _kept(pairs[:WINDOW]), _kept(pairs[WINDOW:])
        gone = 1.0 if way is None else min(max(way, 0.0), 1.0)
        return now < min(FALLING * before, ALARMING * (1 - (1 - LEAST_SPREAD) * gone))


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to two sets of features [N, D] and [M, D].

    |μa − μb|² + tr(Ca + Cb − 2 (Ca Cb)^½) (Heusel et al., arXiv 1706.08500, equation 6). Zero for
    equal sets; biased upwards for few features, so compare with two halves of the truth.

    Args:
        a, b: two sets of features of one kind, in any order.

    Raises:
        ValueError: fewer than 2 features in either set.
    """
    _check(a, least=2)
    _check(b, least=2)
    a, b = a.double(), b.double()
    mean = (a.mean(0) - b.mean(0)).square().sum()
    # With centred features A, Ca = AᵀA, and (Ca Cb)^½ has the trace that the singular values of
    # ABᵀ sum up to: no root of a matrix that has no full rank.
    a, b = (x - x.mean(0) for x in (a, b))
    a, b = a / (len(a) - 1) ** 0.5, b / (len(b) - 1) ** 0.5
    mixed = torch.linalg.svdvals(a @ b.T).sum()
    return (mean + a.square().sum() + b.square().sum() - 2 * mixed).item()


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy of two sets of features [N, D] and [M, D], unbiased.

    With the kernel (x·y / D + 1)³ (KID, Bińkowski et al., arXiv 1801.01401). About 0 for sets of
    one distribution, and then often just below.

    Args:
        a, b: two sets of features of one kind, in any order.

    Raises:
        ValueError: fewer than 2 features in either set.
    """
    n, m = _check(a, least=2), _check(b, least=2)
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    same_a, same_b = kernel(a, a), kernel(b, b)
    within_a = (same_a.sum() - same_a.trace()) / (n * (n - 1))
    within_b = (same_b.sum() - same_b.trace()) / (m * (m - 1))
    return (within_a + within_b - 2 * kernel(a, b).mean()).item()


def _kept(spreads: list[tuple[float, float]]) -> float:
    """Which share of the source's spread the adapted images have; 1 of one that has none."""
    source, adapted = (sum(column) for column in zip(*spreads))
    return adapted / source if source else 1.0


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.double(), dim=1)


def _check(features: Tensor, least: int) -> int:
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"Got features of shape {list(features.shape)}: give [N, D] with N at least {least}."
        )
    return len(features)
