"""Layer scores against the reference program's, and which row drives which layer, by trying."""

import pytest
import torch

from nada.compute import SynthesisOptions
from nada.generator import Generator, GeneratorConfig
from nada.guidance import GlobalLoss
from nada.layers import (
    SELECTORS,
    candidates,
    freeze_all_but,
    gradient_norms,
    row_of,
    select_by_gradient,
    select_by_w_shift,
    select_layers_to_unfreeze,
    w_shifts,
)
from tests.helpers import fill_generator, golden, randn, tiny_generator

GOLDEN = golden("guidance")


@pytest.fixture(scope="module")
def reference():
    generator = fill_generator(Generator(GeneratorConfig.standard(32)))
    return generator.eval().requires_grad_(False)


@pytest.fixture
def objective(clip_tiny):
    return GlobalLoss(clip_tiny, "sketch")


@pytest.fixture
def z():
    return torch.randn(5, 16)


# Scores


@pytest.mark.parametrize("target", ["Sketch", "Zombie"])
def test_w_shifts_are_the_reference_programs(reference, clip_a, target):
    z = randn("golden/select", (8, 512))
    got = torch.tensor(w_shifts(reference, z, GlobalLoss(clip_a, target)))
    torch.testing.assert_close(got, GOLDEN[f"w_shift/32/{target}/scores"], rtol=1e-3, atol=0)


@pytest.mark.parametrize("target", ["Sketch", "Zombie"])
@pytest.mark.parametrize(
    "entry, weight_only", [("conv_weight_norms", True), ("all_param_norms", False)]
)
def test_gradient_norms_are_the_reference_programs(reference, clip_a, target, entry, weight_only):
    z = randn("golden/select", (8, 512))
    norms = gradient_norms(reference, z, GlobalLoss(clip_a, target), weight_only=weight_only)
    assert list(norms) == ["conv1", *(f"convs.{i}" for i in range(6))]
    expected = GOLDEN[f"gradient/32/{target}/{entry}"]
    torch.testing.assert_close(torch.tensor(list(norms.values())), expected, rtol=1e-3, atol=0)


def test_micro_batches_make_no_difference(generator, z, objective):
    names = candidates(generator, to_rgb=True)
    variants = (
        SynthesisOptions(micro_batch=5),
        SynthesisOptions(micro_batch=2),
        SynthesisOptions(micro_batch=2, checkpointing=True),
    )
    for options in variants[1:]:
        whole, parts = (
            gradient_norms(generator, z, objective, names, options=each)
            for each in (variants[0], options)
        )
        assert parts == pytest.approx(whole, rel=1e-3)
    whole, parts = (w_shifts(generator, z, objective, options) for options in variants[:2])
    assert parts == pytest.approx(whole, rel=1e-3)


def test_w_shift_is_the_mean_move_of_an_sgd_step(generator, z, objective):
    """With a rate a million times larger, so that float32 does not swallow the step."""
    ws = generator.mapping(z).clone().requires_grad_(True)
    before = ws.detach().clone()
    optimizer = torch.optim.SGD([ws], lr=0.01 * 1e6)
    objective(generator.synthesis(ws)).backward()
    optimizer.step()
    expected = (ws.detach() - before).abs().mean(dim=(0, 2)) / 1e6
    assert w_shifts(generator, z, objective) == pytest.approx(expected.tolist(), rel=1e-3)


# Which row drives which layer


@pytest.mark.parametrize("size, channels", [(4, (8,)), (8, (8, 6)), (32, (8, 8, 6, 4))])
def test_moving_a_row_moves_the_style_of_exactly_its_layers(size, channels):
    generator = tiny_generator(GeneratorConfig(size, 16, 16, 2, channels))
    names, styles = candidates(generator, to_rgb=True), {}
    for name in names:
        generator.layer(name).register_forward_pre_hook(
            lambda layer, inputs, name=name: styles.__setitem__(name, inputs[1].clone())
        )
    ws = generator.mapping(torch.randn(1, 16)).clone()
    generator.synthesis(ws)
    before, driven = dict(styles), {}
    for row in range(generator.num_ws):
        moved = ws.clone()
        moved[:, row] += 1
        generator.synthesis(moved)
        driven |= {name: row for name in names if not torch.equal(styles[name], before[name])}
    assert driven == row_of(generator)
    assert list(driven.values()).count(generator.num_ws - 1) == 1  # the last to_rgb's own


# Selectors


def test_candidates_are_the_layers_up_to_a_resolution(generator):
    assert candidates(generator) == ("conv1", "convs.0", "convs.1", "convs.2", "convs.3")
    assert candidates(generator, resolution=8) == ("conv1", "convs.0", "convs.1")
    everything = candidates(generator, to_rgb=True)
    assert everything[5:] == ("to_rgb1", "to_rgbs.0", "to_rgbs.1")
    assert candidates(generator, True, 4) == ("conv1", "to_rgb1")


@pytest.mark.parametrize("select", SELECTORS.values())
def test_zero_means_all_candidates_and_costs_no_pass(generator, z, select):
    def objective(images):
        raise AssertionError("no pass is needed")

    assert select(generator, z, objective, 0) == list(generator.conv_names)
    names = candidates(generator, to_rgb=True)
    assert select(generator, z, objective, 0, names) == list(names)
    assert names[-3:] == ("to_rgb1", "to_rgbs.0", "to_rgbs.1")


@pytest.mark.parametrize("select", SELECTORS.values())
@pytest.mark.parametrize("k", [-1, 6, 99])
def test_impossible_counts_get_a_sentence(generator, z, objective, select, k):
    with pytest.raises(ValueError, match=f"k is {k}, but there are 5 layers to choose from: use"):
        select(generator, z, objective, k)


