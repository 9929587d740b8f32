"""How to compute: precision, micro-batches, checkpointing and resolution of the synthesis.

float32, or bfloat16 where the hardware multiplies it faster.

Weights, styles, losses and Adam's sums stay float32; autocast has the convolutions work in the
shorter type. On a GPU CLIP then runs in float16: its features differ by little, and bfloat16 has
too few digits to tell them apart.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from nada.generator import Generator

PRECISIONS = ("fp32", "bf16", "auto")

# Gradients of CLIP's loss are about 1e-6 a pixel, where float16 has few digits left. A power of two
# moves them into its range and back without a rounding.
LOSS_SCALE = 2.0**12


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether convolutions on `device` compute in bfloat16: asked for, or "auto" and it is native.

    Args:
        precision: one of PRECISIONS.
        device: where the convolutions run.

    Raises:
        ValueError: `precision` is not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; use {', '.join(PRECISIONS)}.")
    return precision == "bf16" or (precision == "auto" and _has_bf16(torch.device(device)))


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # earlier ones emulate it
    # the instructions for it; a CPU without them converts back and forth and is slower
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    tests = (getattr(torch.cpu, name, None) for name in known)
    return device.type == "cpu" and any(test() for test in tests if test)


def convolutions_in(precision: str, device: torch.device) -> AbstractContextManager:
    """The context for generators: autocast to bfloat16, or none.

    Args:
        precision, device: as `uses_bf16` takes them.
    """
    if not uses_bf16(precision, device):
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False)


def clip_in(precision: str, device: torch.device) -> tuple[AbstractContextManager, float]:
    """The context for CLIP, and what to multiply its loss with before the backward pass.

    Args:
        precision, device: as `uses_bf16` takes them.
    """
    if torch.device(device).type == "cuda" and uses_bf16(precision, device):
        context = torch.autocast(torch.device(device).type, torch.float16, cache_enabled=False)
        return context, LOSS_SCALE
    return nullcontext(), 1.0


@dataclass(frozen=True)
class SynthesisOptions:
    """Options that change the cost of synthesis but, up to rounding and resolution, not its result.

    Args:
        micro_batch: images at once, 0 for all.
        precision: one of PRECISIONS.
        resolution: see `resolution_for`.
        checkpointing: as `Generator.synthesis` takes it.
    """

    micro_batch: int = 0
    precision: str = "fp32"
    resolution: int = 0
    checkpointing: bool = False

    def synthesize(
        self, generator: Generator, ws: Tensor, noise: str | Sequence[Tensor] = "const"
    ) -> Tensor:
        """ws [N, num_ws, w_dim] → images [N, 3, side, side], all at once.

        Args:
            generator: any generator.
            ws, noise: as `Generator.synthesis` takes them.
        """
        with convolutions_in(self.precision, ws.device):
            return generator.synthesis(
                ws, noise, self.resolution_for(generator), self.checkpointing
            )

    def resolution_for(self, generator: Generator) -> int:
        """Side of the images: `resolution`, or the generator's own where that is smaller or 0 was
        given."""
        return min(self.resolution or generator.size, generator.size)

    def micro_batches(self, *batches: Tensor) -> list[tuple[Tensor, ...]]:
        """Tensors of one length → a tuple for each micro-batch, with its rows of all of them."""
        return list(zip(*(batch.split(self.micro_batch or len(batch)) for batch in batches)))
