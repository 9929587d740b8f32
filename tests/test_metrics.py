"""Measures on features whose answers are known without the program."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nada.metrics import (
    CollapseAlarm,
    diversity,
    frechet_distance,
    identity,
    kernel_distance,
    quality,
    spread,
)

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
    cosines = [
        F.cosine_similarity(features[i], features[j], dim=0).item()
        for i in range(6)
        for j in range(i)
    ]
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


def test_frechet_distance_is_that_of_the_fitted_gaussians():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(50, 3, generator=generator).double()
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + torch.tensor([3.0, 0, 4])) == pytest.approx(25)
    # the same mean, twice the spread: tr(C + 4C − 2·2C) = tr C
    wide = a.mean(0) + 2 * (a - a.mean(0))
    assert frechet_distance(a, wide) == pytest.approx(np.trace(np.cov(a.numpy().T)))
    b = torch.randn(40, 3, generator=generator).double() @ torch.randn(3, 3).double()
    values = np.linalg.eigvals(np.cov(a.numpy().T) @ np.cov(b.numpy().T))
    expected = (
        ((a.mean(0) - b.mean(0)) ** 2).sum().item()
        + np.trace(np.cov(a.numpy().T) + np.cov(b.numpy().T))
        - 2 * np.sqrt(values.real).sum()
    )
    assert frechet_distance(a, b) == pytest.approx(expected)


def test_kernel_distance_is_the_sum_over_pairs():
    x, y = np.random.default_rng(0).normal(size=(2, 5, 4))
    k = lambda p, q: (p @ q / 4 + 1) ** 3  # noqa: E731
    same = lambda s: np.mean([k(s[i], s[j]) for i in range(5) for j in range(5) if i != j])  # noqa: E731
    cross = np.mean([k(p, q) for p in x for q in y])
    got = kernel_distance(torch.tensor(x), torch.tensor(y))
    assert got == pytest.approx(same(x) + same(y) - 2 * cross)
    far = kernel_distance(torch.tensor(x), torch.tensor(y + 5))
    assert far > 100 * abs(got)


@pytest.mark.parametrize(
    "call",
    [
        lambda: quality(EYE[:0], EYE),
        lambda: quality(EYE[0], EYE),
        lambda: diversity(EYE[:1]),
        lambda: identity(EYE[:1], EYE[:1]),
        lambda: frechet_distance(EYE[:1], EYE),
        lambda: kernel_distance(EYE, EYE[:1]),
    ],
)
def test_too_few_features_get_a_sentence(call):
    with pytest.raises(ValueError, match=r"features of shape .*: give \[N, D\] with N at least"):
        call()


def test_features_that_do_not_pair_get_a_sentence():
    with pytest.raises(ValueError, match="give one of each seed"):
        identity(EYE, EYE[:3])


# The alarm on the way


def test_the_spread_is_the_mean_distance_of_different_pairs():
    images = torch.zeros(3, 3, 32, 32)
    images[1], images[2, 0] = 1.0, 2.0
    pairs = [(3 * 256) ** 0.5, (4 * 256) ** 0.5, (256 * (1 + 1 + 1)) ** 0.5]
    assert spread(images) == pytest.approx(sum(pairs) / 3)
    assert spread(images[:1].expand(4, -1, -1, -1)) == 0


def steps(kept, way=1.0):
    """What the alarm says of a run whose step n keeps kept[n] of the differences."""
    people = torch.randn(len(kept), 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    alarm = CollapseAlarm()
    return [alarm.see(images, share * images, way) for images, share in zip(people, kept)]


@pytest.mark.parametrize(
    "kept, way, alarms",
    [
        ([1 - 0.02 * n for n in range(48)], 1.0, True),  # down to 0.06
        ([1 - 0.02 * n for n in range(48)], None, True),  # nobody knows the way
        ([1 - 0.012 * n for n in range(48)], 1.0, False),  # down to 0.44, as bronze statues
        ([1 - 0.012 * n for n in range(48)], 0.1, True),  # on a tenth of the way
        ([0.2] * 48, 1.0, False),  # low, and falls no more
        ([1.0] * 48, 1.0, False),
    ],
)
def test_the_alarm_is_for_what_the_way_does_not_explain(kept, way, alarms):
    said = steps(kept, way)
    assert any(said) is alarms and not any(said[:15])


def test_an_alarm_ends_when_people_stop_becoming_alike():
    said = steps([max(0.1, 1 - 0.03 * n) for n in range(60)])
    assert said[28] and not said[-1]
