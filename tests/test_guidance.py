"""Directions and losses against the reference program's numbers and against a line of algebra."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from nada.clip import OpenCLIP, PromptError, has_tokens, resize
from nada.clip import open_clip as ours
from nada.clip.encoder import TOKEN_LAYER, Preprocessing
from nada.guidance import (
    TEMPLATES,
    Augmented,
    CapLoss,
    DirectionalLoss,
    GlobalLoss,
    GuidanceConfig,
    InDomainLoss,
    PointLoss,
    Target,
    TokenLoss,
    WayGone,
    WeightedSum,
    build_loss,
    image_direction,
    mean_feature,
    move_from_samples,
    move_to,
    prompt_features,
    target_loss,
    text_direction,
    text_move,
)
from tests.clip_files import config as open_clip_config
from tests.clip_files import towers
from tests.helpers import golden, make_clip, relative_error

GOLDEN = golden("guidance")
PAIRS = [("Human", "Zombie"), ("Photo", "Sketch"), ("face", "anime painting")]
SOURCE, ADAPTED = GOLDEN["clip/a/src"], GOLDEN["clip/a/dst"]


@pytest.mark.parametrize("source, target", PAIRS)
def test_text_direction_over_the_templates_is_the_reference_programs(clip_a, source, target):
    direction = text_direction(clip_a, source, target)
    expected = GOLDEN[f"clip/a/{source}->{target}/text_direction"][0]
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 79
    torch.testing.assert_close(direction, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("source, target", PAIRS)
def test_directional_loss_and_gradient_are_the_reference_programs(clip_a, source, target):
    prefix = f"clip/a/{source}->{target}"
    adapted = ADAPTED.clone().requires_grad_(True)
    loss = DirectionalLoss(clip_a, text_direction(clip_a, source, target))(SOURCE, adapted)
    loss.backward()
    pooled = F.adaptive_avg_pool2d(adapted.grad, 8)
    assert loss.item() == pytest.approx(GOLDEN[f"{prefix}/direction_loss"].item(), rel=1e-3)
    assert adapted.grad.norm().item() == pytest.approx(
        GOLDEN[f"{prefix}/grad_norm"].item(), rel=1e-3
    )
    assert relative_error(pooled, GOLDEN[f"{prefix}/direction_loss_grad_target_pooled"]) < 1e-3


@pytest.mark.parametrize("source, target", PAIRS)
def test_global_loss_is_the_reference_programs(clip_a, source, target):
    loss = GlobalLoss(clip_a, f"a {target}")(ADAPTED)
    expected = GOLDEN[f"clip/a/{source}->{target}/global_loss"].item()
    assert loss.item() == pytest.approx(expected, rel=1e-3)


# The first step, where the twins are one


def test_identical_twins_have_loss_1_and_a_gradient_that_starts_the_run(clip_tiny):
    direction = text_direction(clip_tiny, "photo", "sketch")
    loss_fn = DirectionalLoss(clip_tiny, direction)
    images = torch.randn(4, 3, 16, 16)
    adapted = images.clone().requires_grad_(True)
    loss = loss_fn(images, adapted)
    loss.backward()
    assert loss.item() == 1
    step = adapted.detach() - 0.01 * adapted.grad / adapted.grad.norm()
    assert loss_fn(images, step) < 0.99  # and the step is a good one
    assert adapted.grad.isfinite().all()


def test_the_first_gradient_is_no_giant_that_adam_would_remember(clip_tiny):
    """Its size against that of a run on its way decides how long Adam's average is spoilt."""
    loss_fn = DirectionalLoss(clip_tiny, text_direction(clip_tiny, "photo", "sketch"))
    images = torch.randn(4, 3, 16, 16)
    norms = []
    for distance in (0.0, 1e-6, 1e-3, 0.3):
        adapted = (images + distance * torch.randn_like(images)).requires_grad_(True)
        loss_fn(images, adapted).backward()
        norms.append(adapted.grad.norm().item())
    assert max(norms[:3]) < 20 * norms[3]
    assert min(norms) > 0


