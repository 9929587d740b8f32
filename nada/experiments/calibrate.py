"""How far a CLIP reaches: `python -m nada calibrate`.

The usual direction is made unit length, and with that goes the one number that says how far to go:
over styles, the length of ΔT tells how far true images lie along it. Measured once a model, from
the true renders of the bundled world or from domains that people find right, it is the unit of
`reach`, of the cap and of the point loss.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nada.checkpoint import load_generator
from nada.clip import Encoder, load_clips
from nada.clip.reach import Reach, write_reach
from nada.delta import Delta, blend
from nada.demo.render import Z_DIM
from nada.demo.styles import PHOTO, TUNED, render
from nada.experiments.measure import PSI, people, shown
from nada.experiments.tables import markdown_table
from nada.facts import title
from nada.formats.messages import json_line
from nada.generator import Generator
from nada.guidance import TEMPLATE_SETS, text_move
from nada.machine import pick_device
from nada.presets import preset_for

MANY = 2  # domains at least: one tells its own length and nothing of others


class Pair(NamedTuple):
    """A domain that is as it should be: prompts, and images [N, 3, H, W] before and after."""

    source: str
    target: str
    before: Tensor
    after: Tensor


class Move(NamedTuple):
    """A domain's |ΔT|, and how far its images lie along ΔT on average."""

    target: str
    length: float
    way: float


def add_calibrate(commands, command) -> None:
    """Options of `calibrate`; `command` makes a parser with the options that all share."""
    what = "Measure how far a CLIP's words reach, for the cap and the point loss."
    parser = command(commands, "calibrate", run_calibrate, what)
    parser.add_argument("--clip", default="auto", help="CLIP models joined by + (default: those "
                        "that suit the generator)")  # fmt: skip
    parser.add_argument("--domain", type=Path, nargs="+", default=[], metavar="FILE",
                        help="domains of the generator that went as far as they should (default: "
                        "the true renders of the bundled world)")  # fmt: skip
    parser.add_argument("--people", type=int, default=64, metavar="N",
                        help="pictures of each (default: 64)")  # fmt: skip
    parser.add_argument(
        "--write",
        action="store_true",
        help="keep the result beside each model's weights, for later runs",
    )


def run_calibrate(args: argparse.Namespace) -> int:
    """Measure, print, keep."""
    if args.people < 2:
        raise ValueError(f"--people is {args.people}: give 2 or more.")
    device = pick_device(args.device)
    generator = load_generator(args.generator, device)
    if not args.domain and generator.z_dim != Z_DIM:
        raise ValueError(
            "The true renders are of the bundled world alone: for another generator give domains "
            "of it that went as far as they should, with --domain."
        )
    if args.domain and len(args.domain) < MANY:
        raise ValueError(f"One domain tells little: give {MANY} or more with --domain.")
    suited = preset_for(args.generator)
    clips = load_clips(suited.clip if args.clip == "auto" else args.clip, device)
    templates = suited.preset.guidance.prompt_templates
    if args.domain:
        pairs, what = list(domain_pairs(generator, args.domain, args.people)), "given domains"
    else:
        pairs, what = list(true_pairs(generator, args.people)), "true renders of tuned styles"
    for clip in clips:
        moves = [move_of(clip, pair, templates) for pair in pairs]
        told = f"{what}: {len(moves)}, {args.people} people each, least squares through 0"
        reach = Reach(round(share_of(moves), 4), told)
        kept = str(keep(clip, reach)) if args.write else None
        say(args.json, clip.name, moves, reach, kept)
    return 0


def true_pairs(generator: Generator, count: int) -> Iterator[Pair]:
    """Renders of the same people as photos and in each style that settings are tuned on."""
    z = people(generator, count)
    before = render(z, PHOTO, generator.size)
    for style in TUNED:
        yield Pair(PHOTO, style, before, render(z, style, generator.size))


def domain_pairs(generator: Generator, files: Sequence[Path], count: int) -> Iterator[Pair]:
    """Samples before and after of domains that people find right.

    Raises:
        DeltaError: a domain that cannot be used.
        ValueError: one that does not say its prompts.
    """
    before = shown(generator, count, PSI)
    for file in files:
        delta = Delta.load(file)
        if not {"source", "target"} <= delta.metadata.keys():
            raise ValueError(
                f"{file.name} does not say from which prompt to which it goes (a mix?): "
                "leave it out."
            )
        after = shown(blend(generator, [(delta, 1.0)]), count, PSI)
        yield Pair(delta.metadata["source"], title(delta.metadata), before, after)


@torch.no_grad()
def move_of(clip: Encoder, pair: Pair, templates: Sequence[str] = TEMPLATE_SETS["bare"]) -> Move:
    """How long the words' move is, and how far the images went along it."""
    words = text_move(clip, pair.source, pair.target, templates)
    moved = (clip.encode_image(pair.after) - clip.encode_image(pair.before)).mean(dim=0)
    way = moved @ F.normalize(words, dim=0)
    return Move(pair.target, words.norm().item(), way.item())


def share_of(moves: Sequence[Move]) -> float:
    """s of way ≈ s · length, by least squares."""
    return sum(m.way * m.length for m in moves) / sum(m.length**2 for m in moves)


def keep(clip: Encoder, reach: Reach) -> Path:
    """Write the reach beside the weights.

    Raises:
        ValueError: they lie in no file.
    """
    file = getattr(clip, "file", None)
    if file is None:
        raise ValueError(
            f"The weights of {clip.name} lie in no file of their own: save them and give the file."
        )
    return write_reach(file, reach)


def say(as_json: bool, name: str, moves: Sequence[Move], reach: Reach, kept: str | None) -> None:
    """The measurement as a table or as a line of JSON."""
    if as_json:
        told = [move._asdict() for move in moves]
        print(json_line({"clip": name, **reach._asdict(), "moves": told, "out": kept}))
        return
    rows = [[m.target, f"{m.length:.2f}", f"{m.way:.2f}", f"{m.way / m.length:.2f}"] for m in moves]
    print(markdown_table([name, "length of the words", "way of the images", "share"], rows))
    print(f"\n{name}: images go {reach.share:.3f} of the words' length.", end=" ")
    print(f"Kept in {kept}.\n" if kept else "Not kept: give --write.\n")
    sys.stdout.flush()
