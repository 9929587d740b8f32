"""How good an adapted generator is, as pure functions of CLIP features.

Which CLIP model, which prompts and templates, which truncation and how many pictures made the
features is the caller's to choose, and belongs beside every number that is published.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def quality(features: Tensor, text_features: Tensor) -> float:
    """Mean cosine of adapted pictures [N, D] and of the target prompt in its templates [T, D].

    In [-1, 1], more is better. (StyleDomain, arXiv 2212.10229, calls it so.)
    """
    _check(features, least=1)
    _check(text_features, least=1)
    return (_unit(features) @ _unit(text_features).T).mean().item()


def diversity(features: Tensor) -> float:
    """Mean of 1 − cosine over all pairs of different adapted pictures [N, D]; 0 when all are one.

    In [0, 2], more is better (StyleDomain, arXiv 2212.10229). ValueError for fewer than 2.
    """
    count = _check(features, least=2)
    cosines = _unit(features) @ _unit(features).T  # [N, N]
    pairs = ~torch.eye(count, dtype=torch.bool, device=features.device)
    return (1 - cosines[pairs]).mean().item()


def identity(adapted_features: Tensor, source_features: Tensor) -> float:
    """Share of adapted pictures [N, D] whose nearest source picture [N, D] is their own seed's.

    In [0, 1], more is better; 1/N is chance. Each set is centred first, which takes away the move
    that all pictures share: what is left is who is who. ValueError for fewer than 2.
    """
    count = _check(adapted_features, least=2)
    if source_features.shape != adapted_features.shape:
        raise ValueError(
            f"Got features {list(adapted_features.shape)} of adapted and "
            f"{list(source_features.shape)} of source pictures: give one of each seed."
        )
    adapted, source = (
        _unit(features - features.mean(dim=0))
        for features in (_unit(adapted_features), _unit(source_features))
    )
    nearest = (adapted @ source.T).argmax(dim=1)
    return (nearest == torch.arange(count, device=nearest.device)).double().mean().item()


def _unit(features: Tensor) -> Tensor:
    return F.normalize(features.double(), dim=1)


def _check(features: Tensor, least: int) -> int:
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"Got features of shape {list(features.shape)}: give [N, D] with N at least {least}."
        )
    return len(features)
