"""The loop: reproducible, closable at any point, and nothing trained but what was chosen."""

import contextlib
import copy
import dataclasses
import itertools
from functools import partial

import pytest
import torch

from nada.adapt import AdaptConfig, DivergedError, adapt, trainable_copy
from nada.guidance import GlobalLoss, GuidanceConfig, Target, build_loss
from nada.layers import (
    SELECTORS,
    SelectionConfig,
    candidates,
    select_by_gradient,
    select_by_w_shift,
)
from nada.presets import PRESETS, Preset, prepare
from nada.sample import sample
from tests.helpers import TINY, tiny_generator

QUICK = AdaptConfig(steps=4, batch=2, lr=0.02, select_batch=4, beta2=0.99)
GUIDANCE = GuidanceConfig(lambda_global=2.0, lambda_in_domain=0.5, views=2)


@pytest.fixture
def loss(clip_tiny):
    return build_loss([clip_tiny], "photo", "sketch", GUIDANCE)


def run(generator, loss, config=QUICK, select=None):
    """The adapted copy and all the progress of a run."""
    trainable = copy.deepcopy(generator)
    return trainable, list(adapt(generator, trainable, loss, config, select))


def changed(before, after) -> set[str]:
    """Names of the tensors that differ in any bit."""
    after = after.state_dict()
    return {key for key, value in before.state_dict().items() if not torch.equal(value, after[key])}


def layers_of(keys) -> set[str]:
    names = candidates(tiny_generator(), to_rgb=True)
    return {next(name for name in names if key.startswith(name + ".")) for key in keys}


def test_a_run_lowers_the_loss_and_reports_it(generator, loss):
    config = dataclasses.replace(QUICK, steps=30, batch=4)
    _, story = run(generator, loss, config)
    assert [progress.step for progress in story] == list(range(1, 31))
    assert story[0].terms["directional"] == 1  # the twins start identical
    last = sum(progress.loss for progress in story[-5:]) / 5
    assert last < story[0].loss - 0.1
    for progress in story:
        terms = progress.terms
        total = terms["directional"] + 2 * terms["global"] + 0.5 * terms["in_domain"]
        assert progress.loss == pytest.approx(total, rel=1e-5)
        assert progress.steps == 30 and progress.layers == generator.conv_names
    seconds = [progress.seconds for progress in story]
    assert seconds == sorted(seconds) and story[-1].eta == 0 < story[0].eta
    assert "step 30/30" in str(story[-1])


def test_the_sentence_that_the_library_is(generator, clip_tiny):
    """A loss that is one term, without names for its parts, will do."""
    from nada.guidance import DirectionalLoss, text_direction

    loss = DirectionalLoss(clip_tiny, text_direction(clip_tiny, "photo", "pencil sketch"))
    select = partial(select_by_gradient, objective=GlobalLoss(clip_tiny, "pencil sketch"), k=2)
    adapted, story = run(generator, loss, QUICK, select)
    assert story[-1].terms == {}
    assert layers_of(changed(generator, adapted)) == set(story[0].layers)


# Reproducible


def everything_on(clip):
    select = partial(select_by_w_shift, objective=GlobalLoss(clip, "sketch"), k=3)
    config = dataclasses.replace(QUICK, mixing=0.5, select_every=2, final_lr=0.001, preview_every=1)
    return config, select


def test_the_same_seed_gives_the_same_bits_whatever_happens_around(generator, loss, clip_tiny):
    config, select = everything_on(clip_tiny)
    first, story = run(generator, loss, config, select)
    trainable, again = copy.deepcopy(generator), []
    for progress in adapt(generator, trainable, loss, config, select):
        again.append(progress)
        torch.rand(7)  # a visitor next door
        sample(generator, [5])
    assert not changed(first, trainable)
    assert [p.loss for p in story] == [p.loss for p in again]
    assert all(torch.equal(p.preview, q.preview) for p, q in zip(story, again))