def test_the_loss_is_continuous_where_short_moves_begin(clip_tiny):
    direction = F.normalize(torch.randn(16), dim=0)
    loss_fn = DirectionalLoss(clip_tiny, direction)
    source = torch.zeros(1, 16)
    along, across = direction, F.normalize(torch.randn(16), dim=0)
    move = F.normalize(along + across, dim=0)
    just_below, just_above = (
        loss_fn.compare(source, (length * move)[None]) for length in (0.0499999, 0.0500001)
    )
    assert just_below.item() == pytest.approx(just_above.item(), abs=1e-4)
    far = loss_fn.compare(source, 0.7 * move[None])
    assert far.item() == pytest.approx(1 - (move @ direction).item(), abs=1e-6)


# Prompts


@pytest.mark.parametrize("prompt", ["{}", "{0} {name}", "%s {", "a {} in a {}"])
def test_braces_in_a_prompt_stay_what_they_are(clip_tiny, prompt):
    got = prompt_features(clip_tiny, prompt, ("the {} here",))
    expected = clip_tiny.encode_text(["the " + prompt + " here"])
    torch.testing.assert_close(got, expected)
    assert text_direction(clip_tiny, "photo", prompt).isfinite().all()


@pytest.mark.parametrize("target", ["photo", " Photo ", "PHOTO"])
def test_prompts_that_mean_the_same_get_a_sentence(clip_tiny, target):
    with pytest.raises(PromptError, match="are the same to CLIP model tiny: choose a target"):
        build_loss(
            [clip_tiny], "photo", target, GuidanceConfig(lambda_directional=0.0, lambda_global=1.0)
        )


def test_a_prompt_too_long_with_its_template_gets_a_sentence(clip_tiny):
    longest = "word " * 22
    clip_tiny.encode_text([longest])
    with pytest.raises(PromptError, match="tokens with the words around it"):
        text_direction(clip_tiny, "photo", longest)


def test_direction_from_pictures_points_from_one_mean_to_the_other(clip_tiny):
    source, target = torch.randn(5, 3, 16, 16), torch.randn(3, 3, 20, 24)
    direction = image_direction(clip_tiny, source, target)
    means = [clip_tiny.encode_image(images).mean(dim=0) for images in (source, target)]
    torch.testing.assert_close(direction, F.normalize(means[1] - means[0], dim=0))
    with pytest.raises(ValueError, match="choose pictures of another domain"):
        image_direction(clip_tiny, source, source)


# Pictures as targets


@pytest.fixture
def pictures():
    """Pictures and samples that CLIP tells apart, [3, ...] and [6, ...]."""
    random = torch.Generator().manual_seed(0)
    samples = torch.rand(6, 3, 24, 24, generator=random)
    target = torch.rand(3, 3, 20, 28, generator=random) * torch.tensor([1.0, -1, -1]).view(3, 1, 1)
    return Target(pictures=target, samples=samples)


def directions(clips, source, target, config=None):
    return [loss.direction for loss in build_loss(clips, source, target, config).losses]


def test_words_as_a_target_are_the_prompt(clip_tiny):
    config = GuidanceConfig(lambda_global=1.0)
    one, other = (build_loss([clip_tiny], "photo", t, config) for t in ("zombie", Target("zombie")))
    images = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    assert one(*images) == other(*images)


def test_pictures_alone_need_no_words_and_lead_from_the_samples(clip_tiny, pictures):
    direction, _ = directions([clip_tiny], "", pictures)  # the other term tells the way
    expected = image_direction(clip_tiny, pictures.samples, pictures.pictures)
    torch.testing.assert_close(direction, expected)
    goal = target_loss([clip_tiny], pictures)
    mean = F.normalize(clip_tiny.encode_image(pictures.pictures).mean(dim=0), dim=0)
    images = torch.rand(2, 3, 16, 16)
    expected = 1 - (clip_tiny.encode_image(images) @ mean).mean()
    torch.testing.assert_close(goal(images), expected)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_words_and_pictures_are_weighed_as_unit_directions(clip_tiny, pictures, weight):
    both = dataclasses.replace(pictures, words="zombie")
    config = GuidanceConfig(picture_weight=weight)
    (direction,) = directions([clip_tiny], "photo", both, config)
    words = text_direction(clip_tiny, "photo", "zombie")
    shown = image_direction(clip_tiny, both.samples, both.pictures)
    torch.testing.assert_close(direction, F.normalize(words + weight * shown, dim=0))


