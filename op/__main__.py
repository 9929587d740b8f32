"""`python -m op`: which backends there are, why not the others, what was built where, and times.

`python -m op build` builds ahead of the first use, `python -m op benchmark` prints the tables of
op/README.md.
"""

import argparse
import os
import sys

import torch

from op.backends import describe, use_backend
from op.benchmark import print_tables
from op.build import BACKENDS, Unavailable, build, failure, folder, library_path, missing


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m op", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    builder = commands.add_parser("build", help="build what can be built here")
    builder.add_argument("backends", nargs="*", metavar="BACKEND", help=", ".join(BACKENDS))
    builder.add_argument("--background", action="store_true", help="leave the processor to others")
    commands.add_parser("benchmark", help="time all sizes, forward and backward")
    options = parser.parse_args(arguments)
    if options.command == "build":
        return build_all(options.backends, options.background)
    if options.command == "benchmark":
        print_tables()
        return 0
    return report()


def build_all(names: list[str], background: bool) -> int:
    """Build the named backends, or all that this machine has the means for; 1 if any failed."""
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        print(f"There is no backend {unknown[0]!r} to build; there are {', '.join(BACKENDS)}.")
        return 2
    if background and hasattr(os, "nice"):
        os.nice(10)
    failed = 0
    for backend in [BACKENDS[name] for name in names or BACKENDS]:
        try:
            print(f"{backend.name}: {build(backend)}")
        except Unavailable as error:
            failed += bool(names) or missing(backend) is None
            print(error)
    return int(failed > 0)


def report() -> int:
    for backend in BACKENDS.values():
        path = library_path(backend)
        state = f"built: {path}" if path else missing(backend) or failure(backend)
        print(f"{backend.name:10}{state or f'not built; it would be in {folder(backend)}'}")
    print("reference always there: plain PyTorch\n")
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        found = describe(device)
        print(f"On {device} tensors runs: {found['runs']} ({found['asked']} was asked for).")
        for sentence in found["why_not"].values():
            print(f"  not {sentence}")
    print()
    with use_backend("auto"):
        print_tables(sizes=(64,), rounds=5)
    return 0


if __name__ == "__main__":
    sys.exit(main())
