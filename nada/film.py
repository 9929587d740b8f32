"""Short films that wander between seeds and strengths."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.delta import Delta, Strength, Weight, blend
from nada.formats.files import written_whole
from nada.generator import Generator, with_tensors
from nada.sample import check_images, latents

FPS = 24
LEAST_SIDE = 256  # pixels; smaller images are enlarged, since players blur them badly


@dataclass(frozen=True)
class Key:
    """A point on the way: the image of a seed at a strength of the domains."""

    seed: int
    strength: Weight


def visits(seeds: Sequence[int], strength: Weight) -> list[Key]:
    """Each seed first as the source and then at `strength`, and back to the first one's source."""
    keys = [Key(seed, value) for seed in seeds for value in (0.0, strength)]
    return [*keys, keys[0]]


def frames(
    generator: Generator,
    domains: Sequence[tuple[Delta, Weight]],
    keys: Sequence[Key],
    between: int = 16,
    truncation_psi: float = 0.7,
) -> Iterator[Tensor]:
    """The way from key to key, `between` frames each: images [3, H, W] in [-1, 1] on the CPU, one
    after the other, so that a film may have any length.

    Seeds move into each other along a line in w (StyleGAN, arXiv 1812.04948, measures paths there:
    it is smoother than z), strengths, band by band, along half a cosine; the last key closes the
    film.

    Args:
        generator: the base of the domains.
        domains: what strength 1 means, as `nada.delta.blend` takes it.
        keys: the points to visit, 2 or more.
        between: frames from one key to the next, 2 or more.
        truncation_psi: as `Generator.mapping` takes it.

    Raises:
        ValueError: fewer than two keys, or too few frames.
        DeltaError: as `nada.delta.blend` raises it.
        ImageError: a frame that is not finite, when it is drawn.
    """
    if len(keys) < 2 or between < 2:
        raise ValueError(
            f"A film of {len(keys)} keys and {between} frames between them is empty; "
            "give 2 or more of both."
        )
    z = latents([key.seed for key in keys], generator.z_dim)
    with torch.no_grad():
        ws = generator.mapping(
            z.to(generator.mean_latent.device), truncation_psi
        )  # [K, num_ws, w_dim]
    wander = _Wander(generator, domains)

    def way() -> Iterator[Tensor]:
        for i, (here, there) in enumerate(pairwise([Strength.of(key.strength) for key in keys])):
            for t in torch.linspace(0, 1, between + 1)[:-1].tolist():
                ease = (1 - math.cos(t * math.pi)) / 2
                w = torch.lerp(ws[i : i + 1], ws[i + 1 : i + 2], ease)
                yield wander.draw(w, here.towards(there, ease))

    return way()


class _Wander:
    """A generator that goes to and fro between a base and its blend with domains.

    W₀ + s Σ αᵢ(Wᵢ − W₀) lies on the line from W₀ to the blend at strength 1, so one blend does for
    all strengths s, which may differ by resolution.
    """

    def __init__(self, base: Generator, domains: Sequence[tuple[Delta, Weight]]):
        start, goal = base.state_dict(), blend(base, domains).state_dict()
        changing = {k: v.clone() for k, v in start.items() if not torch.equal(v, goal[k])}
        self.generator = with_tensors(base, changing).eval()
        self.strength = Strength.of(0.0)
        self.changing = [
            (value, start[key], goal[key], base.resolution_of(key))
            for key, value in changing.items()
        ]

    @torch.no_grad()
    def draw(self, w: Tensor, strength: Strength) -> Tensor:
        """The image [3, H, W] of w [1, num_ws, w_dim]."""
        if strength != self.strength:
            for value, start, end, resolution in self.changing:
                torch.lerp(start, end, strength.at(resolution), out=value)
            self.strength = strength
        return check_images(self.generator.synthesis(w)).clamp(-1, 1)[0].cpu()


def write_mp4(images: Iterable[Tensor], path: str | Path, fps: int = FPS) -> None:
    """Write images [3, H, W] in [-1, 1] as an H.264 film that every browser plays, whole or not at
    all.

    Args:
        images: at least one, all of one size; sides below LEAST_SIDE are enlarged, odd ones lose a
            row. They are taken one by one.
        path: an .mp4 to write.
        fps: images per second.

    Raises:
        ValueError: there is no image.
        PlaceError: the file cannot be written.
    """
    import av  # takes its time, and only films need it

    images = iter(images)
    first = next(images, None)
    if first is None:
        raise ValueError("A film of no images is empty; give at least one.")
    scale = max(1, -(-LEAST_SIDE // first.shape[-1]))
    with (
        written_whole(path) as unfinished,
        av.open(str(unfinished), "w", options={"movflags": "faststart"}) as film,
    ):
        stream = film.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height = (side * scale // 2 * 2 for side in first.shape[:-3:-1])
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # training runs beside it
        for image in chain([first], images):
            if scale > 1:
                image = F.interpolate(image[None], scale_factor=scale, mode="bicubic")[0]
            pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            frame = av.VideoFrame.from_ndarray(
                pixels.permute(1, 2, 0).contiguous().numpy(), "rgb24"
            )
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
