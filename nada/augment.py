"""Random views of images: a direction that fools CLIP in one exact view rarely fools it in many.

The views of a source and of an adapted image are changed alike, so that the difference between the
two stays what it is.
"""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nada.clip import resize


@runtime_checkable
class TermsLoss(Protocol):
    """A loss that is a sum of named terms, such as `nada.guidance.WeightedSum`."""

    @property
    def resolution(self) -> int: ...

    def terms(self, source_images: Tensor, adapted_images: Tensor) -> dict[str, Tensor]: ...

    def total(self, terms: Mapping[str, Tensor]) -> Tensor: ...


class RandomViews(nn.Module):
    """Randomly changed copies of images, several batches changed alike; half are mirrored.

    Images are clamped to [-1, 1] first, as they are shown, so that nothing is gained beyond white.
    Random numbers come from a CPU generator of this object's own, set by `seed`: the same changes
    on every device.

    Args:
        views: copies of each image, 1 or more.
        translate: largest shift, as a share of the side.
        scale: largest relative change of size.
        rotate: largest angle, in degrees.
        cutout: largest side of the grey square, as a share of the side.
        colour: largest change of brightness (of half the range), contrast and saturation, of 1.
    """

    def __init__(
        self,
        views: int = 2,
        translate: float = 0.06,
        scale: float = 0.12,
        rotate: float = 8.0,
        cutout: float = 0.25,
        colour: float = 0.15,
    ):
        super().__init__()
        if views < 1:
            raise ValueError(f"The number of views must be 1 or more, got {views}.")
        self.views = views
        self.translate, self.scale, self.rotate = translate, scale, math.radians(rotate)
        self.cutout, self.colour = cutout, colour
        self.random = torch.Generator()
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Start the sequence of random changes that belongs to `seed`."""
        self.random.manual_seed(seed)

    def draw(self, side: int, *batches: Tensor) -> tuple[Tensor, ...]:
        """Batches [N, 3, H, W] → [views·N, 3, side, side], all changed alike."""
        copies = [resize(images, side).repeat(self.views, 1, 1, 1) for images in batches]
        count, device = len(copies[0]), copies[0].device
        grid = self._grid(count, side).to(device)
        matrix, offset = (part.to(device) for part in self._colours(count))
        mask = self._mask(count, side).to(device)
        return tuple(_change(images, grid, matrix, offset, mask) for images in copies)

    def _uniform(self, count: int, limit: float) -> Tensor:
        """`count` numbers in [-limit, limit], on the CPU."""
        return (torch.rand(count, generator=self.random) * 2 - 1) * limit

    def _grid(self, count: int, side: int) -> Tensor:
        """Where each output pixel is read from, [N, side, side, 2]: an affine map of the plane."""
        angle, zoom = self._uniform(count, self.rotate), 1 + self._uniform(count, self.scale)
        mirror = self._uniform(count, 1.0).sign()
        right, down = (self._uniform(count, 2 * self.translate) for _ in range(2))
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        rows = [cos * mirror, -sin, right, sin * mirror, cos, down]
        theta = torch.stack(rows, dim=1).view(count, 2, 3)
        return F.affine_grid(theta, [count, 3, side, side], align_corners=False)

    def _colours(self, count: int) -> tuple[Tensor, Tensor]:
        """Saturation, contrast and brightness as one map c ↦ M c + b: [N, 3, 3] and [N, 1, 1]."""
        saturation, contrast = (1 + self._uniform(count, self.colour) for _ in range(2))
        luma = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)  # ITU-R BT.601
        saturation, contrast = saturation.view(-1, 1, 1), contrast.view(-1, 1, 1)
        matrix = contrast * (saturation * torch.eye(3) + (1 - saturation) * luma)
        return matrix, self._uniform(count, self.colour).view(-1, 1, 1)

    def _mask(self, count: int, side: int) -> Tensor:
        """1 where the image is kept and 0 in a random square, [N, 1, side, side]."""
        centre = self._uniform(2 * count, 1.0).view(2, count, 1)
        half = self._uniform(count, self.cutout).abs().view(count, 1)  # in a range of length 2
        line = (torch.arange(side) + 0.5) / side * 2 - 1
        down, right = (line - centre).abs() < half  # [N, side] each
        return 1 - (down[:, None, :, None] & right[:, None, None, :]).float()


class Augmented(RandomViews):
    """A loss of random views of each image instead of the image itself.

    Args:
        loss: of the views.
        views, changes: as `RandomViews` takes them.
    """

    def __init__(self, loss: TermsLoss, views: int = 2, **changes: float):
        super().__init__(views, **changes)
        self.loss = loss

    @property
    def resolution(self) -> int:
        """The largest image that any of the CLIP models takes, in pixels."""
        return self.loss.resolution

    def views_of(self, *batches: Tensor) -> tuple[Tensor, ...]:
        """Batches [N, 3, H, W] → [views·N, 3, s, s], all changed alike; s is CLIP's resolution."""
        return self.draw(self.resolution, *batches)

    def terms(self, source_images: Tensor, adapted_images: Tensor) -> dict[str, Tensor]:
        """The wrapped loss's terms of one draw of views."""
        return self.loss.terms(*self.views_of(source_images, adapted_images))

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of what `terms` returned."""
        return self.loss.total(terms)

    def forward(self, source_images: Tensor, adapted_images: Tensor) -> Tensor:
        """The scalar loss of one draw of views."""
        return self.total(self.terms(source_images, adapted_images))


def _change(images: Tensor, grid: Tensor, matrix: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    images = images.clamp(-1, 1)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    images = (matrix @ images.flatten(2) + offset).view_as(images)
    return images * mask
