"""Which numbers are used where, and that half precision on a GPU would keep CLIP's gradient."""

import pytest
import torch

from nada.compute import LOSS_SCALE, SynthesisOptions, clip_in, convolutions_in, uses_bf16
from tests.helpers import relative_error, tiny_generator

CPU = torch.device("cpu")


def test_bfloat16_is_used_when_asked_for():
    assert uses_bf16("bf16", CPU) and not uses_bf16("fp32", CPU)
    with convolutions_in("bf16", CPU):
        assert torch.is_autocast_enabled("cpu")
    with convolutions_in("fp32", CPU):
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("native", [True, False])
def test_auto_asks_the_processor(monkeypatch, native):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert uses_bf16("auto", CPU) is native
    assert not uses_bf16("auto", torch.device("meta"))


def test_auto_asks_the_gpu(monkeypatch):
    for capability, has in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert uses_bf16("auto", torch.device("cuda")) is has


def test_pictures_are_no_larger_than_the_generators_own(generator):
    ws = generator.mapping(torch.randn(1, generator.z_dim))
    for asked, side in ((0, 16), (8, 8), (16, 16), (64, 16)):
        options = SynthesisOptions(resolution=asked)
        assert options.resolution_for(generator) == side
        assert options.synthesize(generator, ws).shape == (1, 3, side, side)


def test_an_unknown_precision_gets_a_sentence():
    with pytest.raises(ValueError, match=r"precision is 'half'; use fp32, bf16, auto\."):
        uses_bf16("half", CPU)


def test_clip_stays_in_float32_on_a_cpu():
    context, scale = clip_in("bf16", CPU)
    with context:
        assert not torch.is_autocast_enabled("cpu")
    assert scale == 1


def test_the_loss_scale_keeps_a_small_gradient_in_float16(clip_a):
    """On a CPU, whose float16 has the same range. The gradient is as small as at 1024 pixels."""
    direction = torch.randn(64, generator=torch.Generator().manual_seed(1))

    def gradient(scale, half):
        images = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64).requires_grad_(True)
        with torch.autocast("cpu", torch.float16, enabled=half):
            features = clip_a.model.visual(clip_a.preprocess(images)).float()
            loss = (features @ direction[: features.shape[1]]).mean() * 1e-5
        (loss * scale).backward()
        return images.grad / scale

    exact = gradient(1.0, half=False)
    scaled, plain = (relative_error(gradient(s, half=True), exact) for s in (LOSS_SCALE, 1.0))
    assert scaled < 0.05
    assert scaled < plain / 2


def test_images_in_micro_batches_are_the_images(clip_tiny):
    generator = tiny_generator()
    ws = generator.mapping(torch.randn(5, 16))
    options = SynthesisOptions(micro_batch=2)
    assert [len(part) for (part,) in options.micro_batches(ws)] == [2, 2, 1]
    parts = torch.cat(
        [options.synthesize(generator, part) for (part,) in options.micro_batches(ws)]
    )
    torch.testing.assert_close(parts, generator.synthesis(ws), rtol=0, atol=1e-5)
    assert len(SynthesisOptions().micro_batches(ws)) == 1
