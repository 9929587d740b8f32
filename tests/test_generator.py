"""The generator against the reference program's pictures and gradients, and against itself."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from nada.generator import Generator, GeneratorConfig
from tests.helpers import TINY, fill_generator, golden, randn, relative_error, tiny_generator

GOLDEN = golden("generator")


@pytest.fixture(scope="module")
def reference32():
    return fill_generator(Generator(GeneratorConfig.standard(32)))


@pytest.fixture(scope="module")
def reference128():
    return fill_generator(Generator(GeneratorConfig.standard(128, channel_multiplier=1)))


def latents_of(generator, kind: str, prefix: str) -> torch.Tensor:
    """The ws [2, num_ws, 512] that the golden pictures were made from."""
    generator = copy.deepcopy(generator).requires_grad_(False)
    generator.mean_latent.copy_(GOLDEN[f"{prefix}/mean_latent"][0])
    z = randn("golden/z", (2, 512))
    if kind == "w":
        return GOLDEN[f"{prefix}/w_codes"].unsqueeze(1).expand(-1, generator.num_ws, -1)
    if kind == "mixed":
        crossover = generator.num_ws // 2
        second = generator.mapping(randn("golden/z/second", (2, 512)))
        return torch.cat([generator.mapping(z)[:, :crossover], second[:, crossover:]], 1)
    return generator.mapping(z, 0.7 if kind == "truncated" else 1.0)


@pytest.mark.parametrize("kind", ["plain", "mixed", "truncated", "w"])
def test_pictures_of_32_pixels(reference32, kind):
    with torch.no_grad():
        images = reference32.synthesis(latents_of(reference32, kind, "generator32"))
    torch.testing.assert_close(images, GOLDEN[f"generator32/{kind}/image"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["plain", "mixed", "truncated", "w"])
def test_pictures_of_128_pixels(reference128, kind):
    with torch.no_grad():
        images = reference128.synthesis(latents_of(reference128, kind, "generator128"))
    if kind == "plain":
        got, expected = images[:, :, 48:80, 48:80], GOLDEN["generator128/plain/crop32"]
    else:
        got, expected = F.avg_pool2d(images, 4), GOLDEN[f"generator128/{kind}/pooled32"]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


def test_mean_latent_is_the_mean_of_mapped_z(reference32):
    w = reference32.style(randn("golden/z/mean", (64, 512)))
    torch.testing.assert_close(w.mean(0), GOLDEN["generator32/mean_latent"][0])


def test_gradients_of_all_kinds_of_tensors(reference32):
    generator = copy.deepcopy(reference32)
    images = generator(randn("golden/z", (2, 512)))
    (images * randn("golden/z/probe", images.shape)).mean().backward()
    parameters = dict(generator.named_parameters())
    names = [k.split("/", 2)[2] for k in GOLDEN if "/grad_norm/" in k]
    assert len(names) == 8
    for name in names:
        gradient = parameters[name].grad
        norm, head = (GOLDEN[f"generator32/grad_{part}/{name}"] for part in ("norm", "head"))
        assert gradient.norm().item() == pytest.approx(norm.item(), rel=1e-3), name
        # both are float32, and each is about 5e-4 from float64 where a leaky ReLU has its kink
        assert relative_error(gradient.flatten()[:64], head) < 2e-3, name


@pytest.mark.parametrize("size, count", [(1024, 30_370_060), (512, 30_276_583), (256, 30_034_338)])
def test_published_sizes_have_the_published_number_of_parameters(size, count):
    with torch.device("meta"):
        generator = Generator(GeneratorConfig.standard(size))
    assert sum(p.numel() for p in generator.parameters()) == count


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(4, 8, 8, 1, (5,)),
        GeneratorConfig(8, 7, 5, 3, (3, 1)),
        GeneratorConfig(64, 12, 12, 4, (6, 5, 7, 3, 2)),
        GeneratorConfig(1024, 4, 4, 2, (3, 3, 3, 2, 2, 2, 1, 1, 1)),
    ],
    ids=lambda config: f"{config.size}",
)
def test_any_size_and_width(config):
    generator = tiny_generator(config)
    assert GeneratorConfig.from_state_dict(generator.state_dict()) == config
    assert generator.num_ws == len(generator.conv_names) + 1
    images = generator(torch.randn(2, config.z_dim), noise="random")
    assert images.shape == (2, 3, config.size, config.size) and images.isfinite().all()


def test_one_picture_does_not_depend_on_the_others(generator):
    ws = generator.mapping(torch.randn(3, 16))
    together = generator.synthesis(ws)
    alone = torch.cat([generator.synthesis(w[None]) for w in ws])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_modulated_convolution_is_one_weight_per_sample(generator):
    """Equations 1 and 3 of StyleGAN2, written as they stand."""
    conv = generator.convs[1].conv
    x, w = torch.randn(3, 8, 8, 8), torch.randn(3, 16)
    expected = []
    for picture, style in zip(x, conv.modulation(w)):
        weight = conv.weight[0] * conv.scale * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        expected.append(F.conv2d(picture[None], weight, padding=1))
    torch.testing.assert_close(conv(x, w), torch.cat(expected))


def test_frozen_weights_get_no_gradient_and_stop_the_backward_pass(generator):
    generator.layer("convs.2").requires_grad_(True)
    seen = []
    for name in ("convs.1", "convs.2", "convs.3"):
        hook = lambda module, inputs, output, name=name: seen.append((name, output.requires_grad))  # noqa: E731
        generator.layer(name).register_forward_hook(hook)
    generator(torch.randn(2, 16)).sum().backward()
    assert seen == [("convs.1", False), ("convs.2", True), ("convs.3", True)]
    trained = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert trained and all(name.startswith("convs.2.") for name in trained)


def test_rows_of_w_plus_drive_the_layers_they_are_said_to(generator):
    """Change one row; see which layers' inputs or outputs change first."""
    names = generator.conv_names + generator.to_rgb_names
    styles = {}
    for name in names:
        modulation = generator.layer(name).conv.modulation
        hook = lambda module, inputs, output, name=name: styles.update({name: output})  # noqa: E731
        modulation.register_forward_hook(hook)

    def styles_of(ws):
        generator.synthesis(ws)
        return dict(styles)

    ws = generator.mapping(torch.randn(1, 16)).clone()
    before = styles_of(ws)
    driven = []
    for row in range(generator.num_ws):
        changed = ws.clone()
        changed[:, row] += 1
        after = styles_of(changed)
        driven.append({name for name in names if not torch.equal(before[name], after[name])})
    assert driven == [
        {"conv1"},
        {"to_rgb1", "convs.0"},
        {"convs.1"},
        {"to_rgbs.0", "convs.2"},
        {"convs.3"},
        {"to_rgbs.1"},
    ]


