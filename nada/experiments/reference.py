"""StyleGAN-NADA's step as the papers write it and the original program runs it: the specification.

Plain on purpose. Every image has its own weights in every convolution, the FIR filter pads,
reshapes and convolves, both twins run in full, all of the synthesis gets gradients, and each step
begins with the choice of layers by w+ over 8 latents. Tests compare the library with it, and
`python -m nada bench` measures against it. It reads the tensors of a `nada.generator.Generator`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import op
from nada.clip import Encoder
from nada.generator import Generator, ModulatedConv, StyledConv, ToRGB

SELECT_BATCH = 8
SELECT_LR = 0.01


def pad_reshape_fir(x: Tensor, kernel: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
    """Zeros between the pixels, padding, and a convolution of one channel at a time."""
    n, c, height, width = x.shape
    x = x.reshape(-1, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(-1, 1, height * up, width * up)
    x = F.conv2d(F.pad(x, (*pad, *pad)), kernel.flip(0, 1)[None, None])
    return x.reshape(n, c, *x.shape[2:])


def depthwise_fir(x: Tensor, kernel: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
    """The same with all channels at once: one line's difference, and much of a CPU's time."""
    n, c, height, width = x.shape
    x = x.reshape(-1, height, 1, width, 1)
    x = F.pad(x, (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, height * up, width * up)
    weight = kernel.flip(0, 1).expand(c, 1, -1, -1)
    return F.conv2d(F.pad(x, (*pad, *pad)), weight, groups=c)


def plain_activation(x: Tensor, bias: Tensor) -> Tensor:
    """Bias, leaky ReLU and gain, one after the other."""
    return F.leaky_relu(x + bias.view(1, -1, 1, 1), 0.2) * 2**0.5


@dataclass(frozen=True)
class Operations:
    """The two operations that the original has kernels of its own for."""

    fir: Callable[..., Tensor]  # (x, kernel, up, pad) → x
    activation: Callable[[Tensor, Tensor], Tensor]  # (x, bias) → x


PLAIN = Operations(pad_reshape_fir, plain_activation)
DEPTHWISE = Operations(depthwise_fir, plain_activation)
FUSED = Operations(op.upfirdn2d, op.fused_leaky_relu)


def modulated_conv(conv: ModulatedConv, x: Tensor, w: Tensor, ops: Operations) -> Tensor:
    """Equations 1 and 3 of StyleGAN2 (arXiv 1912.04958), a group of channels for each image."""
    n, inputs, height, width = x.shape
    outputs, kernel = conv.weight.shape[1], conv.weight.shape[-1]
    weight = conv.scale * conv.weight * conv.modulation(w).view(n, 1, inputs, 1, 1)
    if conv.demodulate:
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
    x = x.reshape(1, n * inputs, height, width)
    if conv.blur is None:
        weight = weight.view(n * outputs, inputs, kernel, kernel)
        x = F.conv2d(x, weight, padding=kernel // 2, groups=n)
        return x.view(n, outputs, height, width)
    weight = weight.transpose(1, 2).reshape(n * inputs, outputs, kernel, kernel)
    x = F.conv_transpose2d(x, weight, stride=2, groups=n)
    return ops.fir(x.view(n, outputs, *x.shape[2:]), conv.blur.kernel, up=1, pad=(1, 1))


def styled_conv(layer: StyledConv, x: Tensor, w: Tensor, noise: Tensor, ops: Operations) -> Tensor:
    """Convolution, then noise, then the activation."""
    x = modulated_conv(layer.conv, x, w, ops)
    return ops.activation(x + layer.noise.weight * noise, layer.activate.bias)


def to_rgb(layer: ToRGB, x: Tensor, w: Tensor, rgb: Tensor | None, ops: Operations) -> Tensor:
    """Features to RGB on top of the upsampled RGB so far."""
    out = modulated_conv(layer.conv, x, w, ops) + layer.bias
    return out if rgb is None else out + ops.fir(rgb, layer.upsample.kernel, up=2, pad=(2, 1))


def synthesis(
    generator: Generator, ws: Tensor, noise: list[Tensor] | None = None, ops: Operations = PLAIN
) -> Tensor:
    """ws [N, num_ws, w_dim] → images [N, 3, size, size], as `Generator.synthesis`."""
    noise = list(generator.noises.buffers()) if noise is None else noise
    x = generator.input.input.repeat(len(ws), 1, 1, 1)
    x = styled_conv(generator.conv1, x, ws[:, 0], noise[0], ops)
    rgb = to_rgb(generator.to_rgb1, x, ws[:, 1], None, ops)
    for i, layer in enumerate(generator.convs):
        x = styled_conv(layer, x, ws[:, i + 1], noise[i + 1], ops)
        if i % 2 == 1:
            rgb = to_rgb(generator.to_rgbs[i // 2], x, ws[:, i + 2], rgb, ops)
    return rgb


def global_loss(clip: Encoder, target: str, images: Tensor) -> Tensor:
    """1 − cosine to the target text (equation 1), the text encoded anew as the original does."""
    return (1 - clip.encode_image(images) @ clip.encode_text([target])[0]).mean()


def directional_loss(clip: Encoder, direction: Tensor, source: Tensor, adapted: Tensor) -> Tensor:
    """1 − cosine of the images' move to the texts' direction [D] (equation 2).

    A move shorter than 0.05, as of twins that are still the same, counts by its length, so that
    there is a gradient to compare at the first step.
    """
    move = clip.encode_image(adapted) - clip.encode_image(source)
    return (1 - move @ direction / move.norm(dim=1).clamp(min=0.05)).mean()


def w_shifts(
    generator: Generator, z: Tensor, clip: Encoder, target: str, ops: Operations = PLAIN
) -> Tensor:
    """How far each row of w+ moves in one SGD step, [num_ws] (section 3.3)."""
    with torch.no_grad():
        ws = generator.mapping(z).clone()
    moved = ws.clone().requires_grad_(True)
    optimizer = torch.optim.SGD([moved], lr=SELECT_LR)
    global_loss(clip, target, synthesis(generator, moved, ops=ops)).backward()
    optimizer.step()
    return (moved.detach() - ws).abs().mean(dim=(0, 2))


def train_everything(generator: Generator) -> list[Tensor]:
    """Let all of the synthesis have gradients; the parameters of the styled convolutions."""
    generator.requires_grad_(True)
    generator.style.requires_grad_(False)
    return [p for name in generator.conv_names for p in generator.layer(name).parameters()]


def step(
    frozen: Generator,
    trainable: Generator,
    clip: Encoder,
    direction: Tensor,
    target: str,
    optimizer: torch.optim.Optimizer,
    batch: int = 2,
    ops: Operations = PLAIN,
    select: bool = True,
) -> None:
    """One whole step of the original. `trainable` as `train_everything` leaves it; `optimizer` over
    what that returns. The choice falls on all layers, so that all have their share of the cost."""
    device = frozen.mean_latent.device
    if select:
        z = torch.randn(SELECT_BATCH, frozen.z_dim, device=device)
        w_shifts(trainable, z, clip, target, ops)
    optimizer.zero_grad()
    trainable.zero_grad()
    noise = [torch.randn(batch, 1, side, side, device=device) for side in frozen.noise_sides]
    with torch.no_grad():
        ws = frozen.mapping(torch.randn(batch, frozen.z_dim, device=device))
        source = synthesis(frozen, ws, noise, ops)
    adapted = synthesis(trainable, ws, noise, ops)
    directional_loss(clip, direction, source, adapted).backward()
    optimizer.step()
