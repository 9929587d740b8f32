"""The command line: `python -m nada COMMAND`, each with `--help`; without one it lists them all.

Exit status: 0 done, 1 the training diverged (the last good weights are saved), 2 bad input, 130
interrupted (`adapt` saves what there is after the step at hand; a second Ctrl-C stops at once).
"""

import argparse
import copy
import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import fields, replace
from pathlib import Path

from tqdm import tqdm

from nada.adapt import DivergedError, Progress, adapt
from nada.checkpoint import fingerprint, load_generator, save_generator
from nada.clip import load_clips
from nada.convert import SUFFIXES, add_convert
from nada.delta import Delta, blend, diff
from nada.experiments.bench import add_bench
from nada.experiments.evaluate import add_evaluate
from nada.experiments.report import add_report
from nada.experiments.sweep import add_sweep
from nada.facts import blend_facts, describe, file_name, measured_facts, run_facts
from nada.film import frames, visits, write_mp4
from nada.generator import Generator
from nada.machine import keep_freed_memory, pick_device
from nada.memory import fit_preset
from nada.presets import PRESETS, SETTINGS, Suited, prepare, preset_for
from nada.prompts import direction_hint, unknown_words
from nada.sample import image_grid, parse_seeds, sample, to_images
from nada.serve.models import Options
from nada.serve.service import Service
from nada.settings import Setting

INTERRUPTED = 130  # what shells call a program that Ctrl-C ended
DOMAIN, GENERATOR = (".safetensors",), SUFFIXES  # how names of files to write may end


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ValueError, OSError) as error:
        print(f"nada {args.command}: {error}", file=sys.stderr)
        return 2


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="python -m nada", description="Move a generator to a new domain by two texts."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_adapt(commands)
    add_sample(commands)
    add_film(commands)
    add_blend(commands)
    add_domain(commands)
    add_info(commands)
    add_evaluate(commands, _command)
    add_convert(commands, _command)
    add_sweep(commands)
    add_report(commands)
    add_bench(commands, _command)
    return parser


