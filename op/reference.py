"""`fused_leaky_relu` and `upfirdn2d` in plain PyTorch: what every other backend must agree with."""

import torch
import torch.nn.functional as F
from torch import Tensor


def fused_leaky_relu(
    x: Tensor, bias: Tensor, negative_slope: float = 0.2, scale: float = 2**0.5
) -> Tensor:
    """Bias, leaky ReLU and gain: `scale · leaky_relu(x + bias)`.

    The gain √2 keeps the variance of the signal (He initialisation, as in StyleGAN2).

    Args:
        x: [N, C, ...], any number of trailing dimensions.
        bias: [C]; computed with in the type of `x`.
        negative_slope: slope for negative values.
        scale: factor of the result.

    Returns:
        The shape and type of `x`.

    Raises:
        ValueError: `bias` is not [C].
    """
    if x.ndim < 2 or bias.shape != (x.shape[1],):
        raise ValueError(
            f"fused_leaky_relu: x is {list(x.shape)} and bias {list(bias.shape)}; "
            "give x as [N, C, ...] and bias as [C]."
        )
    shape = [1, -1] + [1] * (x.ndim - 2)
    return F.leaky_relu(x + bias.to(x.dtype).view(shape), negative_slope) * scale


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    up: int | tuple[int, int] = 1,
    down: int | tuple[int, int] = 1,
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
    up_x, up_y = _pair(up)
    down_x, down_y = _pair(down)
    x0, x1, y0, y1 = pad if len(pad) == 4 else (*pad, *pad)
    _check(x, kernel, (up_x, up_y, down_x, down_y), (x0, x1, y0, y1))

    x = _insert_zeros(x, up_x, up_y)
    if x0 == x1 >= 0 and y0 == y1 >= 0:
        padding = (y0, x0)  # the convolution pads by itself, which saves a copy
    else:
        x, padding = F.pad(x, (x0, x1, y0, y1)), 0
    channels = x.shape[1]
    weight = kernel.to(x.dtype).flip(0, 1).expand(channels, 1, -1, -1)
    return F.conv2d(x, weight, padding=padding, stride=(down_y, down_x), groups=channels)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


def _insert_zeros(x: Tensor, up_x: int, up_y: int) -> Tensor:
    if up_x == up_y == 1:
        return x
    n, c, height, width = x.shape
    sparse = torch.zeros(n, c, height * up_y, width * up_x, dtype=x.dtype, device=x.device)
    sparse[:, :, ::up_y, ::up_x] = x
    return sparse


def _check(x: Tensor, kernel: Tensor, factors: tuple[int, ...], pad: tuple[int, ...]) -> None:
    if x.ndim != 4 or kernel.ndim != 2:
        raise ValueError(
            f"upfirdn2d: x is {list(x.shape)} and kernel {list(kernel.shape)}; "
            "give x as [N, C, H, W] and the kernel as [kh, kw]."
        )
    if min(factors) < 1:
        raise ValueError(f"upfirdn2d: up and down must be at least 1, got {factors}.")
    height = x.shape[2] * factors[1] + pad[2] + pad[3]
    width = x.shape[3] * factors[0] + pad[0] + pad[1]
    if height < kernel.shape[0] or width < kernel.shape[1]:
        raise ValueError(
            f"upfirdn2d: {width}×{height} pixels are left after padding, fewer than the "
            f"{kernel.shape[1]}×{kernel.shape[0]} of the kernel; crop less."
        )
