"""From one form into another, and how near that comes: `python -m nada convert`, `diff`, `distil`.

Any generator becomes safetensors or PyTorch's common layout; an adapted generator of anybody's
becomes a domain, by comparison with its base; a domain of weights becomes the closest domain of
styles.
"""

import argparse
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.adapt import DivergedError, Progress
from nada.checkpoint import load_generator, read_contents, read_generator, save_generator
from nada.delta import Delta, DeltaError, blend, diff, is_style
from nada.formats.catalogue import locate
from nada.formats.files import check_place, file_digest
from nada.formats.messages import json_line, size_text
from nada.generator import Generator
from nada.machine import pick_device
from nada.sample import latents, sample_batches
from nada.settings import Range, check, setting

CLOSE_SEEDS = range(2000, 2032)  # of pictures that tell how close a distilled domain comes
PARITY_SEEDS = range(8)
SUFFIXES = (".safetensors", ".pt", ".pth")


@torch.no_grad()
def parity(
    one: Generator,
    other: Generator,
    seeds: Iterable[int] = PARITY_SEEDS,
    truncation_psi: float = 1.0,
) -> float:
    """The greatest difference of a pixel, of a range of 2, over the images of `seeds`.

    With the stored noise, image by image.
    """
    device, worst = one.mean_latent.device, 0.0
    for z in latents(seeds, one.z_dim).split(1):
        first, second = (twin(z.to(device), truncation_psi) for twin in (one, other))
        worst = max(worst, (first - second).abs().max().item())
    return worst


def add_convert(commands, command) -> None:
    """Options of `convert`; `command` makes a parser with the options that all commands share."""
    parser = command(commands, "convert", run_convert, "Write a generator in another format.")
    parser.add_argument("--out", type=Path, required=True, help="a .safetensors or .pt to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    parser.add_argument("--half", action="store_true", help="float16: half the size, less exact")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--sha256", help="what the generator's file must hash to")


def run_convert(args: argparse.Namespace) -> int:
    """Load, save, load again, compare. A safetensors file keeps the source, and the licence and
    the crop where the catalogue knows them."""
    check_place(args.out, SUFFIXES, args.overwrite)
    device = pick_device(args.device)
    place = locate(args.generator, args.revision, args.sha256)
    generator, origin = read_generator(place.path)
    generator, told = generator.to(device), origin.facts()
    if generator.config.clamp is not None:
        told["unusual"].append("that is kept as 'conv_clamp', which other programs do not heed")
    dtype = torch.float16 if args.half else torch.float32
    entry = place.entry
    terms = {"licence": entry.licence, "aligned": entry.aligned} if entry else {}
    save_generator(generator, args.out, {"source": str(place), **terms}, dtype)
    report = {
        "source": str(place),
        **terms,
        **told,
        "size": generator.size,
        "out": str(args.out),
        "sha256": file_digest(args.out),
        "parity": parity(generator, load_generator(args.out, device)),
    }
    print(json_line(report) if args.json else sentences(report))
    return 0


def sentences(report: dict) -> str:
    """The report of a conversion as text."""
    terms = "".join(
        f"{title}: {report[name]}.\n"
        for name, title in (("aligned", "Pictures"), ("licence", "Licence"))
        if name in report
    )
    notes = "".join(f"Note: {note}.\n" for note in report["unusual"])
    return (
        f"Read {report['source']}: {report['used']}; {report['size']} pixels.\n"
        f"{notes}{terms}Saved {report['out']}, sha256 {report['sha256']}.\n"
        f"Over {len(PARITY_SEEDS)} seeds the pictures differ by {report['parity']:.2g} at most, "
        "of a range of 2."
    )


# A domain of two generators