def test_how_far_pictures_ask_to_go_is_known(clip_tiny, pictures):
    """Of images that go where they lie, on average, the whole way is gone."""
    config = GuidanceConfig(lambda_cap=1.0)
    terms = dict(
        zip(("directional", "cap", "way"), build_loss([clip_tiny], "", pictures, config).losses)
    )
    assert isinstance(terms["way"], WayGone) and isinstance(terms["cap"], CapLoss)
    source = clip_tiny.encode_image(pictures.samples)[:3]
    move = clip_tiny.encode_image(pictures.pictures).mean(dim=0) - clip_tiny.encode_image(
        pictures.samples
    ).mean(dim=0)
    assert terms["way"].compare(source, source + move).item() == pytest.approx(1, abs=1e-5)
    assert terms["cap"].compare(source, source + move).item() == pytest.approx(0, abs=1e-9)
    both = dataclasses.replace(pictures, words="zombie")
    told = build_loss([clip_tiny], "photo", both, config).weights
    assert "way" not in told  # nobody knows how far this model's words reach


def test_pictures_that_lead_nowhere_get_a_sentence(clip_tiny, pictures):
    same = dataclasses.replace(pictures, pictures=pictures.samples)
    with pytest.raises(PromptError, match="look like the generator's own to CLIP model tiny"):
        build_loss([clip_tiny], "", same)
    with pytest.raises(ValueError, match="give samples"):
        build_loss([clip_tiny], "", Target(pictures=pictures.pictures))
    with pytest.raises(PromptError, match="The prompt is empty"):
        Target(" ")


# Words without a source


def test_without_a_source_words_lead_from_what_the_samples_show(clip_tiny, pictures):
    target = Target("zombie", samples=pictures.samples)
    words = prompt_features(clip_tiny, "zombie").mean(dim=0)
    move = words - mean_feature(clip_tiny, pictures.samples)
    torch.testing.assert_close(move_from_samples(clip_tiny, pictures.samples, "zombie"), move)
    aim = move_to(clip_tiny, " ", target)
    torch.testing.assert_close(aim.direction, F.normalize(move, dim=0))
    assert aim.asked is None
    both = dataclasses.replace(pictures, words="zombie")
    shown = image_direction(clip_tiny, both.samples, both.pictures)
    expected = F.normalize(F.normalize(move, dim=0) + shown, dim=0)
    torch.testing.assert_close(move_to(clip_tiny, "", both).direction, expected)
    with pytest.raises(ValueError, match="give samples"):
        move_to(clip_tiny, "", "zombie")


# Tokens


@pytest.fixture(scope="module")
def clip_deep():
    """A small CLIP with as many blocks as tokens need."""
    return make_clip("deep", 16, 16, TOKEN_LAYER + 1, 64, 4, 24, 49408, 64, 1, 1)


