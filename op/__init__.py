"""The operations that StyleGAN2 adds to a convolutional network.

`reference` in plain PyTorch is the specification: it runs wherever torch runs, differentiates any
number of times, and needs no compiler. `cpp` and `cuda` do the same in fewer passes over the memory
where they could be built. Importing this package never builds anything.
"""

from op.backends import describe, refresh, use_backend
from op.functions import FusedLeakyReLU, fused_leaky_relu, styled_leaky_relu, upfirdn2d

__all__ = [
    "FusedLeakyReLU",
    "describe",
    "fused_leaky_relu",
    "refresh",
    "styled_leaky_relu",
    "upfirdn2d",
    "use_backend",
]
