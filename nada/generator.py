"""StyleGAN2's generator (arXiv 1912.04958) as `mapping` and `synthesis`.

Module and tensor names are those of the PyTorch files in common use (`style, input, conv1, to_rgb1,
convs, to_rgbs, noises`), so that such files load strictly. Size, channel widths, latent widths and
the depth of the mapping network are read from a file's tensor shapes.

A modulated convolution scales the activations before it and after it and shares one weight over
the batch: the numbers of one weight per sample, for less memory, and a frozen weight costs no
gradient.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log2, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from op import FusedLeakyReLU, fused_leaky_relu, styled_leaky_relu, upfirdn2d

EPSILON = 1e-8
MOST_LEVELS = 9  # doublings that are looked at; of more, a side may have thousands of digits
MAPPING_LR = 0.01  # the mapping network learns a hundred times slower than the rest


@dataclass(frozen=True)
class GeneratorConfig:
    """The architecture of a generator.

    Args:
        size: side of the images in pixels, a power of two from 4 to 1024.
        w_dim, z_dim: widths of w and of z.
        mapping_layers: number of linear layers from z to w.
        channels: one width per resolution 4, 8, .., size.
        clamp: cut the outputs of all layers off at ± this number, as NVIDIA's program does in half
            precision (`conv_clamp`); None for no limit. No tensor shows it.

    Raises:
        ValueError: numbers that describe no generator.
    """

    size: int
    w_dim: int
    z_dim: int
    mapping_layers: int
    channels: tuple[int, ...]
    clamp: float | None = None

    def __post_init__(self) -> None:
        if self.size not in (4, 8, 16, 32, 64, 128, 256, 512, 1024):
            raise ValueError(f"size is {self.size}; a power of two from 4 to 1024 was expected.")
        levels = int(log2(self.size)) - 1
        if len(self.channels) != levels:
            raise ValueError(
                f"{len(self.channels)} channel widths were given for size {self.size}; "
                f"{levels} are needed, one per resolution 4, 8, .., {self.size}."
            )
        if min(self.w_dim, self.z_dim, self.mapping_layers, *self.channels) < 1:
            raise ValueError(f"All widths and depths must be at least 1, got {self}.")
        if self.clamp is not None and not self.clamp > 0:
            raise ValueError(f"clamp is {self.clamp}; a number above 0 or None was expected.")

    @property
    def num_ws(self) -> int:
        """Number of rows of w+: one per convolution and one more for the last to_rgb."""
        return 2 * len(self.channels)

    @classmethod
    def standard(cls, size: int, channel_multiplier: int = 2) -> "GeneratorConfig":
        """The published architecture (FFHQ, cats, cars, ...): 512 wide up to 32 pixels.

        Args:
            size: side of the images in pixels, a power of two from 4 to 1024.
            channel_multiplier: 2 for the published widths above 32 pixels, 1 for half of them.
        """
        levels = range(2, int(log2(size)) + 1)
        widths = (min(512, channel_multiplier * 2**14 // 2**level) for level in levels)
        return cls(size, 512, 512, 8, tuple(512 if i < 4 else w for i, w in enumerate(widths)))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> "GeneratorConfig":
        """Read the architecture from tensor shapes.

        Raises:
            ValueError: the tensors are not those of a StyleGAN2 generator.
        """
        mapping_layers = _count(state, r"style\.(\d+)\.weight", first=1)
        levels = _count(state, r"convs\.(\d+)\.conv\.weight", first=0) // 2
        if levels > MOST_LEVELS:
            raise ValueError(
                f"Not a StyleGAN2 generator: it doubles the side of its images {levels} times; at "
                "most 8 times, from 4 to 1024 pixels, were expected."
            )
        z_dim = _shape(state, "style.1.weight", 2)[1]
        w_dim = _shape(state, "conv1.conv.modulation.weight", 2)[1]
        channels = [_shape(state, "input.input", 4)[1]]
        channels += [_shape(state, f"convs.{2 * i}.conv.weight", 5)[1] for i in range(levels)]
        return cls(2 ** (2 + levels), w_dim, z_dim, mapping_layers, tuple(channels))


def _count(state: Mapping[str, Tensor], pattern: str, first: int) -> int:
    """How many keys match, which must be numbered without a gap from `first` on."""
    found = sorted(int(m[1]) for m in (re.fullmatch(pattern, key) for key in state) if m)
    if found != list(range(first, first + len(found))):
        name = pattern.replace(r"(\d+)", "N").replace("\\", "")
        raise ValueError(
            f"Not a StyleGAN2 generator: its layers {name!r} are numbered {found[:30]}, "
            f"and they should run from {first} without a gap."
        )
    return len(found)


def _shape(state: Mapping[str, Tensor], key: str, ndim: int) -> tuple[int, ...]:
    if key not in state:
        raise ValueError(
            f"Not a StyleGAN2 generator: the tensor {key!r} is missing. A generator with the names "
            "style, input, conv1, to_rgb1, convs, to_rgbs, noises was expected."
        )
    shape = tuple(state[key].shape)
    if len(shape) != ndim:
        raise ValueError(
            f"Not a StyleGAN2 generator: {key!r} has the shape {list(shape)}, "
            f"and {ndim} dimensions were expected."
        )
    return shape


class Generator(nn.Module):
    """StyleGAN2's generator with random weights; `load_generator` gives trained ones.

    Attributes:
        config: the `GeneratorConfig`; `size`, `num_ws`, `w_dim`, `z_dim` repeat its numbers.
        conv_names: the styled convolutions in order: "conv1", "convs.0", ...
        to_rgb_names: the RGB outputs in order: "to_rgb1", "to_rgbs.0", ...
        mean_latent: [w_dim], the point that truncation pulls to; not part of the state dict.
            Of the weights at construction; call `update_mean_latent` when the mapping has changed.
    """

    mean_latent: Tensor

    def __init__(self, config: GeneratorConfig):
        super().__init__()
        self.config = config
        self.size, self.num_ws = config.size, config.num_ws
        self.w_dim, self.z_dim = config.w_dim, config.z_dim

        widths = [config.z_dim] + [config.w_dim] * config.mapping_layers
        layers = [EqualLinear(*pair, lr=MAPPING_LR, activate=True) for pair in pairwise(widths)]
        self.style = nn.Sequential(PixelNorm(), *layers)

        channels, w_dim, clamp = config.channels, config.w_dim, config.clamp
        self.input = ConstantInput(channels[0])
        self.conv1 = StyledConv(channels[0], channels[0], w_dim, clamp=clamp)
        self.to_rgb1 = ToRGB(channels[0], w_dim, upsample=False, clamp=clamp)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for narrow, wide in pairwise(channels):
            self.convs.append(StyledConv(narrow, wide, w_dim, upsample=True, clamp=clamp))
            self.convs.append(StyledConv(wide, wide, w_dim, clamp=clamp))
            self.to_rgbs.append(ToRGB(wide, w_dim, upsample=True, clamp=clamp))

        self.noises = nn.Module()
        for i, side in enumerate(self.noise_sides):
            self.noises.register_buffer(f"noise_{i}", torch.randn(1, 1, side, side))

        self.conv_names = ("conv1", *(f"convs.{i}" for i in range(len(self.convs))))
        self.to_rgb_names = ("to_rgb1", *(f"to_rgbs.{i}" for i in range(len(self.to_rgbs))))
        self.register_buffer("mean_latent", torch.zeros(w_dim), persistent=False)
        if not self.mean_latent.is_meta:
            self.update_mean_latent()

    @property
    def noise_sides(self) -> list[int]:
        """Side of the noise of each convolution, in order: 4, 8, 8, 16, 16, ..."""
        return [4] + [4 * 2**i for i in range(1, len(self.config.channels)) for _ in range(2)]

    def resolution_of(self, key: str) -> int | None:
        """The side, in pixels, of the layer that a tensor of the state dict belongs to: 4 of
        "conv1.conv.weight", 16 of "convs.2.…"; None of the mapping network, which has none.

        Raises:
            ValueError: there is no such layer.
        """
        noises = [f"noises.noise_{i}" for i in range(len(self.noise_sides))]
        sides: dict[str, int | None] = {"style": None, "input": 4}
        sides |= zip((*self.conv_names, *noises), self.noise_sides * 2)
        sides |= zip(self.to_rgb_names, self.noise_sides[::2])  # behind each second convolution
        for layer, side in sides.items():
            if f"{key}.".startswith(f"{layer}."):
                return side
        raise ValueError(f"There is no layer that the tensor {key!r} belongs to.")

    def mapping(self, z: Tensor, truncation_psi: float = 1.0) -> Tensor:
        """z [N, z_dim] → ws [N, num_ws, w_dim], every row the same w.

        Args:
            z: normally distributed.
            truncation_psi: 1 leaves w as it is, 0 gives `mean_latent` (truncation trick,
                arXiv 1812.04948, B).

        Raises:
            ValueError: `z` is not [N, z_dim].
        """
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z is {list(z.shape)}; [N, {self.z_dim}] was expected.")
        w = self.style(z)
        if truncation_psi != 1:
            w = self.mean_latent + truncation_psi * (w - self.mean_latent)
        return w.unsqueeze(1).expand(-1, self.num_ws, -1)  # [N, num_ws, w_dim]

    def synthesis(
        self,
        ws: Tensor,
        noise: str | Sequence[Tensor] = "const",
        resolution: int | None = None,
        checkpointing: bool = False,
    ) -> Tensor:
        """ws [N, num_ws, w_dim] → images [N, 3, size, size], about [-1, 1] but not clamped.

        Row 0 drives conv1, row i drives convs.(i − 1); row i + 1 also drives the to_rgb behind
        each second convolution, so that only the last to_rgb has a row to itself.

        Args:
            ws: one w per layer; `mapping` gives the same one for all.
            noise: "const" for the stored buffers, "random" for fresh noise from torch's global
                randomness, or a list as `make_noise` returns.
            resolution: end with the RGB that the layers up to this side add up to, [N, 3,
                resolution, resolution]: the image without its finest detail. None for all.
            checkpointing: keep for the backward pass only what goes from one resolution to the
                next, and compute the rest a second time then: less memory, more time.

        Raises:
            ValueError: `ws`, `noise` or `resolution` does not fit the generator.
        """
        if ws.ndim != 3 or ws.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(
                f"ws is {list(ws.shape)}; [N, {self.num_ws}, {self.w_dim}] was expected."
            )
        levels = self.levels(resolution)
        noises = self._noises(ws, noise, self.noise_sides[: 2 * levels + 1])
        rows = ws.unbind(1)
        x = self.input(len(ws)).contiguous(memory_format=_layout(ws.device))
        x = self.conv1(x, rows[0], noises[0])  # [N, C, 4, 4]
        rgb = self.to_rgb1(x, rows[1])  # [N, 3, 4, 4]
        run = partial(checkpoint, self._level, use_reentrant=False, preserve_rng_state=False)
        level = run if checkpointing else self._level
        for i in range(levels):
            first = 2 * i + 1
            x, rgb = level(i, x, rgb, rows[first : first + 3], noises[first : first + 2])
        return rgb

    def _level(
        self, i: int, x: Tensor, rgb: Tensor, rows: Sequence[Tensor], noises: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Features and RGB of one resolution → those of the next, twice as wide and high."""
        x = self.convs[2 * i](x, rows[0], noises[0])
        x = self.convs[2 * i + 1](x, rows[1], noises[1])
        return x, self.to_rgbs[i](x, rows[2], rgb)

    def levels(self, resolution: int | None) -> int:
        """How often the images double in side from 4 pixels to `resolution`; None for `size`.

        Raises:
            ValueError: the generator does not go through that resolution.
        """
        sides = [4 * 2**i for i in range(len(self.config.channels))]
        if (resolution or self.size) not in sides:
            raise ValueError(f"resolution is {resolution}; this generator goes through {sides}.")
        return sides.index(resolution or self.size)

    def forward(
        self, z: Tensor, truncation_psi: float = 1.0, noise: str | Sequence[Tensor] = "const"
    ) -> Tensor:
        """z [N, z_dim] → images [N, 3, size, size]: `mapping`, then `synthesis`.

        Args:
            z, truncation_psi: as `mapping` takes them.
            noise: as `synthesis` takes it.
        """
        return self.synthesis(self.mapping(z, truncation_psi), noise)

    def make_noise(
        self, n: int, generator: torch.Generator, resolution: int | None = None
    ) -> list[Tensor]:
        """Noise for `n` images: one tensor [n, 1, h, w] per convolution, on the generator's device.

        Args:
            n: number of images.
            generator: on the CPU, so that a seed means the same noise on every device.
            resolution: as `synthesis` takes it.
        """
        sides = self.noise_sides[: 2 * self.levels(resolution) + 1]
        shapes = [(n, 1, side, side) for side in sides]
        return [torch.randn(s, generator=generator).to(self.mean_latent.device) for s in shapes]

    def layer(self, name: str) -> nn.Module:
        """The layer called "conv1", "convs.4", "to_rgb1", "to_rgbs.2", ...

        Raises:
            ValueError: there is no such layer.
        """
        if name not in self.conv_names + self.to_rgb_names:
            raise ValueError(
                f"There is no layer {name!r}; the layers are "
                f"{', '.join(self.conv_names + self.to_rgb_names)}."
            )
        return self.get_submodule(name)

    @torch.no_grad()
    def update_mean_latent(self, samples: int = 4096, seed: int = 0) -> None:
        """Set `mean_latent` to the mean of mapped z.

        Args:
            samples: number of z.
            seed: of the z, drawn on the CPU.
        """
        z = torch.randn(samples, self.z_dim, generator=torch.Generator().manual_seed(seed))
        # a new tensor, since the old one's memory may be another generator's too
        self.mean_latent = self.style(z.to(self.mean_latent.device)).mean(0).to(self.mean_latent)

    def _noises(
        self, ws: Tensor, noise: str | Sequence[Tensor], sides: list[int]
    ) -> Sequence[Tensor]:
        if isinstance(noise, str):
            if noise == "const":
                return [getattr(self.noises, f"noise_{i}") for i in range(len(sides))]
            if noise == "random":
                return [torch.randn(len(ws), 1, side, side, device=ws.device) for side in sides]
            raise ValueError(f"noise is {noise!r}; 'const', 'random' or a list was expected.")
        shapes = [tuple(tensor.shape) for tensor in noise]
        fits = [s[1:] == (1, side, side) and s[0] in (1, len(ws)) for s, side in zip(shapes, sides)]
        if len(shapes) != len(sides) or not all(fits):
            raise ValueError(
                f"noise has the shapes {shapes}; {len(sides)} tensors [{len(ws)} or 1, 1, h, w] "
                f"with the sides {sides} were expected (see make_noise)."
            )
        return noise