@pytest.mark.parametrize("kind", ["openai", "open_clip"])
def test_tokens_are_the_patches_after_the_third_block(clip_deep, kind):
    clip = clip_deep
    if kind == "open_clip":
        options = open_clip_config()
        options["vision_cfg"]["layers"] = TOKEN_LAYER + 1
        model = towers(options)
        clip = OpenCLIP(model, "open", Preprocessing(), ours.open_clip().SimpleTokenizer(), 16)
    images, caught = torch.randn(3, 3, 16, 16), []
    visual, side = clip.model.visual, clip.resolution
    visual.transformer.resblocks[TOKEN_LAYER - 1].ln_2.register_forward_hook(
        lambda module, given, made: caught.append(given[0])
    )
    features, tokens = clip.encode_image_and_tokens(images)
    torch.testing.assert_close(features, clip.encode_image(images))
    patches = (side // visual.conv1.kernel_size[0]) ** 2
    assert tokens.shape == (3, patches, caught[0].shape[-1])
    torch.testing.assert_close(tokens.norm(dim=2), torch.ones(3, patches))
    one = clip.encode_image_and_tokens(images[1:2])[1]  # an image's tokens are its own
    torch.testing.assert_close(tokens[1], one[0], rtol=1e-3, atol=1e-5)
    block = visual.transformer.resblocks[TOKEN_LAYER - 1]
    expected = caught[0] + block.mlp(block.ln_2(caught[0]))
    if expected.shape[0] != 3:
        expected = expected.transpose(0, 1)
    torch.testing.assert_close(tokens, F.normalize(expected[:, 1:], dim=2), rtol=1e-4, atol=1e-5)


def test_the_token_loss_is_the_larger_mean_of_nearest_distances(clip_deep, pictures):
    images = torch.rand(2, 3, 24, 24)
    expected = []
    for image in clip_deep.encode_image_and_tokens(images)[1]:
        for picture in pictures.pictures:
            (theirs,) = clip_deep.encode_image_and_tokens(picture[None])[1]
            apart = [[1 - float(mine @ other) for other in theirs] for mine in image]
            rows = sum(min(row) for row in apart) / len(apart)
            columns = sum(min(column) for column in zip(*apart)) / len(theirs)
            expected.append(max(rows, columns))
    loss = TokenLoss(clip_deep, pictures.pictures)
    assert loss(images, images).item() == pytest.approx(sum(expected) / 6, abs=1e-5)
    own = TokenLoss(clip_deep, pictures.pictures[:1])
    assert own(images, pictures.pictures[:1]).item() == pytest.approx(0, abs=1e-5)


def test_a_sum_of_terms_encodes_once_for_features_and_tokens(clip_deep, pictures, monkeypatch):
    config = GuidanceConfig(lambda_token=0.5)
    loss, images = build_loss([clip_deep], "", pictures, config), torch.rand(4, 3, 24, 24)
    seen, encode = [], clip_deep.model.encode_image
    monkeypatch.setattr(
        clip_deep.model, "encode_image", lambda images: seen.append(len(images)) or encode(images)
    )
    adapted = images.clone().requires_grad_(True)
    terms = loss.terms(images[:2], adapted[2:])
    assert seen == [2, 2] and set(terms) == {"directional", "token", "way"}
    terms["token"].backward()
    assert adapted.grad[2:].abs().sum() > 0
    torch.testing.assert_close(
        terms["token"].detach(), TokenLoss(clip_deep, pictures.pictures)(None, images[2:]).detach()
    )
    assert loss.total(terms) == terms["directional"] + 0.5 * terms["token"]


def test_who_has_no_tokens_is_left_out_or_told(clip_tiny, clip_deep, pictures):
    config = GuidanceConfig(lambda_token=1.0)
    assert has_tokens(clip_deep) and not has_tokens(clip_tiny)
    both = build_loss([clip_deep, clip_tiny], "", pictures, config).weights
    assert "token deep" in both and "token tiny" not in both
    with pytest.raises(PromptError, match="“tiny” is not: set its weight to 0"):
        build_loss([clip_tiny], "", pictures, config)
    assert "token" not in build_loss([clip_tiny], "photo", "zombie", config).weights


# Terms and their sum


def test_in_domain_loss_is_the_mean_squared_change_of_cosines(clip_tiny):
    source, adapted = (F.normalize(torch.randn(3, 16), dim=1) for _ in range(2))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum((adapted[i] @ adapted[j] - source[i] @ source[j]) ** 2 for i, j in pairs) / 3
    torch.testing.assert_close(InDomainLoss(clip_tiny).compare(source, adapted), expected)


def test_in_domain_loss_of_one_picture_gets_a_sentence(clip_tiny):
    images = torch.randn(1, 3, 16, 16)
    with pytest.raises(ValueError, match="set the batch to 2 or more"):
        InDomainLoss(clip_tiny)(images, images)


def test_objective_is_the_weighted_sum_of_its_terms(clip_tiny):
    source, adapted = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    loss = build_loss(
        [clip_tiny],
        "photo",
        "sketch",
        GuidanceConfig(lambda_directional=1.5, lambda_global=2.0, lambda_in_domain=0.25),
    )
    direction = text_direction(clip_tiny, "photo", "sketch")
    parts = {
        "directional": DirectionalLoss(clip_tiny, direction)(source, adapted),
        "global": GlobalLoss(clip_tiny, "sketch")(adapted),
        "in_domain": InDomainLoss(clip_tiny)(source, adapted),
    }
    torch.testing.assert_close(loss.terms(source, adapted), parts)
    expected = 1.5 * parts["directional"] + 2 * parts["global"] + 0.25 * parts["in_domain"]
    torch.testing.assert_close(loss(source, adapted), expected)


@pytest.fixture
def measured(clip_tiny, monkeypatch):
    """A CLIP of which is known how far images of a domain lie along the words."""
    monkeypatch.setattr(clip_tiny, "reach", 0.8, raising=False)
    return clip_tiny


def test_the_cap_holds_back_only_what_goes_too_far(clip_tiny):
    source = F.normalize(torch.randn(4, 16), dim=1)
    direction = F.normalize(torch.randn(16), dim=0)
    ways = torch.tensor([0.5, 0.999, 1.25, 2.0]) * 0.4
    adapted = (source + ways[:, None] * direction).requires_grad_(True)
    loss = CapLoss(clip_tiny, direction * 3, 0.4).compare(source, adapted)
    torch.testing.assert_close(loss, torch.tensor((0.25**2 + 1) / 4))
    loss.backward()
    held = adapted.grad @ direction
    assert not adapted.grad[:2].any() and (held[2:] > 0).all()


def test_the_point_loss_is_none_where_the_words_lead(clip_tiny):
    source, move = F.normalize(torch.randn(3, 16), dim=1), 0.5 * torch.randn(16)
    loss = PointLoss(clip_tiny, move)
    there = F.normalize(source + move, dim=1)
    assert loss.compare(source, there).item() == pytest.approx(0, abs=1e-6)
    cosines = [F.cosine_similarity(a, b + move, dim=0) for a, b in zip(source, source)]
    torch.testing.assert_close(loss.compare(source, source), 1 - sum(cosines) / 3)


def test_reach_is_measured_in_what_the_words_ask(measured):
    source, adapted = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    config = GuidanceConfig(lambda_cap=4.0, lambda_point=1.0, reach=0.5)
    loss = build_loss([measured], "photo", "sketch", config)
    terms = loss.terms(source, adapted)
    assert list(terms) == ["directional", "cap", "point", "way"]
    before, after = (measured.encode_image(images) for images in (source, adapted))
    move = text_move(measured, "photo", "sketch")
    asked = 0.8 * move.norm()
    gone = (after - before) @ (move / move.norm()) / asked
    torch.testing.assert_close(terms["way"], gone.mean())
    torch.testing.assert_close(terms["cap"], (gone / 0.5 - 1).clamp(min=0).square().mean())
    torch.testing.assert_close(
        terms["point"], PointLoss(measured, 0.5 * 0.8 * move).compare(before, after)
    )
    total = terms["directional"] + 4 * terms["cap"] + terms["point"]
    torch.testing.assert_close(loss.total(terms), total)  # the way gone is only looked at


def test_where_reach_was_never_measured_cap_and_point_are_off(clip_tiny):
    config = GuidanceConfig(lambda_cap=4.0, lambda_point=1.0)
    loss = build_loss([clip_tiny], "photo", "sketch", config)
    assert loss.weights == {"directional": 1.0}
    with pytest.raises(ValueError, match="at least one term"):
        build_loss(
            [clip_tiny], "photo", "sketch", dataclasses.replace(config, lambda_directional=0.0)
        )


def test_each_batch_is_encoded_once_however_many_terms_look_at_it(clip_tiny, monkeypatch):
    seen = []
    encode = clip_tiny.encode_image
    monkeypatch.setattr(clip_tiny, "encode_image", lambda images: seen.append(1) or encode(images))
    loss = build_loss(
        [clip_tiny], "photo", "sketch", GuidanceConfig(lambda_global=1.0, lambda_in_domain=1.0)
    )
    loss(torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16))
    assert len(seen) == 2