def test_noise_is_stored_random_or_given(generator):
    ws = generator.mapping(torch.randn(2, 16))
    const = generator.synthesis(ws)
    assert torch.equal(const, generator.synthesis(ws, "const"))
    assert not torch.equal(const, generator.synthesis(ws, "random"))

    noise = generator.make_noise(2, torch.Generator().manual_seed(3))
    again = generator.make_noise(2, torch.Generator().manual_seed(3))
    assert torch.equal(generator.synthesis(ws, noise), generator.synthesis(ws, again))
    assert not torch.equal(const, generator.synthesis(ws, noise))
    stored = [getattr(generator.noises, f"noise_{i}") for i in range(5)]
    assert torch.equal(const, generator.synthesis(ws, stored))


def test_truncation_goes_from_the_mean_to_w(generator):
    z = torch.randn(2, 16)
    full = generator.mapping(z)
    assert full.shape == (2, 6, 16)
    mean = generator.mean_latent.expand_as(full)
    torch.testing.assert_close(generator.mapping(z, 0.0), mean)
    torch.testing.assert_close(generator.mapping(z, 0.25), mean + 0.25 * (full - mean))


@pytest.mark.parametrize("resolution", [4, 8])
def test_a_lower_resolution_is_the_generator_without_its_upper_layers(generator, resolution):
    config = dataclasses.replace(
        TINY, size=resolution, channels=TINY.channels[: generator.levels(resolution) + 1]
    )
    smaller = Generator(config)
    state = generator.state_dict()
    smaller.load_state_dict({key: state[key] for key in smaller.state_dict()})
    z = torch.randn(2, 16)
    expected = smaller(z)
    got = generator.synthesis(generator.mapping(z), resolution=resolution)
    assert got.shape == (2, 3, resolution, resolution)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    noise = generator.make_noise(2, torch.Generator().manual_seed(0), resolution)
    assert max(n.shape[-1] for n in noise) == resolution
    generator.synthesis(generator.mapping(z), noise, resolution)