def test_another_seed_gives_another_result(generator, loss):
    first, _ = run(generator, loss)
    second, _ = run(generator, loss, dataclasses.replace(QUICK, seed=1))
    assert changed(first, second)


def test_previews_and_the_consumers_gradient_mode_do_not_change_the_result(generator, loss):
    plain, _ = run(generator, loss)
    shown, _ = run(generator, loss, dataclasses.replace(QUICK, preview_every=1))
    with torch.no_grad():
        silent, _ = run(generator, loss)
    assert not changed(plain, shown) and not changed(plain, silent)


def test_gradient_mode_is_the_consumers_own_at_every_yield(generator, loss):
    for mode in (True, False):
        with torch.set_grad_enabled(mode):
            for _ in adapt(generator, copy.deepcopy(generator), loss, QUICK):
                assert torch.is_grad_enabled() is mode


# Twins


def test_both_twins_get_the_same_latents_and_noise(generator):
    """Then, without a rate, they go on making the same pictures, and never the same ones twice."""
    seen = []

    def watch(source, adapted):
        assert torch.equal(source, adapted)
        assert not source.requires_grad
        seen.append(source)
        return adapted.square().mean()

    config = dataclasses.replace(QUICK, lr=0.0, mixing=0.5, steps=6)
    adapted, _ = run(generator, watch, config)
    assert not changed(generator, adapted)
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_truncation_and_mixing_shape_the_latents(generator, monkeypatch):
    def ws_of(**settings):
        seen, frozen = [], copy.deepcopy(generator)
        synthesis = frozen.synthesis
        frozen.synthesis = lambda ws, *rest: seen.append(ws) or synthesis(ws, *rest)
        config = dataclasses.replace(QUICK, steps=8, **settings)
        list(adapt(frozen, copy.deepcopy(generator), lambda a, b: b.mean(), config))
        return torch.cat(seen)

    assert torch.equal(ws_of(truncation_psi=0)[0, 0], generator.mean_latent)
    plain, mixed = ws_of(), ws_of(mixing=1.0)
    assert (plain == plain[:, :1]).all()
    assert (mixed[:, 0] != mixed[:, -1]).any(dim=1).all()  # the first row is of another person
    rows = (mixed[:, 1:] != mixed[:, :-1]).any(dim=2).sum(dim=1)
    assert (rows == 1).all()  # one crossover


def test_twins_that_are_none_get_a_sentence(generator, loss):
    with pytest.raises(ValueError, match=r"the same object: use copy\.deepcopy"):
        next(adapt(generator, generator, loss, QUICK))
    other = tiny_generator(dataclasses.replace(TINY, size=8, channels=TINY.channels[:2]))
    with pytest.raises(ValueError, match="another architecture"):
        next(adapt(generator, other, loss, QUICK))


# What is trained


def test_only_styled_convolutions_are_trained_and_the_frozen_twin_never(generator, loss):
    before = copy.deepcopy(generator)
    adapted, _ = run(generator, loss)
    keys = changed(generator, adapted)
    assert layers_of(keys) == set(generator.conv_names)
    assert {key.split(".", 2 if key.startswith("convs") else 1)[-1] for key in keys} == {
        "conv.weight",
        "conv.modulation.weight",
        "conv.modulation.bias",
        "noise.weight",
        "activate.bias",
    }
    assert not changed(before, generator)


def test_rgb_outputs_are_trained_when_asked(generator, loss):
    adapted, story = run(generator, loss, dataclasses.replace(QUICK, train_to_rgb=True))
    assert layers_of(changed(generator, adapted)) == {*candidates(generator, to_rgb=True)}
    assert story[0].layers == candidates(generator, to_rgb=True)


@pytest.mark.parametrize("noise", [True, False])
def test_noise_strengths_are_trained_only_when_asked(generator, loss, noise):
    adapted, _ = run(generator, loss, dataclasses.replace(QUICK, train_noise=noise))
    strengths = {key for key in changed(generator, adapted) if key.endswith("noise.weight")}
    assert len(strengths) == (len(generator.conv_names) if noise else 0)


