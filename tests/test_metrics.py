"""Measures on features whose answers are known without the program."""

import pytest
import torch
import torch.nn.functional as F

from nada.metrics import diversity, identity, quality

EYE = torch.eye(4)


def test_quality_is_the_mean_cosine_to_the_texts():
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert quality(features, texts) == pytest.approx((1 + 0.5**0.5 + 0 + 0.5**0.5) / 4)
    assert quality(EYE[:1], -EYE[:1]) == -1


def test_diversity_is_the_mean_distance_of_different_pairs():
    assert diversity(EYE) == 1  # every pair at a right angle
    assert diversity(EYE[:1].expand(5, -1)) == pytest.approx(0, abs=1e-12)
    assert diversity(torch.cat([EYE[:1], -EYE[:1]])) == 2
    features = torch.randn(6, 8)
    cosines = [F.cosine_similarity(features[i], features[j], dim=0).item()
               for i in range(6) for j in range(i)]  # fmt: skip
    assert diversity(features) == pytest.approx(1 - sum(cosines) / 15, abs=1e-6)


def test_measures_do_not_depend_on_the_length_of_features():
    features, texts = torch.randn(5, 8), torch.randn(3, 8)
    assert quality(3 * features, 0.1 * texts) == pytest.approx(quality(features, texts))
    assert diversity(3 * features) == pytest.approx(diversity(features))
    assert identity(3 * features, features) == 1


def test_identity_survives_a_move_that_all_share_and_falls_with_mixing_up():
    source = F.normalize(torch.randn(16, 32), dim=1)
    moved = source + 5 * F.normalize(torch.randn(1, 32), dim=1)
    assert identity(moved, source) == 1
    assert identity(moved.roll(1, dims=0), source) == 0
    half = torch.cat([moved[:8], moved[8:].roll(1, dims=0)])
    assert identity(half, source) == 0.5


def test_identity_of_one_picture_for_all_is_chance():
    source = torch.randn(8, 32)
    assert identity(torch.ones(8, 32), source) == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    "call",
    [
        lambda: quality(EYE[:0], EYE),
        lambda: quality(EYE[0], EYE),
        lambda: diversity(EYE[:1]),
        lambda: identity(EYE[:1], EYE[:1]),
    ],
)
def test_too_few_features_get_a_sentence(call):
    with pytest.raises(ValueError, match=r"features of shape .*: give \[N, D\] with N at least"):
        call()


def test_features_that_do_not_pair_get_a_sentence():
    with pytest.raises(ValueError, match="give one of each seed"):
        identity(EYE, EYE[:3])
