"""`python -m nada convert`: any generator as safetensors or PyTorch's common layout, compared."""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch

from nada.checkpoint import load_generator, read_generator, save_generator
from nada.formats.catalogue import locate
from nada.formats.files import check_place, file_digest
from nada.formats.messages import json_line
from nada.generator import Generator
from nada.machine import pick_device
from nada.sample import latents

PARITY_SEEDS = range(8)
SUFFIXES = (".safetensors", ".pt", ".pth")


@torch.no_grad()
def parity(one: Generator, other: Generator, seeds: Iterable[int] = PARITY_SEEDS) -> float:
    """The greatest difference of a pixel, of a range of 2, over the images of `seeds`.

    Without truncation, with the stored noise, image by image.
    """
    device, worst = one.mean_latent.device, 0.0
    for z in latents(seeds, one.z_dim).split(1):
        first, second = one(z.to(device)), other(z.to(device))
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