def add_diff(commands) -> None:
    """Options of `diff`."""
    summary = "Make a domain of an adapted generator, anybody's, by comparison with its base."
    parser = commands.add_parser("diff", help=summary, description=summary)
    parser.set_defaults(run=run_diff)
    known = "demo, ffhq, a file or org/repo:file"
    parser.add_argument(
        "base", metavar="BASE", help=f"the generator before it was adapted: {known}"
    )
    parser.add_argument("adapted", metavar="ADAPTED", help="the generator after, in any format")
    parser.add_argument("--out", type=Path, required=True, help="domain file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --out where it exists")
    parser.add_argument("--target", help="what the domain is called: the prompt, if there was one")
    parser.add_argument("--source", help="what the base draws")
    parser.add_argument("--device", default="auto", help="such as cpu (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")


def run_diff(args: argparse.Namespace) -> int:
    """Load both, compare, save, and say how near the domain comes to the adapted generator."""
    check_place(args.out, (".safetensors",), args.overwrite)
    device, place = pick_device(args.device), locate(args.adapted)
    base, adapted = load_generator(args.base, device), load_generator(place, device)
    with read_contents(place.path) as contents:
        if not any(key.startswith("noises.") for key in contents.state):
            take_noise(adapted, base)
    given = {"source": args.source, "target": args.target}
    facts = {name: text for name, text in given.items() if text}
    delta = diff(base, adapted, {"compared": place.path.name, **facts})
    if not delta.tensors:
        raise DeltaError("The two generators are the same, weight for weight: no domain is made.")
    delta.save(args.out)
    blended = blend(base, [(delta, 1.0)])
    report = {
        "out": str(args.out),
        "bytes": args.out.stat().st_size,
        "kind": delta.kind,
        "changed_layers": len(delta.layers),
        "parameters": sum(tensor.numel() for tensor in delta.tensors.values()),
        "parity": parity(adapted, blended),
        "parity_truncated": parity(adapted, blended, truncation_psi=0.7),
        "notes": list(differences(base, adapted, blended, delta)),
    }
    print(json_line(report) if args.json else compared(report))
    return 0


@torch.no_grad()
def take_noise(generator: Generator, base: Generator) -> None:
    """Give a generator whose file has no noise that of its base, where the two are alike: any other
    would be as much its own, and would be the largest part of the domain."""
    for own, other in zip(generator.noises.buffers(), base.noises.buffers()):
        if own.shape == other.shape:
            own.copy_(other)


def differences(
    base: Generator, adapted: Generator, blended: Generator, delta: Delta
) -> Iterator[str]:
    """What of an adapted generator its domain does not hold, or holds without need; sentences."""
    if not torch.allclose(adapted.mean_latent, blended.mean_latent, rtol=1e-4, atol=1e-5):
        yield (
            "the adapted file has another mean latent, which no domain holds: with truncation "
            "its pictures are a little different"
        )
    if base.config.clamp != adapted.config.clamp:
        yield (
            f"features of the base are cut off at {base.config.clamp} and of the adapted generator "
            f"at {adapted.config.clamp}, which no domain holds"
        )
    state = base.state_dict()
    rounded = [
        name for name, tensor in delta.tensors.items()
        if torch.equal(tensor.half(), state[name].cpu().half())
    ]  # fmt: skip
    if rounded:
        yield (
            f"{len(rounded)} of {len(delta.tensors)} tensors differ by a rounding to float16 "
            "alone: give both files in one precision for a smaller domain"
        )


def compared(report: dict) -> str:
    """The report of a comparison as text."""
    notes = "".join(f"Note: {note}.\n" for note in report["notes"])
    return (
        f"What differs: {report['parameters']:,} numbers, {report['kind']} of "
        f"{report['changed_layers']} layers.\n{notes}"
        f"Over {len(PARITY_SEEDS)} seeds the pictures of base and domain differ from the adapted "
        f"generator's by {report['parity']:.2g} at most, and by {report['parity_truncated']:.2g} "
        f"at truncation 0.7, of a range of 2.\nSaved {report['out']}, "
        f"{size_text(report['bytes'])}."
    )


# A domain of styles that is like a large one