def _command(commands, name: str, run, summary: str) -> argparse.ArgumentParser:
    """A command with the options that all share."""
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.set_defaults(run=run)
    parser.add_argument("--generator", default="demo", help="demo, ffhq, a file or org/repo:file")
    parser.add_argument("--device", default="auto", help="such as cpu (default: auto)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    return parser


# adapt


def add_adapt(commands) -> None:
    """Options of `adapt`: files and models, and every setting of a run by its flat name."""
    parser = _command(commands, "adapt", run_adapt, "Train a domain and save it as a file.")
    parser.add_argument("--target", required=True, help="what the pictures shall become")
    parser.add_argument("--source", help="what they are (default: the preset's)")
    parser.add_argument("--out", type=Path, help="domain file to write (default: by the target)")
    parser.add_argument(
        "--clip",
        default="auto",
        help="CLIP models joined by + (default: auto, those that suit the generator)",
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="domain file to go on from")
    parser.add_argument("--preset", choices=PRESETS, help="defaults (default: by the generator)")
    titles = {"config": "training loop", "guidance": "loss", "selection": "layers"}
    groups = {part: parser.add_argument_group(title) for part, title in titles.items()}
    for name, place in SETTINGS.items():
        groups[place.part].add_argument(flag(name), dest=name, **_argument(place.setting))


def flag(name: str) -> str:
    """The option of a setting: "global_" → "--global"."""
    return "--" + name.strip("_").replace("_", "-")


def _argument(setting: Setting) -> dict:
    """How argparse reads a setting; one that is not given stays None."""
    words = f"{setting.label}. {setting.help}".replace("%", "%%")
    if setting.kind is bool:
        return {"action": argparse.BooleanOptionalAction, "default": None, "help": words}
    if setting.choices is not None:
        kind = type(next(iter(setting.choices)))
        return {"type": kind, "choices": list(setting.choices), "help": words}
    if setting.kind is tuple:
        return {"type": _numbers, "metavar": "N,N", "help": f"{words} Numbers joined by commas."}
    words += f" {setting.expected[0].upper()}{setting.expected[1:]}."
    return {"type": setting.kind, "metavar": "N", "help": words}


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(parse_seeds(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run_adapt(args: argparse.Namespace) -> int:
    """Train, show progress, save the domain; also after Ctrl-C and after divergence."""
    suited, out = chosen(args), args.out or Path(file_name(args.target))
    check_out(out, DOMAIN)
    device = pick_device(args.device)
    frozen, clips = load_generator(args.generator, device), load_clips(suited.clip, device)
    preset = suited.preset if args.k is not None else suited.preset.fitted(frozen)
    preset, plan = fit_preset(frozen, clips, preset)
    loss, select = prepare(clips, args.target, preset)
    prompts, templates = (preset.source, args.target), preset.guidance.prompt_templates
    words, direction = unknown_words(clips[0], prompts), direction_hint(clips, *prompts, templates)
    for note in filter(None, (plan, words, direction)):
        print(note, file=sys.stderr)

    start = blend(frozen, [(Delta.load(args.start), 1.0)]) if args.start else frozen
    trainable = copy.deepcopy(start)
    steps = adapt(start, trainable, loss, preset.config, select)
    progress, status = follow(steps, preset.config.steps, args.json)
    if progress is None:
        return status
    facts = run_facts(clips, args.target, preset, progress)
    diff(frozen, trainable, facts | measured_facts(trainable, clips[0], args.target)).save(out)
    _say(args.json, f"{progress}\nSaved {out}.", {"out": str(out), "steps_done": progress.step})
    return status


def chosen(args: argparse.Namespace) -> Suited:
    """The preset and the CLIP models that suit the generator, with what the command line changes.

    Raises:
        ValueError: a setting out of range.
    """
    name, preset, clip = preset_for(args.generator)
    if args.preset:
        name, preset = args.preset, PRESETS[args.preset]
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    preset = replace(preset, config=replace(preset.config, preview_every=0)).with_(given)
    preset = replace(preset, source=args.source or preset.source)
    return Suited(name, preset, clip if args.clip == "auto" else args.clip)


def follow(steps: Iterator[Progress], total: int, as_json: bool) -> tuple[Progress | None, int]:
    """Run the steps, shown as a bar or as lines of JSON; the last one and the exit status."""
    progress, status = None, 0
    bar = tqdm(total=total, unit="step", disable=True if as_json else None)  # None: if a terminal
    with closing(steps), bar, stop_on_interrupt() as stop:
        try:
            for progress in steps:
                bar.update()
                bar.set_postfix(loss=f"{progress.loss:.4f}")
                if as_json:
                    print(json.dumps(as_dict(progress)), flush=True)
                if stop.is_set():
                    status = INTERRUPTED
                    break
        except DivergedError as error:
            print(f"nada adapt: {error}", file=sys.stderr)
            status = 1
    return progress, status


@contextmanager
def stop_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event; the next one interrupts as usual."""
    stop = threading.Event()

    def ask(*_) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def as_dict(progress: Progress) -> dict:
    """A step for JSON: all but the pictures."""
    return {f.name: getattr(progress, f.name) for f in fields(progress) if f.name != "preview"}


# sample, film, blend, domain, info


def add_sample(commands) -> None:
    """Options of `sample`."""
    parser = _command(commands, "sample", run_sample, "Draw pictures of seeds as one PNG grid.")
    _add_domain(parser, "a domain file and its strength (default 1); may be repeated")
    parser.add_argument("--seeds", type=_seeds, default=tuple(range(16)), help="(default: 0-15)")
    parser.add_argument("--psi", type=float, default=0.7, help="truncation (default: 0.7)")
    parser.add_argument("--columns", type=int, default=8, help="of the grid (default: 8)")
    parser.add_argument("--batch", type=int, default=8, help="pictures at once (default: 8)")
    parser.add_argument("--out", type=Path, default=Path("samples.png"), help="PNG to write")
    parser.add_argument("--folder", type=Path, help="write each picture as SEED.png here as well")


def run_sample(args: argparse.Namespace) -> int:
    """Draw, save."""
    check_out(args.out, (".png",))
    pictures = sample(_blended(args), args.seeds, args.psi, args.batch)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    image_grid(pictures, min(args.columns, len(args.seeds))).save(args.out, format="PNG")
    if args.folder:
        args.folder.mkdir(parents=True, exist_ok=True)
        for seed, image in zip(args.seeds, to_images(pictures)):
            image.save(args.folder / f"{seed}.png")
    _say(args.json, f"Saved {args.out}.", {"out": str(args.out), "seeds": args.seeds})
    return 0


def add_film(commands) -> None:
    """Options of `film`."""
    parser = _command(commands, "film", run_film, "Wander between seeds and strengths, as an mp4.")
    _add_domain(parser, "a domain file and its strength (default 1); may be repeated")
    parser.add_argument("--seeds", type=_seeds, default=(1, 2, 3), help="(default: 1-3)")
    parser.add_argument("--psi", type=float, default=0.7, help="truncation (default: 0.7)")
    parser.add_argument("--between", type=int, default=16, help="frames a way (default: 16)")
    parser.add_argument("--out", type=Path, default=Path("film.mp4"), help="mp4 to write")


def run_film(args: argparse.Namespace) -> int:
    """Draw, encode."""
    check_out(args.out, (".mp4",))
    base = load_generator(args.generator, pick_device(args.device))
    pictures = frames(base, _recipe(args), visits(args.seeds, 1.0), args.between, args.psi)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(pictures, args.out)
    _say(args.json, f"Saved {args.out}.", {"out": str(args.out), "frames": len(pictures)})
    return 0


def add_domain(commands) -> None:
    """Options of `domain`."""
    parser = _command(commands, "domain", run_domain, "Tell what a domain file says of itself.")
    parser.add_argument("file", type=Path)


def run_domain(args: argparse.Namespace) -> int:
    """Read, print."""
    facts = describe(Delta.load(args.file), fingerprint(load_generator(args.generator)))
    lines = "\n".join(f"{name}: {value}" for name, value in facts.items() if value is not None)
    _say(args.json, lines, facts)
    return 0


def add_info(commands) -> None:
    """Options of `info`."""
    parser = _command(commands, "info", run_info, "Tell what would run here, and its limits.")
    parser.add_argument("--clip", default="auto", help="CLIP models joined by + (default: auto)")


def run_info(args: argparse.Namespace) -> int:
    """Load, print."""
    facts = Service(Options(args.generator, args.clip, args.device)).info()
    _say(args.json, "\n".join(f"{name}: {value}" for name, value in facts.items()), facts)
    return 0


def add_blend(commands) -> None:
    """Options of `blend`."""
    parser = _command(commands, "blend", run_blend, "Mix domain files of one generator into one.")
    _add_domain(parser, "a domain file and its weight (default 1); repeat for several")
    parser.add_argument("--whole", action="store_true", help="save a generator, not a domain file")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")


def run_blend(args: argparse.Namespace) -> int:
    """Mix, save."""
    if not args.domain:
        raise ValueError("Nothing to blend: give --domain FILE WEIGHT once or more.")
    check_out(args.out, GENERATOR if args.whole else DOMAIN)
    base = load_generator(args.generator, pick_device(args.device))
    recipe = _recipe(args)
    mixed = blend(base, recipe)
    facts = blend_facts(recipe)
    if args.whole:
        save_generator(mixed, args.out, {"blend": json.dumps(facts["blend"])})
    else:
        diff(base, mixed, facts).save(args.out)
    _say(args.json, f"Saved {args.out}.", {"out": str(args.out)})
    return 0


def _add_domain(parser: argparse.ArgumentParser, meaning: str) -> None:
    words = ("FILE", "WEIGHT")
    parser.add_argument("--domain", nargs="+", action="append", metavar=words, help=meaning)


def _recipe(args: argparse.Namespace) -> list[tuple[Delta, float]]:
    recipe = []
    for file, *weight in args.domain or ():
        try:
            (weight,) = map(float, weight or ["1"])
        except ValueError as error:
            raise ValueError(
                f"--domain {file} {' '.join(weight)}: give one file and one number, such as 0.7."
            ) from error
        recipe.append((Delta.load(file), weight))
    return recipe


def _blended(args: argparse.Namespace) -> Generator:
    return blend(load_generator(args.generator, pick_device(args.device)), _recipe(args))


def check_out(path: Path, suffixes: Sequence[str]) -> None:
    """Raises ValueError for a file to write whose name promises another format."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give --out the name of a file.")
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"--out {path} should end in {' or '.join(suffixes)}.")


def _say(as_json: bool, sentence: str, data: dict) -> None:
    print(json.dumps(data) if as_json else sentence)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