@pytest.mark.parametrize("chosen", [["convs.1"], ["conv1", "convs.3"]])
def test_only_selected_layers_change(generator, loss, chosen):
    adapted, story = run(generator, loss, QUICK, lambda *args, names: chosen)
    assert layers_of(changed(generator, adapted)) == set(chosen)
    assert all(progress.layers == tuple(chosen) for progress in story)


STYLES = dataclasses.replace(QUICK, parameters="styles", style_lr=0.05, train_to_rgb=True)


def test_a_run_of_styles_changes_their_offsets_alone(generator, loss):
    adapted, story = run(generator, loss, dataclasses.replace(STYLES, steps=30, batch=4))
    names = candidates(generator, to_rgb=True)
    assert changed(generator, adapted) == {f"{name}.conv.modulation.bias" for name in names}
    last = sum(progress.loss for progress in story[-5:]) / 5
    assert last < story[0].loss - 0.1


def test_offsets_are_added_to_the_styles(generator, loss):
    """s' = A(w) + Δ: what trains is StyleDomain's Δ, whatever it is called."""
    adapted, _ = run(generator, loss, STYLES)
    w = generator.mapping(torch.randn(3, generator.z_dim))[:, 0]
    for name in candidates(generator, to_rgb=True):
        conv, moved = generator.layer(name).conv, adapted.layer(name).conv
        delta = moved.modulation.bias - conv.modulation.bias
        expected = conv.style(w) + delta * conv.scale
        torch.testing.assert_close(moved.style(w), expected)


def test_both_train_at_a_rate_each(generator, loss):
    """In its first step, without momentum, Adam moves every number by its rate."""
    config = dataclasses.replace(
        QUICK, steps=1, parameters="both", lr=0.001, style_lr=0.03, beta1=0.0, beta2=0.9
    )
    adapted, story = run(generator, loss, config)
    for key, value in adapted.state_dict().items():
        moved = (value - generator.state_dict()[key]).abs().max().item()
        if moved:
            rate = 0.03 if key.endswith("conv.modulation.bias") else 0.001
            assert moved == pytest.approx(rate, rel=0.05), key
    assert story[0].lr == 0.001


def test_the_rate_of_styles_falls_as_that_of_weights_does():
    config = dataclasses.replace(STYLES, steps=5, lr=0.004, final_lr=0.001)
    assert config.rates_at(0) == (0.004, 0.05)
    assert config.rates_at(4) == pytest.approx((0.001, 0.0125))
    assert dataclasses.replace(STYLES, lr=0.0).rates_at(3) == (0.0, 0.05)


def test_progress_tells_the_rate_of_what_trains(generator, loss):
    assert run(generator, loss, STYLES)[1][0].lr == 0.05


@pytest.mark.parametrize("parameters", ["weights", "styles", "both"])
def test_a_copy_that_shares_trains_like_a_whole_one(generator, loss, parameters):
    config = dataclasses.replace(QUICK, parameters=parameters, train_to_rgb=True)
    before, (whole, story) = copy.deepcopy(generator), run(generator, loss, config)
    shared = trainable_copy(generator, config)
    again = list(adapt(generator, shared, loss, config))
    assert [progress.loss for progress in again] == [progress.loss for progress in story]
    assert not changed(whole, shared) and changed(before, shared)
    assert not changed(before, generator)


def test_a_copy_for_styles_has_kilobytes_of_its_own(generator):
    copied = trainable_copy(generator, STYLES)
    theirs = {tensor.data_ptr() for tensor in generator.state_dict().values()}
    own = {k: v for k, v in copied.state_dict().items() if v.data_ptr() not in theirs}
    names = candidates(generator, to_rgb=True)
    assert set(own) == {f"{name}.conv.modulation.bias" for name in names}
    assert copied.mean_latent.data_ptr() == generator.mean_latent.data_ptr()
    assert not any(parameter.requires_grad for parameter in generator.parameters())


