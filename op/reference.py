"""The operations in plain PyTorch: what every other backend must agree with."""

import torch
import torch.nn.functional as F
from torch import Tensor


def styled_leaky_relu(
    x: Tensor,
    bias: Tensor | None,
    demodulation: Tensor | None,
    noise: Tensor | None,
    strength: Tensor | None,
    negative_slope: float,
    scale: float,
) -> Tensor:
    """See `op.styled_leaky_relu`."""
    trailing = [1] * (x.ndim - 2)
    if demodulation is not None:
        x = x * demodulation.to(x.dtype).view(*demodulation.shape, *trailing)
    if noise is not None and strength is not None:
        x = x + (strength * noise).to(x.dtype)
    if bias is not None:
        x = x + bias.to(x.dtype).view(1, -1, *trailing)
    return F.leaky_relu(x, negative_slope) * scale


def upfirdn2d(
    x: Tensor,
    kernel: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    pad: tuple[int, int, int, int],
) -> Tensor:
    """See `op.upfirdn2d`; `up`, `down` are (x, y), `pad` (x before, x after, y before, y after)."""
    x0, x1, y0, y1 = pad
    x = _insert_zeros(x, *up)
    padding = (y0, x0)
    if x0 != x1 or y0 != y1 or min(pad) < 0:  # else the convolution pads by itself, without a copy
        x, padding = F.pad(x, pad), (0, 0)
    channels = x.shape[1]
    weight = kernel.to(x.dtype).flip(0, 1).expand(channels, 1, -1, -1)
    return F.conv2d(x, weight, padding=padding, stride=(down[1], down[0]), groups=channels)


def _insert_zeros(x: Tensor, up_x: int, up_y: int) -> Tensor:
    if up_x == up_y == 1:
        return x
    n, c, height, width = x.shape
    sparse = torch.zeros(n, c, height * up_y, width * up_x, dtype=x.dtype, device=x.device)
    sparse[:, :, ::up_y, ::up_x] = x
    return sparse