def test_an_ensemble_is_the_weighted_mean_of_its_models(clip_tiny):
    other = make_clip("other", 16, 16, 1, 64, 8, 24, 49408, 64, 1, 1)
    source, adapted = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16)
    loss = build_loss([clip_tiny, other], "photo", "sketch", GuidanceConfig(clip_weights=[1, 3]))
    singles = [build_loss([c], "photo", "sketch")(source, adapted) for c in (clip_tiny, other)]
    torch.testing.assert_close(loss(source, adapted), (singles[0] + 3 * singles[1]) / 4)
    assert list(loss.terms(source, adapted)) == ["directional tiny", "directional other"]
    target = target_loss([clip_tiny, other], "sketch")(adapted)
    means = [GlobalLoss(c, "sketch")(adapted) for c in (clip_tiny, other)]
    torch.testing.assert_close(target, sum(means) / 2)


def test_weights_that_make_no_loss_get_a_sentence(clip_tiny):
    with pytest.raises(ValueError, match="give at least one term a weight"):
        build_loss([clip_tiny], "photo", "sketch", GuidanceConfig(lambda_directional=0.0))
    with pytest.raises(ValueError, match="give one for each"):
        build_loss([clip_tiny], "photo", "sketch", GuidanceConfig(clip_weights=[1, 1]))
    with pytest.raises(ValueError, match="named twice"):
        build_loss([clip_tiny, clip_tiny], "photo", "sketch")