def test_a_run_of_styles_that_diverges_keeps_its_last_good_offsets(generator, clip_tiny):
    class Blinding(GlobalLoss):
        calls = 0

        def forward(self, source, adapted):
            self.calls += 1
            return super().forward(adapted) * (torch.nan if self.calls == 3 else 1)

    trainable, kept = trainable_copy(generator, STYLES), []
    with pytest.raises(DivergedError, match=r"step 3.*now 0\.05"):
        for _ in adapt(generator, trainable, Blinding(clip_tiny, "sketch"), STYLES):
            kept.append(copy.deepcopy(trainable))
    assert not changed(kept[0], trainable)


@pytest.mark.parametrize("parameters", ["weights", "styles", "both"])
def test_rgb_outputs_train_beside_what_is_selected(generator, loss, parameters):
    config, asked = dataclasses.replace(STYLES, parameters=parameters), []

    def select(_, z, names):
        asked.extend(names)
        return [names[2]]

    adapted, story = run(generator, loss, config, select)
    assert tuple(asked) == generator.conv_names
    assert story[0].layers == (asked[2], *generator.to_rgb_names)
    assert layers_of(changed(generator, adapted)) == set(story[0].layers)


def test_pictures_lead_from_samples_of_what_clip_sees(generator, clip_tiny, monkeypatch):
    """Of 32 large images only so many pixels are kept as the model looks at."""
    given = []
    monkeypatch.setattr(
        "nada.presets.build_loss", lambda clips, source, target, _: given.append(target)
    )
    pictures = torch.rand(2, 3, 20, 20)
    prepare([clip_tiny], Target(pictures=pictures), Preset(QUICK), generator)
    side = clip_tiny.resolution
    assert given[0].samples.shape == (32, 3, side, side)
    assert torch.equal(given[0].pictures, pictures)


@pytest.mark.parametrize("parameters", ["weights", "styles", "both"])
def test_a_preset_selects_by_the_gradient_of_what_trains(generator, clip_tiny, parameters):
    preset = Preset(dataclasses.replace(QUICK, parameters=parameters, train_to_rgb=True))
    preset = preset.with_({"k": 2})
    _, select = prepare([clip_tiny], "sketch", preset)
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    expected = select_by_gradient(
        generator, z, GlobalLoss(clip_tiny, "sketch"), 2, parameters=parameters
    )
    assert select(generator, z, names=generator.conv_names) == expected


def test_a_run_that_makes_everybody_alike_says_so(generator):
    """Trained to be grey, all of them are."""
    config = dataclasses.replace(QUICK, steps=60, lr=0.05, train_to_rgb=True)
    _, story = run(generator, lambda _, adapted: adapted.square().mean(), config)
    assert any(progress.collapsing for progress in story)
    alone = dataclasses.replace(config, batch=1, steps=20)  # nobody to be alike with
    _, story = run(generator, lambda _, adapted: adapted.square().mean(), alone)
    assert not any(progress.collapsing for progress in story)