def with_tensors(generator: Generator, tensors: Mapping[str, Tensor]) -> Generator:
    """The generator with other tensors in the place of some, all without gradients.

    The rest is not copied: the two share its memory, so that many generators that differ in little
    take little. Write to the given tensors only.

    Args:
        generator: left as it is.
        tensors: name in the state dict → what takes its place, as it is.
    """
    memo: dict[int, object] = {
        id(buffer): tensors.get(name, buffer).detach() for name, buffer in generator.named_buffers()
    }
    for name, parameter in generator.named_parameters():
        value = tensors.get(name, parameter).detach()
        memo[id(parameter)] = nn.Parameter(value, requires_grad=False)
    return copy.deepcopy(generator, memo)


class PixelNorm(nn.Module):
    """z [N, D] → z with a mean square of 1 in each row."""

    def forward(self, z: Tensor) -> Tensor:
        return z * (z.square().mean(1, keepdim=True) + EPSILON).rsqrt()


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate (arXiv 1710.10196, 4.1): [N, in] → [N, out].

    The stored weight has a standard deviation of 1 / lr and is scaled when used.

    Args:
        inputs, outputs: widths.
        lr: factor of the learning rate.
        bias: value that the bias begins with.
        activate: put a leaky ReLU behind it.
    """

    def __init__(
        self, inputs: int, outputs: int, lr: float = 1.0, bias: float = 0.0, activate: bool = False
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr)
        self.bias = nn.Parameter(torch.full((outputs,), float(bias)))
        self.lr, self.activate = lr, activate

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight * (self.lr / sqrt(x.shape[1])), self.bias * self.lr
        if self.activate:
            return fused_leaky_relu(F.linear(x, weight), bias)
        return F.linear(x, weight, bias)


class ConstantInput(nn.Module):
    """The learnt features [1, C, 4, 4] that every image grows from."""

    def __init__(self, channels: int):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))

    def forward(self, n: int) -> Tensor:
        return self.input.expand(n, -1, -1, -1)  # [N, C, 4, 4]


def blur_kernel() -> Tensor:
    """The 4×4 FIR filter of StyleGAN2, [4, 4].

    Zeros between the pixels make an image four times darker; a sum of 4 makes up for it.
    """
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = taps.outer(taps)
    return 4 * kernel / kernel.sum()


class Blur(nn.Module):
    """The FIR filter around a factor of two; `kernel` is a buffer because files carry it."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel())

    def forward(self, x: Tensor, up: int, pad: tuple[int, int]) -> Tensor:
        return upfirdn2d(x, self.kernel, up=up, pad=pad)


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style (arXiv 1912.04958, 2.2).

    With style s and weight W, the equations 1 and 3 there give
    out = conv(s·x, W) · (Σ (s·W)²)^-½, so that both scalings are done on activations.

    Args:
        inputs, outputs: channels.
        w_dim: width of w.
        kernel: side of the kernel in pixels.
        demodulate: bring each output channel to unit variance.
        upsample: double the resolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        kernel: int = 3,
        demodulate: bool = True,
        upsample: bool = False,
    ):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualLinear(w_dim, inputs, bias=1.0)
        self.scale = 1 / sqrt(inputs * kernel**2)  # equalised learning rate
        self.demodulate = demodulate
        self.blur = Blur() if upsample else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x, demodulation = self.before_demodulation(x, w)
        return x if demodulation is None else x * _per_channel(demodulation, x)

    def style(self, w: Tensor) -> Tensor:
        """w [N, w_dim] → factors [N, I] of the input channels, times the weight's own scale.

        In full precision, as they are few.
        """
        with torch.autocast(w.device.type, enabled=False):
            return self.modulation(w.to(self.weight.dtype)) * self.scale

    def before_demodulation(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """The result [N, O, H', W'] before the demodulation, and that: [N, O], or None.

        For layers whose activation goes over all pixels anyway and applies the demodulation too.
        """
        weight, style = self.weight[0], self.style(w)  # [O, I, k, k], [N, I]
        with torch.autocast(x.device.type, enabled=False):
            factors = self._demodulation(weight, style) if self.demodulate else None  # [N, O]
        return self._convolve(x * _per_channel(style, x), weight), factors

    def _demodulation(self, weight: Tensor, style: Tensor) -> Tensor:
        energy = weight.square().sum((2, 3))  # [O, I]
        return (style.square() @ energy.T + EPSILON).rsqrt()

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        frozen = torch.is_grad_enabled() and x.requires_grad and not weight.requires_grad
        convolve = _FrozenConv.apply if frozen else _convolution
        x = convolve(x, weight, self.blur is not None)  # [N, O, H, W] or [N, O, 2H + 1, 2W + 1]
        return x if self.blur is None else self.blur(x, up=1, pad=(1, 1))


def _convolution(x: Tensor, weight: Tensor, upsample: bool) -> Tensor:
    if upsample:
        return F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    return F.conv2d(x, weight, padding=weight.shape[-1] // 2)


class _FrozenConv(torch.autograd.Function):
    """`_convolution` by a weight that is not trained: PyTorch's own keeps the input for a gradient
    of the weight all the same, which is half of what a layer keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, upsample: bool) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.upsample, ctx.like = upsample, x.dtype
        return _convolution(x, weight, upsample)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        weight = weight.to(gradient.dtype)
        # each of the two is the transpose of the other
        if ctx.upsample:
            back = F.conv2d(gradient, weight.transpose(0, 1), stride=2)
        else:
            back = F.conv_transpose2d(gradient, weight, padding=weight.shape[-1] // 2)
        return back.to(ctx.like), None, None


def _layout(device: torch.device) -> torch.memory_format:
    """The memory format of features.

    A CPU convolves channels_last without copying it first: measured at 256 pixels, a step is 1.1
    times as fast for it in float32 and 1.5 times in bfloat16.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[N, C] → [N, C, 1, 1] in the type of `like`, so that autocast is not promoted away."""
    return values.to(like.dtype)[:, :, None, None]


def _clamped(x: Tensor, clamp: float | None) -> Tensor:
    """x with nothing beyond ± clamp, the same tensor for None."""
    return x if clamp is None else x.clamp(-clamp, clamp)


class Noise(nn.Module):
    """The learnt strength of the noise that all channels of a layer get."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class StyledConv(nn.Module):
    """Modulated 3×3 convolution, noise, bias and leaky ReLU: one layer of the synthesis."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        w_dim: int,
        upsample: bool = False,
        clamp: float | None = None,
    ):
        super().__init__()
        self.clamp = clamp
        self.conv = ModulatedConv(inputs, outputs, w_dim, upsample=upsample)
        self.noise = Noise()
        self.activate = FusedLeakyReLU(outputs)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x, demodulation = self.conv.before_demodulation(x, w)
        x = styled_leaky_relu(x, self.activate.bias, demodulation, noise, self.noise.weight)
        return _clamped(x, self.clamp)


class ToRGB(nn.Module):
    """Features to RGB, added to the upsampled RGB of the resolution below."""

    def __init__(self, inputs: int, w_dim: int, upsample: bool, clamp: float | None = None):
        super().__init__()
        self.clamp = clamp
        self.conv = ModulatedConv(inputs, 3, w_dim, kernel=1, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.upsample = Blur() if upsample else None

    def forward(self, x: Tensor, w: Tensor, rgb: Tensor | None = None) -> Tensor:
        out = self._project(x, w) + self.bias  # full precision again, whatever x is
        out = _clamped(out, self.clamp)
        if rgb is None or self.upsample is None:
            return out
        with torch.autocast(x.device.type, enabled=False):
            return out + self.upsample(rgb, up=2, pad=(2, 1))

    def _project(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, C, H, W] → [N, 3, H, W] by a matrix for each image. Here, other than in a 3×3
        convolution, the weights are few and it is scaling the pixels that would cost."""
        matrix = self.conv.weight[0, :, :, 0, 0] * self.conv.style(w)[:, None]  # [N, 3, C]
        return (matrix.to(x.dtype) @ x.flatten(2)).unflatten(2, x.shape[2:])
