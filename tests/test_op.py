"""The operations against the reference programs, their definitions, and finite differences."""

from functools import partial

import numpy as np
import pytest
import torch

import op
from tests.helpers import golden, randn

GOLDEN = golden("op")
IMAGE, KERNEL = torch.ones(1, 1, 4, 4), torch.ones(2, 2)


def entry(name: str, number: int) -> dict[str, torch.Tensor]:
    prefix = f"{name}/{number}/"
    return {k.removeprefix(prefix): v for k, v in GOLDEN.items() if k.startswith(prefix)}


def upfirdn2d_by_definition(x, kernel, up, down, pad):
    """One output pixel at a time, in NumPy."""
    n, c, h, w = x.shape
    wide = np.zeros((n, c, h * up, w * up))
    wide[:, :, ::up, ::up] = x
    before, after = (max(side, 0) for side in pad)
    wide = np.pad(wide, [(0, 0), (0, 0), (before, after), (before, after)])
    cut, end = max(-pad[0], 0), max(-pad[1], 0)
    wide = wide[:, :, cut : wide.shape[2] - end, cut : wide.shape[3] - end]
    kh, kw = kernel.shape
    rows = range(0, wide.shape[2] - kh + 1, down)
    columns = range(0, wide.shape[3] - kw + 1, down)
    flipped = kernel[::-1, ::-1]
    corners = [(i, j) for i in rows for j in columns]
    pixels = [(wide[:, :, i : i + kh, j : j + kw] * flipped).sum((2, 3)) for i, j in corners]
    return np.stack(pixels, -1).reshape(n, c, len(rows), len(columns))


@pytest.mark.parametrize("number", range(8))
def test_upfirdn2d_gives_the_reference_numbers(number):
    case = entry("upfirdn2d", number)
    up_down_pad = case["up_down_pad"].tolist()
    x = case["input"].requires_grad_()
    out = op.upfirdn2d(x, case["kernel"], up_down_pad[:2], up_down_pad[2:4], tuple(up_down_pad[4:]))
    (out * case["grad_probe"]).sum().backward()
    torch.testing.assert_close(out, case["output"], rtol=0, atol=1e-5)
    torch.testing.assert_close(x.grad, case["grad_input"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", range(3))
def test_fused_leaky_relu_gives_the_reference_numbers(number):
    case = entry("fused_leaky_relu", number)
    x, bias = case["input"].requires_grad_(), case["bias"].requires_grad_()
    out = op.fused_leaky_relu(x, bias)
    (out * case["grad_probe"]).sum().backward()
    torch.testing.assert_close(out, case["output"], rtol=0, atol=1e-6)
    torch.testing.assert_close(x.grad, case["grad_input"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(bias.grad, case["grad_bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("up", [1, 2, 3])
@pytest.mark.parametrize("down", [1, 2, 3])
@pytest.mark.parametrize("pad", [(0, 0), (1, 1), (2, 1), (-1, 2), (3, -2)])
def test_upfirdn2d_follows_its_definition(up, down, pad):
    x, kernel = randn("x", (2, 3, 7, 5)).double(), randn("kernel", (3, 2)).double()
    expected = upfirdn2d_by_definition(x.numpy(), kernel.numpy(), up, down, pad)
    got = op.upfirdn2d(x, kernel, up, down, pad)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-12)


def test_pairs_are_x_then_y():
    x, kernel = randn("x", (1, 2, 6, 9)), randn("kernel", (2, 3))
    across = op.upfirdn2d(x, kernel, up=(2, 1), down=(3, 1), pad=(1, 2, 0, 3))
    along = op.upfirdn2d(x.mT, kernel.T, up=(1, 2), down=(1, 3), pad=(0, 3, 1, 2)).mT
    torch.testing.assert_close(across, along)


def test_gradients_match_finite_differences():
    x = randn("x", (1, 2, 4, 3)).double().requires_grad_()
    kernel = randn("kernel", (3, 3)).double()
    bias = randn("bias", (2,)).double().requires_grad_()
    for settings in [(1, 1, (1, 1)), (2, 1, (2, 1)), (1, 2, (1, 0)), (2, 3, (-1, 2))]:
        function = partial(lambda settings, v: op.upfirdn2d(v, kernel, *settings), settings)
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
    assert torch.autograd.gradcheck(op.fused_leaky_relu, (x, bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_results_keep_type_and_memory_format(dtype):
    x = randn("x", (2, 4, 6, 6)).to(dtype).contiguous(memory_format=torch.channels_last)
    blurred = op.upfirdn2d(x, torch.ones(2, 2), pad=(1, 0))
    activated = op.fused_leaky_relu(x, torch.ones(4))
    for out in (blurred, activated):
        assert out.dtype == dtype and out.shape == x.shape
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda: op.fused_leaky_relu(torch.ones(2, 3), torch.ones(2)), r"bias \[2\]"),
        (lambda: op.fused_leaky_relu(torch.ones(3), torch.ones(3)), "N, C"),
        (lambda: op.upfirdn2d(torch.ones(3, 4, 4), KERNEL), r"\[N, C, H, W\]"),
        (lambda: op.upfirdn2d(IMAGE, torch.ones(2)), r"\[kh, kw\]"),
        (lambda: op.upfirdn2d(IMAGE, KERNEL, up=0), "at least 1"),
        (lambda: op.upfirdn2d(IMAGE, KERNEL, down=(1, -1)), "at least 1"),
        (lambda: op.upfirdn2d(IMAGE, torch.ones(5, 5)), "crop less"),
        (lambda: op.upfirdn2d(IMAGE, KERNEL, pad=(-2, -2)), "crop less"),
    ],
)
def test_nonsense_gets_a_sentence(call, complaint):
    with pytest.raises(ValueError, match=complaint):
        call()