@dataclass(frozen=True)
class DistilConfig:
    """Settings of a distillation. ValueError names a bad one."""

    steps: int = setting(120, "Steps", "More come closer.", range=Range(1, 100_000))
    batch: int = setting(4, "Batch", "Pictures in a step.", range=Range(1, 256))
    lr: float = setting(
        0.05, "Learning rate", "Of Adam at the start; half a cosine takes it to 0.",
        range=Range(0, 10),
    )  # fmt: skip
    seed: int = setting(0, "Seed", "Of the pictures.", range=Range(0, 2**63 - 1))
    resolution: int = 256  # of the pictures compared, at most: finer layers keep their styles

    def __post_init__(self) -> None:
        check(self)


def distil(large: Generator, small: Generator, config: DistilConfig) -> Iterator[Progress]:
    """Train the styles of `small` to draw what `large` does; yields after every step.

    Both get the same z, so a mapping that changed is made up for as far as styles can. However the
    loop is left, `small` has whole steps behind it, and `diff(base, small)` is the small domain.

    Args:
        large: the base with a domain blended in.
        small: a deep copy of the base, trained in place.
        config: settings of the loop.

    Raises:
        DivergedError: the loss is not a number any more; `small` keeps its last sound styles.
    """
    start, random = time.monotonic(), torch.Generator().manual_seed(config.seed)
    resolution, device = min(config.resolution, small.size), small.mean_latent.device
    styles = {name: value for name, value in small.named_parameters() if is_style(name)}
    try:
        for value in styles.values():
            value.requires_grad_(True)
        optimizer = torch.optim.Adam(styles.values(), betas=(0.9, 0.99))
        for step in range(config.steps):
            lr = config.lr * (1 + math.cos(math.pi * step / config.steps)) / 2
            optimizer.param_groups[0]["lr"] = lr
            z = torch.randn(config.batch, small.z_dim, generator=random).to(device)
            with torch.no_grad():
                truth = large.synthesis(large.mapping(z), resolution=resolution)
            image = small.synthesis(small.mapping(z), resolution=resolution)
            loss = picture_distance(image, truth)
            if not math.isfinite(loss.item()):
                raise DivergedError(step, "The pictures are no numbers any more.", lr)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            seconds = time.monotonic() - start
            eta = seconds / (step + 1) * (config.steps - step - 1)
            yield Progress(step + 1, config.steps, loss.item(), {}, tuple(styles), lr, seconds, eta)
    finally:
        small.requires_grad_(False)
        small.zero_grad(set_to_none=True)


def picture_distance(image: Tensor, truth: Tensor) -> Tensor:
    """L1 at full, half and quarter size, a scalar, so that a place missed by a pixel still pulls.

    Args:
        image, truth: [N, 3, S, S].
    """
    sizes = [1, 2, 4] if image.shape[-1] >= 16 else [1]
    return sum(F.l1_loss(F.avg_pool2d(image, n), F.avg_pool2d(truth, n)) for n in sizes)


@torch.no_grad()
def closeness(base: Generator, large: Generator, small: Generator) -> dict[str, float]:
    """How close a distilled domain comes, over CLOSE_SEEDS at truncation 0.7, which no training
    sees.

    Returns:
        before, after: mean absolute difference of the large domain's images from those of the base
        and of the small domain, of their range. explained: the share of the squared difference
        that the small domain makes up for, 1 for all.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    drawn = (sample_batches(generator, CLOSE_SEEDS, 0.7, 4) for generator in (base, large, small))
    for before, truth, after in zip(*drawn):
        was, rest = before - truth, after - truth
        parts = (was.abs().mean(), rest.abs().mean(), was.square().mean(), rest.square().mean())
        sums += torch.stack(parts).double().cpu() * len(truth)
    before, after, was, rest = (sums / len(CLOSE_SEEDS)).tolist()
    explained = 1 - rest / was if was else 1.0
    figures = {"before": before / 2, "after": after / 2, "explained": explained}
    return {name: round(value, 4) for name, value in figures.items()}
