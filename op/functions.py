"""The operations as users call them: arguments checked, backend chosen, gradients of any order."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from op import reference
from op.backends import library_for
from op.native import MAX_TAPS, Filter, Library

Pair = int | tuple[int, int]
Pads = tuple[int, int, int, int]
Layer = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def fused_leaky_relu(
    x: Tensor, bias: Tensor | None = None, negative_slope: float = 0.2, scale: float = 2**0.5
) -> Tensor:
    """Bias, leaky ReLU and gain: `scale · leaky_relu(x + bias)`.

    The gain √2 keeps the variance of the signal (He initialisation, as in StyleGAN2).

    Args:
        x: [N, C, ...], any number of trailing dimensions.
        bias: [C], or None for no bias.
        negative_slope: slope for negative values.
        scale: factor of the result.

    Returns:
        The shape and type of `x`.

    Raises:
        ValueError: `bias` is not [C].
    """
    return styled_leaky_relu(x, bias, negative_slope=negative_slope, scale=scale)


def styled_leaky_relu(
    x: Tensor,
    bias: Tensor | None = None,
    demodulation: Tensor | None = None,
    noise: Tensor | None = None,
    strength: Tensor | None = None,
    negative_slope: float = 0.2,
    scale: float = 2**0.5,
) -> Tensor:
    """What follows a modulated convolution: demodulation, noise, bias, leaky ReLU and gain.

    `scale · leaky_relu(demodulation · x + strength · noise + bias)`.

    In one pass over the pixels where a compiled backend runs; only `x` is kept for the backward
    pass.

    Args:
        x: [N, C, ...], any number of trailing dimensions.
        bias: [C].
        demodulation: [N, C], factor of each channel (arXiv 1912.04958, equation 3).
        noise: [N, 1, ...] or [1, 1, ...] with the trailing dimensions of `x`.
        strength: one number as a tensor, wanted with `noise`.
        negative_slope: slope for negative values.
        scale: factor of the result.

    Returns:
        The shape and type of `x`.

    Raises:
        ValueError: shapes that do not fit `x`.
    """
    _check_layer(x, bias, demodulation, noise, strength)
    library = library_for(x)
    if library is None:
        return reference.styled_leaky_relu(
            x, bias, demodulation, noise, strength, negative_slope, scale
        )
    return _StyledLeakyReLU.apply(
        x, bias, demodulation, noise, strength, negative_slope, scale, library
    )


class FusedLeakyReLU(nn.Module):
    """`fused_leaky_relu` with a bias [C] that is learnt, at first zero."""

    def __init__(
        self,
        channel: int,
        bias: bool = True,
        negative_slope: float = 0.2,
        scale: float = 2**0.5,
    ):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, x: Tensor) -> Tensor:
        return fused_leaky_relu(x, self.bias, self.negative_slope, self.scale)


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    up: Pair = 1,
    down: Pair = 1,
    pad: tuple[int, ...] = (0, 0),
) -> Tensor:
    """Upsample with zeros, pad, convolve with a FIR kernel, take every `down`-th pixel.

    Args:
        x: [N, C, H, W].
        kernel: [kh, kw], the same for all channels; a true convolution, so it is applied flipped.
        up: each pixel is followed by `up − 1` zeros; one number, or (x, y).
        down: stride of the result; one number, or (x, y).
        pad: (before, after) for both axes, or (x before, x after, y before, y after), in pixels
            of the upsampled image; negative numbers crop.

    Returns:
        [N, C, H', W'] with H' = (H·up + before + after − kh) // down + 1, and W' likewise.

    Raises:
        ValueError: shapes or factors that make no sense, or nothing left after cropping.
    """
    ups, downs, pads = _pair("up", up), _pair("down", down), _pads(pad)
    _check_fir(x, kernel, ups, pads)
    library = library_for(x)
    if library is None or kernel.requires_grad or kernel.numel() > MAX_TAPS:
        return reference.upfirdn2d(x, kernel, ups, downs, pads)
    return _UpFirDn2d.apply(x, Filter.of(kernel), ups, downs, pads, library)


class _UpFirDn2d(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        filter: Filter,
        up: tuple[int, int],
        down: tuple[int, int],
        pad: Pads,
        library: Library,
    ) -> Tensor:
        out = library.upfirdn2d(x, filter, up, down, pad)
        ctx.backward_arguments = (
            filter.flipped(),
            down,
            up,
            _backward_pad(x.shape, out.shape, filter.shape, up, down, pad),
            library,
        )
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # the transpose of an upfirdn2d is one too, so derivatives of any order are
        return _UpFirDn2d.apply(grad, *ctx.backward_arguments), *[None] * 5


def _backward_pad(
    x_shape: Sequence[int],
    out_shape: Sequence[int],
    taps: tuple[int, int],
    up: tuple[int, int],
    down: tuple[int, int],
    pad: Pads,
) -> Pads:
    """The padding with which the result of an upfirdn2d goes back to the shape of its input."""

    def sides(axis: int) -> tuple[int, int]:
        before, size, left = pad[2 * axis], x_shape[3 - axis], out_shape[3 - axis]
        after = size * up[axis] - left * down[axis] + before - up[axis] + 1
        return taps[1 - axis] - before - 1, after

    return *sides(0), *sides(1)  # x, y


class _StyledLeakyReLU(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        bias: Tensor | None,
        demodulation: Tensor | None,
        noise: Tensor | None,
        strength: Tensor | None,
        slope: float,
        scale: float,
        library: Library,
    ) -> Tensor:
        ctx.save_for_backward(x, bias, demodulation, noise, strength)
        ctx.slope, ctx.scale, ctx.library = slope, scale, library
        return library.styled_leaky_relu(x, bias, demodulation, noise, strength, slope, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, bias, demodulation, noise, strength = tensors = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:5]
        if torch.is_grad_enabled() or wanted[3]:
            # the derivative will itself be differentiated, or the noise is what is sought: rare
            return *_by_reference(tensors, wanted, grad, ctx.slope, ctx.scale), None, None, None
        to_x, sums = ctx.library.styled_leaky_relu_backward(
            grad, x, bias, demodulation, noise, strength, ctx.slope, ctx.scale, any(wanted[1:])
        )
        if sums is None:
            return to_x, *[None] * 7
        to_demodulation, to_strength, to_bias = sums  # each [N, C]
        return (
            to_x,
            to_bias.sum(0).to(bias.dtype) if wanted[1] else None,
            to_demodulation.to(demodulation.dtype) if wanted[2] else None,
            None,
            to_strength.sum().to(strength.dtype).view(strength.shape) if wanted[4] else None,
            None,
            None,
            None,
        )


def _by_reference(
    tensors: Layer, wanted: Sequence[bool], grad: Tensor, slope: float, scale: float
) -> list[Tensor | None]:
    """The gradients of the tensors that are wanted, themselves differentiable where asked for."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        out = reference.styled_leaky_relu(*tensors, slope, scale)
        sought = [t for t, want in zip(tensors, wanted) if want and t is not None]
        grads = iter(torch.autograd.grad(out, sought, grad, create_graph=create_graph))
    return [next(grads) if want else None for want in wanted]