@pytest.mark.parametrize("select", SELECTORS.values())
def test_fewer_layers_are_the_first_of_more_and_nothing_changes(generator, z, objective, select):
    generator.conv1.requires_grad_(True)
    flags = [p.requires_grad for p in generator.parameters()]
    state = {key: value.clone() for key, value in generator.state_dict().items()}
    names = candidates(generator, to_rgb=True)
    ranking = select(generator, z, objective, 8, names)
    assert sorted(ranking) == sorted(names)
    assert [select(generator, z, objective, k, names) for k in (1, 3)] == [ranking[:1], ranking[:3]]
    assert [p.requires_grad for p in generator.parameters()] == flags
    assert all(p.grad is None for p in generator.parameters())
    assert all(torch.equal(value, state[key]) for key, value in generator.state_dict().items())


def test_the_layer_that_the_objective_hangs_on_is_found(generator, z):
    """Make one convolution's weights tiny inside: the same change of output takes less of them."""
    with torch.no_grad():
        generator.convs[2].conv.weight.mul_(1e-3)
    assert select_by_gradient(generator, z, lambda images: images.mean(), 1) == ["convs.2"]


def test_of_styles_the_layer_counts_whose_offsets_have_the_gradient(generator, z):
    """A convolution of tiny weights has the largest gradient of all, and none of its offsets:
    demodulation takes out any factor that all its channels have in common."""
    with torch.no_grad():
        generator.convs[2].conv.weight.mul_(1e-3)
        generator.convs[2].conv.modulation.weight.zero_()

    def objective(images):
        return images.mean()

    assert select_by_gradient(generator, z, objective, 1) == ["convs.2"]
    norms = gradient_norms(generator, z, objective, parameters="styles")
    chosen = select_by_gradient(generator, z, objective, 5, parameters="styles")
    assert chosen == sorted(norms, key=norms.get, reverse=True)
    assert chosen[0] != "convs.2"


def test_norms_of_styles_are_those_of_the_modulation_biases(generator, z, objective):
    names = candidates(generator, to_rgb=True)
    for parameter in generator.parameters():
        parameter.requires_grad_(True)
    objective(generator.synthesis(generator.mapping(z))).backward()
    norms = gradient_norms(generator, z, objective, names, parameters="styles")
    for name in names:
        expected = generator.layer(name).conv.modulation.bias.grad.norm().item()
        assert norms[name] == pytest.approx(expected, rel=1e-4), name


def test_the_row_that_the_objective_hangs_on_is_found(generator, z):
    with torch.no_grad():
        for name in candidates(generator, to_rgb=True):
            if name != "convs.1":
                generator.layer(name).conv.modulation.weight.mul_(1e-3)
    assert select_by_w_shift(generator, z, lambda images: images.square().mean(), 1) == ["convs.1"]


def test_an_rgb_output_has_the_score_of_its_row_and_comes_after_the_convolution(generator, z):
    with torch.no_grad():
        for name in candidates(generator, to_rgb=True):
            if name not in ("convs.2", "to_rgbs.0"):
                generator.layer(name).conv.modulation.weight.mul_(1e-3)
    names = candidates(generator, to_rgb=True)
    chosen = select_by_w_shift(generator, z, lambda images: images.square().mean(), 2, names)
    assert chosen == ["convs.2", "to_rgbs.0"]


def test_scores_that_are_no_numbers_are_not_ranked(generator, z):
    for select in SELECTORS.values():
        with pytest.raises(FloatingPointError, match="not numbers"):
            select(generator, z, lambda images: images.mean() * torch.nan, 2)


def test_selection_works_where_the_caller_has_gradients_off(generator, z, objective):
    expected = select_by_gradient(generator, z, objective, 3)
    with torch.no_grad():
        assert select_by_gradient(generator, z, objective, 3) == expected


def test_select_layers_to_unfreeze_ends_with_the_rest_frozen(generator, z, objective):
    names = select_layers_to_unfreeze(generator, z, objective, k=2)
    assert names == select_by_gradient(generator, z, objective, 2)
    trained = {
        key.split(".conv.")[0].split(".noise.")[0].split(".activate.")[0]
        for key, value in generator.named_parameters()
        if value.requires_grad
    }
    assert trained == set(names)


def test_freezing_frees_all_parameters_of_the_named_layers(generator):
    freeze_all_but(generator, ["convs.1", "to_rgb1"])
    free = {key for key, value in generator.named_parameters() if value.requires_grad}
    assert free == {
        "convs.1.conv.weight",
        "convs.1.conv.modulation.weight",
        "convs.1.conv.modulation.bias",
        "convs.1.noise.weight",
        "convs.1.activate.bias",
        "to_rgb1.conv.weight",
        "to_rgb1.conv.modulation.weight",
        "to_rgb1.conv.modulation.bias",
        "to_rgb1.bias",
    }


def test_freezing_for_styles_frees_their_offsets_alone(generator):
    freeze_all_but(generator, ["convs.1", "to_rgb1"], parameters="styles")
    free = {key for key, value in generator.named_parameters() if value.requires_grad}
    assert free == {"convs.1.conv.modulation.bias", "to_rgb1.conv.modulation.bias"}


def test_unknown_layers_get_a_sentence(generator, z, objective):
    with pytest.raises(ValueError, match=r"no layer 'convs\.9'"):
        select_by_gradient(generator, z, objective, 1, ["convs.9"])