def test_checkpointing_gives_the_same_pictures_and_gradients(generator):
    ws = generator.mapping(torch.randn(2, 16)).contiguous().requires_grad_(True)
    generator.requires_grad_(True)
    results = []
    for checkpointing in (False, True):
        images = generator.synthesis(ws, checkpointing=checkpointing)
        weight = generator.convs[1].conv.weight
        results.append((images, *torch.autograd.grad(images.square().sum(), [ws, weight])))
    for plain, other in zip(*results):
        torch.testing.assert_close(plain, other)


def test_bfloat16_comes_close(generator):
    ws = generator.mapping(torch.randn(4, 16))
    full = generator.synthesis(ws)
    with torch.autocast("cpu", torch.bfloat16):
        half = generator.synthesis(ws)
    assert half.dtype == torch.float32
    assert not torch.equal(half, full) and relative_error(half, full) < 0.02


def test_bfloat16_runs_the_convolutions_in_bfloat16(generator):
    types = []
    generator.convs[1].register_forward_hook(lambda module, inputs, out: types.append(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        generator(torch.randn(1, 16))
    assert types == [torch.bfloat16]


def test_channels_last_gives_the_same_pictures(generator):
    ws = generator.mapping(torch.randn(2, 16))
    before = generator.synthesis(ws)
    constant = generator.input.input
    constant.data = constant.data.contiguous(memory_format=torch.channels_last)
    layouts = []
    generator.convs[3].register_forward_hook(
        lambda module, inputs, out: layouts.append(
            out.is_contiguous(memory_format=torch.channels_last)
        )
    )
    torch.testing.assert_close(generator.synthesis(ws), before, rtol=0, atol=1e-5)
    assert layouts == [True]


@pytest.mark.parametrize(
    "fields, complaint",
    [
        ({"size": 48, "channels": (4, 4)}, "power of two"),
        ({"size": 2048, "channels": (4,) * 10}, "from 4 to 1024"),
        ({"size": 16, "channels": (4, 4)}, "3 are needed"),
        ({"size": 8, "channels": (4, 0)}, "at least 1"),
    ],
)
def test_impossible_architectures_get_a_sentence(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        GeneratorConfig(w_dim=8, z_dim=8, mapping_layers=2, **fields)


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda g: g.mapping(torch.randn(2, 17)), r"\[N, 16\] was expected"),
        (lambda g: g.synthesis(torch.randn(2, 16)), r"\[N, 6, 16\] was expected"),
        (lambda g: g.synthesis(torch.randn(2, 5, 16)), r"\[N, 6, 16\] was expected"),
        (lambda g: g.synthesis(torch.randn(2, 6, 16), "fresh"), "'const', 'random' or a list"),
        (lambda g: g.synthesis(torch.randn(2, 6, 16), []), "5 tensors"),
        (lambda g: g.synthesis(torch.randn(2, 6, 16), [torch.ones(1, 1, 4, 4)] * 5), "sides"),
        (lambda g: g.synthesis(torch.randn(2, 6, 16), resolution=32), r"goes through \[4, 8, 16\]"),
        (lambda g: g.layer("convs.4"), "conv1, convs.0, convs.1, convs.2, convs.3, to_rgb1"),
        (lambda g: g.layer("style"), "no layer 'style'"),
    ],
)
def test_misuse_gets_a_sentence(generator, call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call(generator)
