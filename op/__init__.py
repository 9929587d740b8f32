"""The two operations that StyleGAN2 adds to a convolutional network.

`reference` in plain PyTorch is the specification: it runs wherever torch runs, differentiates any
number of times, and needs no compiler. Importing this package never builds anything.
"""

from op.reference import fused_leaky_relu, upfirdn2d

BACKEND = "reference"

__all__ = ["BACKEND", "fused_leaky_relu", "upfirdn2d"]