# Augmentation


def augmented(clip, **options) -> Augmented:
    direction = text_direction(clip, "photo", "sketch")
    return Augmented(
        WeightedSum({"directional": (1.0, DirectionalLoss(clip, direction))}), **options
    )


def test_source_and_adapted_are_changed_alike_and_views_differ(clip_tiny):
    loss = augmented(clip_tiny, views=3)
    images = torch.randn(2, 3, 16, 16)
    one, two = loss.views_of(images, images.clone())
    assert torch.equal(one, two)
    assert one.shape == (6, 3, 16, 16)
    assert not torch.equal(one[:2], one[2:4]) and not torch.equal(one[0], one[1])


def test_views_without_any_change_but_mirroring_are_the_pictures_as_shown(clip_tiny):
    loss = augmented(clip_tiny, views=8, translate=0, scale=0, rotate=0, cutout=0, colour=0)
    images = torch.randn(1, 3, 32, 40)
    expected = resize(images, 16)[0].clamp(-1, 1)
    (views,) = loss.views_of(images)
    kinds = [
        min((0, 1), key=lambda i: (view - (expected, expected.flip(-1))[i]).abs().max())
        for view in views
    ]
    for view, kind in zip(views, kinds):
        torch.testing.assert_close(view, (expected, expected.flip(-1))[kind], rtol=0, atol=1e-4)
    assert set(kinds) == {0, 1}


def test_each_change_stays_within_its_limit(clip_tiny):
    ramp = torch.linspace(-1, 1, 16).view(1, 1, 1, 16).expand(1, 3, 16, 16)
    shifted = augmented(
        clip_tiny, views=64, translate=0.1, scale=0, rotate=0, cutout=0, colour=0
    ).views_of(ramp)[0]
    moved = shifted[:, 0, 8, 4:12].mean(dim=1).abs()  # the ramp rises by 2 over the width
    assert 0.1 < moved.max() <= 2 * 0.1 * 16 / 15 + 0.07
    grey = torch.zeros(1, 3, 16, 16)
    tinted = augmented(
        clip_tiny, views=64, translate=0, scale=0, rotate=0, cutout=0, colour=0.2
    ).views_of(grey)[0]
    assert 0.1 < tinted.abs().max() <= 0.2
    white = torch.ones(1, 3, 16, 16)
    holed = augmented(
        clip_tiny, views=64, translate=0, scale=0, rotate=0, cutout=0.5, colour=0
    ).views_of(white)[0]
    lost = (holed[:, 0] < 0.5).float().mean(dim=(1, 2))
    assert 0.1 < lost.max() <= 0.25 + 0.1


def test_colours_keep_grey_pictures_grey(clip_tiny):
    grey = torch.randn(1, 1, 16, 16).expand(1, 3, 16, 16)
    (views,) = augmented(clip_tiny, views=8).views_of(grey)
    torch.testing.assert_close(views[:, 0], views[:, 1])


def test_the_seed_decides_the_views(clip_tiny):
    loss = augmented(clip_tiny, views=2)
    images = torch.randn(2, 3, 16, 16)
    loss.seed(5)
    first = [loss.views_of(images)[0] for _ in range(2)]
    torch.rand(3)  # torch's own random numbers have no part in it
    loss.seed(5)
    assert torch.equal(first[0], loss.views_of(images)[0])
    assert torch.equal(first[1], loss.views_of(images)[0])
    assert not torch.equal(first[0], first[1])


def test_gradients_of_augmented_losses_reach_the_adapted_pictures_only(clip_tiny):
    source = torch.randn(2, 3, 32, 32, requires_grad=True)
    adapted = torch.randn(2, 3, 32, 32, requires_grad=True)
    loss = build_loss(
        [clip_tiny],
        "photo",
        "sketch",
        GuidanceConfig(lambda_global=1.0, lambda_in_domain=1.0, views=2),
    )
    loss(source, adapted).backward()
    assert source.grad is None
    assert adapted.grad.norm() > 0 and adapted.grad.isfinite().all()


def test_views_must_be_at_least_one(clip_tiny):
    with pytest.raises(ValueError, match="views is -1: give a whole number from 0 to 64"):
        build_loss([clip_tiny], "photo", "sketch", GuidanceConfig(views=-1))