def _pair(name: str, value: Pair) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(
            f"upfirdn2d: {name} is {value}; one number or (x, y) of at least 1 was expected."
        )
    return pair


def _pads(pad: tuple[int, ...]) -> Pads:
    if len(pad) == 2:
        return pad[0], pad[1], pad[0], pad[1]
    if len(pad) == 4:
        return pad[0], pad[1], pad[2], pad[3]
    raise ValueError(
        f"upfirdn2d: pad is {pad}; (before, after) or (x before, x after, y before, y after) "
        "was expected."
    )


def _check_fir(x: Tensor, kernel: Tensor, up: tuple[int, int], pad: Pads) -> None:
    if x.ndim != 4 or kernel.ndim != 2:
        raise ValueError(
            f"upfirdn2d: x is {list(x.shape)} and kernel {list(kernel.shape)}; "
            "give x as [N, C, H, W] and the kernel as [kh, kw]."
        )
    height = x.shape[2] * up[1] + pad[2] + pad[3]
    width = x.shape[3] * up[0] + pad[0] + pad[1]
    if height < kernel.shape[0] or width < kernel.shape[1]:
        raise ValueError(
            f"upfirdn2d: {width}×{height} pixels are left after padding, fewer than the "
            f"{kernel.shape[1]}×{kernel.shape[0]} of the kernel; crop less."
        )


def _check_layer(
    x: Tensor,
    bias: Tensor | None,
    demodulation: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
) -> None:
    if x.ndim < 2 or (bias is not None and bias.shape != (x.shape[1],)):
        raise ValueError(
            f"fused_leaky_relu: x is {list(x.shape)} and bias "
            f"{None if bias is None else list(bias.shape)}; "
            "give x as [N, C, ...] and bias as [C]."
        )
    if demodulation is not None and demodulation.shape != x.shape[:2]:
        raise ValueError(
            f"styled_leaky_relu: demodulation is {list(demodulation.shape)}; "
            f"{list(x.shape[:2])} was expected."
        )
    if noise is None and strength is None:
        return
    if noise is None or strength is None:
        raise ValueError("styled_leaky_relu: noise and strength go together; give both or neither.")
    if (
        noise.shape[1:] != (1, *x.shape[2:])
        or noise.shape[0] not in (1, x.shape[0])
        or prod(strength.shape) != 1
    ):
        raise ValueError(
            f"styled_leaky_relu: noise is {list(noise.shape)} and strength {list(strength.shape)}; "
            f"[{x.shape[0]} or 1, 1, {', '.join(map(str, x.shape[2:]))}] and one number were "
            "expected."
        )