@pytest.mark.parametrize("every, calls", [(0, 1), (1, 5), (2, 3), (4, 2), (9, 1)])
def test_layers_are_chosen_once_or_every_n_steps(generator, loss, every, calls):
    seen = []

    def select(trainable, z, names):
        seen.append(z)
        return [names[len(seen) - 1]]

    config = dataclasses.replace(QUICK, steps=5, select_every=every)
    _, story = run(generator, loss, config, select)
    assert len(seen) == calls and all(z.shape == (4, 16) for z in seen)
    expected = [generator.conv_names[step // (every or 5)] for step in range(5)]
    assert [progress.layers[0] for progress in story] == expected


def test_a_layer_frozen_again_stands_still_at_once_even_with_momentum(generator, loss):
    choices = iter([["convs.0"], ["convs.1"]])
    config = dataclasses.replace(QUICK, steps=2, select_every=1, beta1=0.5)
    trainable = copy.deepcopy(generator)
    story = adapt(generator, trainable, loss, config, lambda *args, names: next(choices))
    next(story)
    middle = copy.deepcopy(trainable)
    next(story)
    assert layers_of(changed(generator, middle)) == {"convs.0"}
    assert layers_of(changed(middle, trainable)) == {"convs.1"}


def test_backward_stops_below_the_first_trained_layer(generator, loss):
    """Lower layers hold no graph, so a high layer costs little."""
    trainable, graphs = copy.deepcopy(generator), {}
    for name in generator.conv_names:
        trainable.layer(name).register_forward_hook(
            lambda layer, inputs, output, name=name: graphs.__setitem__(name, output.requires_grad)
        )
    next(adapt(generator, trainable, loss, QUICK, lambda *args, names: ["convs.2"]))
    assert graphs == {
        "conv1": False,
        "convs.0": False,
        "convs.1": False,
        "convs.2": True,
        "convs.3": True,
    }


def test_the_rate_follows_half_a_cosine():
    config = AdaptConfig(steps=5, lr=0.03, final_lr=0.01)
    rates = [config.lr_at(step) for step in range(5)]
    assert rates == pytest.approx(
        [0.03, 0.02 + 0.01 * 0.5**0.5, 0.02, 0.02 - 0.01 * 0.5**0.5, 0.01]
    )
    assert AdaptConfig(steps=5, lr=0.03).lr_at(4) == 0.03
    assert AdaptConfig(steps=1, lr=0.03, final_lr=0.01).lr_at(0) == 0.03


def test_the_optimizer_gets_the_rate_of_each_step(generator, loss):
    """From a rate to zero the second half of a two-step run moves nothing."""
    one, _ = run(generator, loss, dataclasses.replace(QUICK, steps=1, final_lr=0.0))
    two, story = run(generator, loss, dataclasses.replace(QUICK, steps=2, final_lr=0.0))
    assert not changed(one, two)
    assert [progress.lr for progress in story] == [0.02, 0.0]


# Ends


def test_closing_at_any_step_leaves_a_generator_ready_to_use(generator, loss):
    full = {}
    trainable = copy.deepcopy(generator)
    for progress in adapt(generator, trainable, loss, QUICK):
        full[progress.step] = copy.deepcopy(trainable)
    for step in (1, 2, 4):
        trainable = copy.deepcopy(generator)
        story = adapt(generator, trainable, loss, QUICK)
        for _ in range(step):
            next(story)
        story.close()
        assert not changed(full[step], trainable)
        assert_ready(trainable)


def test_the_end_leaves_a_generator_ready_to_use(generator, loss):
    adapted, _ = run(generator, loss)
    assert_ready(adapted)


def test_an_error_on_the_way_leaves_a_generator_ready_to_use(generator, loss):
    calls = itertools.count()

    def breaks(source, adapted):
        if next(calls) == 2:
            raise MemoryError("no room")
        return loss(source, adapted)

    trainable = copy.deepcopy(generator)
    story = adapt(generator, trainable, breaks, QUICK)
    with pytest.raises(MemoryError):
        list(story)
    assert_ready(trainable)
    assert changed(generator, trainable)


def assert_ready(generator):
    assert not any(p.requires_grad or p.grad is not None for p in generator.parameters())
    assert not generator.training
    assert sample(generator, [1, 2]).isfinite().all()
    copy.deepcopy(generator)


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_numbers_out_of_range_stop_the_run_at_the_last_good_weights(generator, broken):
    """Good weights are those that a sound loss was computed with: two steps before the news."""
    snapshots, calls = {}, itertools.count()

    def breaks(source, adapted):
        if next(calls) < 2:
            return adapted.square().mean()
        if broken == "loss":
            return adapted.mean() * torch.nan
        return (adapted - adapted.detach()).abs().sqrt().mean()  # finite, with an infinite slope

    trainable = copy.deepcopy(generator)
    with pytest.raises(
        DivergedError, match=r"stopped in step 3: the loss is .* Lower the learning"
    ):
        for progress in adapt(generator, trainable, breaks, QUICK):
            snapshots[progress.step] = copy.deepcopy(trainable)
    assert not changed(snapshots[1], trainable)
    assert_ready(trainable)


def test_a_rate_beyond_reason_ends_in_a_sentence_or_in_numbers(generator, loss):
    config = dataclasses.replace(QUICK, steps=12, lr=10.0)
    trainable = copy.deepcopy(generator)
    with contextlib.suppress(DivergedError):
        list(adapt(generator, trainable, loss, config))
    assert_ready(trainable)


def test_numbers_out_of_range_while_choosing_layers_stop_the_run_too(generator, loss):
    select = partial(select_by_gradient, objective=lambda images: images.mean() * torch.nan, k=2)
    trainable = copy.deepcopy(generator)
    with pytest.raises(DivergedError, match="stopped in step 1"):
        list(adapt(generator, trainable, loss, QUICK, select))
    assert not changed(generator, trainable)


# Previews


def test_previews_come_after_the_first_step_every_n_and_at_the_end(generator, loss):
    config = dataclasses.replace(QUICK, steps=8, preview_every=3, preview_seeds=(3, 9))
    trainable = copy.deepcopy(generator)
    shown = {}
    for progress in adapt(generator, trainable, loss, config):
        if progress.preview is not None:
            shown[progress.step] = progress.preview
            expected = sample(trainable, (3, 9), truncation_psi=0.7)
            assert torch.equal(progress.preview, expected)
            assert not progress.preview.requires_grad
    assert list(shown) == [1, 3, 6, 8]
    assert not torch.equal(shown[1], sample(generator, (3, 9)))


def test_no_previews_unless_asked(generator, loss):
    assert all(progress.preview is None for progress in run(generator, loss)[1])


# What makes a step cheaper


def close(one, other, tolerance=1e-3) -> bool:
    """Whether all tensors agree as well as sums in another order do."""
    pairs = zip(one.state_dict().values(), other.state_dict().values())
    return all(torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize(
    "cheaper",
    [
        {"micro_batch": 1},
        {"micro_batch": 3},
        {"checkpointing": True},
        {"micro_batch": 2, "checkpointing": True},
    ],
)
def test_less_memory_gives_the_same_result(generator, loss, cheaper):
    """With a loss that compares all pictures of the batch, and with random views."""
    config = dataclasses.replace(QUICK, batch=4, steps=3, lr=0.002)
    plain, story = run(generator, loss, config)
    other, again = run(generator, loss, dataclasses.replace(config, **cheaper))
    assert close(plain, other)
    assert [p.loss for p in again] == pytest.approx([p.loss for p in story], rel=1e-3)


def test_micro_batches_are_drawn_one_after_the_other(generator, loss):
    trainable, sizes = copy.deepcopy(generator), []
    trainable.conv1.register_forward_hook(lambda m, inputs, out: sizes.append(len(out)))
    next(adapt(generator, trainable, loss, dataclasses.replace(QUICK, batch=5, micro_batch=2)))
    assert sizes == [2, 2, 1] * 2


def test_training_at_a_lower_resolution_leaves_the_finest_layers(generator, loss):
    seen = []

    def watch(source, adapted):
        seen.extend([source.shape, adapted.shape])
        return adapted.square().mean()

    config = dataclasses.replace(QUICK, resolution=8)
    adapted, story = run(generator, watch, config)
    assert set(seen) == {(2, 3, 8, 8)}
    assert layers_of(changed(generator, adapted)) == {"conv1", "convs.0", "convs.1"}
    assert story[0].layers == ("conv1", "convs.0", "convs.1")
    run(generator, loss, dataclasses.replace(config, resolution=1024))  # no more than there is


def test_selection_sees_what_training_does(generator, clip_tiny):
    config = dataclasses.replace(QUICK, resolution=8, precision="bf16")
    preset = dataclasses.replace(PRESETS["demo"], config=config)
    preset = preset.with_({"k": 2, "method": "w_shift"})
    loss, select = prepare([clip_tiny], "pencil sketch", preset)
    _, story = run(generator, loss, config, select)
    assert set(story[0].layers) < {"conv1", "convs.0", "convs.1"}


def test_latents_that_come_round_are_drawn_once_by_the_frozen_twin(generator, loss):
    drawn, frozen = [], copy.deepcopy(generator)
    frozen.conv1.register_forward_hook(lambda m, inputs, out: drawn.append(inputs[1].clone()))
    config = dataclasses.replace(QUICK, steps=12, latent_pool=3, mixing=0.5)
    first, _ = run(frozen, loss, config)
    # the copy that is trained has the hook as well: it draws in every step
    assert len(drawn) <= 12 + 3
    latents = {tuple(row.flatten().tolist()) for row in drawn}
    assert len(latents) <= 3
    again, _ = run(generator, loss, config)
    assert not changed(first, again)


def test_kept_pictures_are_the_frozen_twins_own(generator):
    """For a loss that tells no size of picture they are kept whole."""
    pairs = []
    config = dataclasses.replace(QUICK, steps=6, latent_pool=1, lr=0.0)
    run(generator, lambda a, b: pairs.append((a, b)) or b.square().mean(), config)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(a is pairs[0][0] for a, _ in pairs)


def test_bfloat16_trains_nearly_as_float32_does(generator, loss):
    config = dataclasses.replace(QUICK, steps=20, batch=4)
    types = []
    trainable = copy.deepcopy(generator)
    trainable.convs[1].register_forward_hook(lambda m, inputs, out: types.append(out.dtype))
    short = list(adapt(generator, trainable, loss, dataclasses.replace(config, precision="bf16")))
    _, full = run(generator, loss, config)
    assert set(types) == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in trainable.parameters())
    assert short[-1].loss == pytest.approx(full[-1].loss, abs=0.1)
    assert short[-1].loss < short[0].loss - 0.1


# Settings


@pytest.mark.parametrize("name, value", [("precision", "half"), ("resolution", 300)])
def test_choices_that_are_none_get_a_sentence(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value!r}: give one of .*\.$"):
        AdaptConfig(**{name: value})


@pytest.mark.parametrize(
    "name, value",
    [
        ("steps", -1), ("steps", 0), ("steps", 1.5), ("steps", "80"), ("steps", True),
        ("steps", None), ("batch", 0), ("batch", 10**6), ("lr", -0.1), ("lr", float("nan")),
        ("lr", float("inf")), ("final_lr", -1), ("beta1", 1.0), ("beta2", 1), ("seed", -1),
        ("seed", 2**64), ("mixing", 1.1), ("truncation_psi", 9), ("select_every", -2),
        ("preview_every", -1), ("preview_psi", None), ("micro_batch", -1), ("latent_pool", 1.5),
    ],
)  # fmt: skip
def test_settings_out_of_range_get_a_sentence(name, value):
    with pytest.raises(
        ValueError, match=rf"^{name} is .*: give a (whole )?number from .* to .*\.$"
    ):
        AdaptConfig(**{name: value})


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run(generator, clip_tiny, name):
    preset = PRESETS[name].with_({"steps": 2, "k": min(PRESETS[name].selection.k, 3)})
    loss, select = prepare([clip_tiny], "pencil sketch", preset)
    adapted, story = run(generator, loss, preset.config, select)
    chosen = set(story[0].layers) & {*preset.config.chosen_among(generator)}
    assert len(chosen) == (preset.selection.k or len(generator.conv_names))
    assert story[0].preview is not None
    assert changed(generator, adapted)


def test_an_unknown_method_gets_a_sentence():
    with pytest.raises(ValueError, match="method is 'magic': give one of " + ", ".join(SELECTORS)):
        SelectionConfig(method="magic")
