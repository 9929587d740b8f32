"""Short films that wander between seeds and strengths."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.delta import Delta, blend
from nada.generator import Generator
from nada.sample import latents

FPS = 24
LEAST_SIDE = 256  # pixels; smaller images are enlarged, since players blur them badly


@dataclass(frozen=True)
class Key:
    """A point on the way: the image of a seed at a strength of the domains."""

    seed: int
    strength: float


def visits(seeds: Sequence[int], strength: float) -> list[Key]:
    """Each seed first as the source and then at `strength`, and back to the first one's source."""
    keys = [Key(seed, value) for seed in seeds for value in (0.0, strength)]
    return [*keys, keys[0]]


@torch.no_grad()
def frames(
    generator: Generator,
    domains: Sequence[tuple[Delta, float]],
    keys: Sequence[Key],
    between: int = 16,
    truncation_psi: float = 0.7,
) -> Tensor:
    """The way from key to key, `between` frames each, as images [N, 3, H, W] in [-1, 1].

    Seeds move into each other along a line in w (StyleGAN, arXiv 1812.04948, measures paths there:
    it is smoother than z), strengths along half a cosine; the last key closes the film.

    Args:
        generator: the base of the domains.
        domains: what strength 1 means, as `nada.delta.blend` takes it.
        keys: the points to visit, 2 or more.
        between: frames from one key to the next, 2 or more.
        truncation_psi: as `Generator.mapping` takes it.

    Raises:
        ValueError: fewer than two keys, or too few frames.
    """
    if len(keys) < 2 or between < 2:
        raise ValueError(
            f"A film of {len(keys)} keys and {between} frames between them is empty; "
            "give 2 or more of both."
        )
    device = generator.mean_latent.device
    z = latents([key.seed for key in keys], generator.z_dim).to(device)
    ws = generator.mapping(z, truncation_psi)  # [K, num_ws, w_dim]
    images = []
    for i, (here, there) in enumerate(pairwise(keys)):
        for t in torch.linspace(0, 1, between + 1)[:-1].tolist():
            ease = (1 - torch.cos(torch.tensor(t * torch.pi)).item()) / 2
            strength = here.strength + (there.strength - here.strength) * ease
            blended = blend(generator, [(delta, strength * weight) for delta, weight in domains])
            w = torch.lerp(ws[i : i + 1], ws[i + 1 : i + 2], ease)
            images.append(blended.synthesis(w).clamp(-1, 1).cpu())
    return torch.cat(images)


def write_mp4(images: Tensor, path: str | Path, fps: int = FPS) -> None:
    """Write images [N, 3, H, W] in [-1, 1] as an H.264 film that every browser plays.

    Args:
        images: at least one; sides below LEAST_SIDE are enlarged, odd ones lose a row.
        path: an .mp4 to write.
        fps: images per second.

    Raises:
        ValueError: there is no image.
    """
    import av  # takes its time, and only films need it

    if len(images) == 0:
        raise ValueError("A film of no images is empty; give at least one.")
    scale = max(1, -(-LEAST_SIDE // images.shape[-1]))
    with av.open(str(path), "w", options={"movflags": "faststart"}) as film:
        stream = film.add_stream("libx264", rate=fps, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height = (side * scale // 2 * 2 for side in images.shape[:-3:-1])
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # training runs beside it
        for image in images:
            if scale > 1:
                image = F.interpolate(image[None], scale_factor=scale, mode="bicubic")[0]
            pixels = ((image + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            frame = av.VideoFrame.from_ndarray(
                pixels.permute(1, 2, 0).contiguous().numpy(), "rgb24"
            )
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
