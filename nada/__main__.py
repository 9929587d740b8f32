"""The command line: `python -m nada COMMAND`, each with `--help`; without one it lists them all.

Exit status: 0 done, 1 the training diverged (the last good weights are saved), 2 bad input or an
error, 130 interrupted, 143 terminated (`adapt` saves what there is after the step at hand; a second
Ctrl-C stops at once, but for the time that saving takes), 141 nobody reads what is printed.
"""

import argparse
import copy
import json
import math
import os
import re
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import fields, replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from nada.adapt import DivergedError, Progress, adapt, trainable_copy
from nada.checkpoint import fingerprint, load_generator, read_generator, save_generator
from nada.clip import Encoder, load_clips
from nada.convert import SUFFIXES, DistilConfig, add_convert, add_diff, closeness, distil
from nada.delta import STYLES, Delta, DeltaError, Strength, Weight, blend, carry_over, diff, fits
from nada.experiments.bench import add_bench
from nada.experiments.calibrate import add_calibrate
from nada.experiments.evaluate import add_evaluate
from nada.experiments.report import add_report
from nada.experiments.sweep import add_sweep
from nada.facts import (
    blend_facts,
    blend_line,
    carried_note,
    describe,
    file_facts,
    file_name,
    generator_facts,
    measured_facts,
    run_facts,
    target_name,
    title,
)
from nada.film import FPS, frames, visits, write_mp4
from nada.formats.catalogue import locate
from nada.formats.files import PlaceError, check_place, free_name, written_whole
from nada.formats.messages import first_line, json_line, plain, size_text
from nada.formats.pictures import MOST, read_pictures
from nada.generator import Generator
from nada.guidance import Target
from nada.machine import keep_freed_memory, pick_device, speak_utf8
from nada.memory import fit_preset
from nada.presets import PRESETS, SETTINGS, Preset, Suited, prepare, preset_for
from nada.prompts import direction_hint, language_hint, reach_hint, unknown_words
from nada.sample import Grid, parse_seeds, sample_batches, to_images
from nada.serve.models import Options
from nada.serve.service import Service
from nada.settings import Setting

# what shells call a program that Ctrl-C ended, or a pipe that nobody reads
INTERRUPTED, UNREAD = 128 + signal.SIGINT, 128 + signal.SIGPIPE
DOMAIN, GENERATOR = (".safetensors",), SUFFIXES  # how names of files to write may end
BOUNDS = {  # of numbers that belong to no run
    "psi": (-10, 10),
    "columns": (1, 1000),
    "batch": (1, 1024),
    "between": (2, 10_000),
    "fps": (1, 240),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status. Whatever goes wrong is told in a sentence."""
    args = build_parser().parse_args(arguments)
    writes = hasattr(args, "overwrite")
    try:
        with on_signals(_end, signal.SIGTERM) if writes else nullcontext():
            status = args.run(args)
        print(end="", flush=True)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:
        status = UNREAD
    except Exception as error:
        tell(args.command, error)
        status = 2
    _drop_unread()
    return status


def tell(command: str, error: Exception) -> None:
    """An error on the error output, as a sentence; NADA_TRACEBACK=1 shows where it happened too."""
    with suppress(OSError):  # a terminal that has gone
        if os.environ.get("NADA_TRACEBACK"):
            traceback.print_exception(type(error), error, error.__traceback__)
        print(f"nada {command}: {sentence(error)}", file=sys.stderr)


def sentence(error: Exception) -> str:
    """An error for people: our own ones are sentences, those of libraries become one."""
    memory = r"out of memory|can't allocate|not enough memory|bad_alloc"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and re.search(memory, str(error))
    ):
        return (
            "There is not enough memory for this: ask for less at once (--batch), or close other "
            "programs."
        )
    if isinstance(error, OSError) and error.strerror:  # one of the system
        return f"{error.filename or 'What is printed'}: {error.strerror}."
    if isinstance(error, (ValueError, OSError, DivergedError)) and str(error):
        return str(error)
    return (
        f"An error that was not foreseen, {type(error).__name__}: {first_line(error)}. With "
        "NADA_TRACEBACK=1 in the environment the same command shows where it happened."
    )


def _drop_unread() -> None:
    """Let Python end quietly although what was printed cannot be written."""
    try:
        print(end="", flush=True)
    except OSError:
        with suppress(OSError, ValueError):  # no stream of the system, as in tests
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def on_signals(handler: Callable, *numbers: int) -> Iterator[None]:
    """Within, these signals call `handler`."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual or signal.SIG_DFL)


def _end(number: int, _) -> None:
    """End as the signal asks, but not without cleaning up."""
    raise SystemExit(128 + number)


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
    add_diff(commands)
    add_distil(commands)
    add_evaluate(commands, _command)
    add_calibrate(commands, _command)
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


def _add_out(parser: argparse.ArgumentParser, what: str, **options) -> None:
    parser.add_argument("--out", type=Path, help=what, **options)
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")


def place(args: argparse.Namespace, default: str, suffixes: Sequence[str]) -> Path:
    """Where to write, tried before any work: --out, or a name that no file has yet.

    Raises:
        ValueError, PlaceError: as `check_place` raises them.
    """
    out = args.out or (Path(default) if args.overwrite else free_name(default))
    check_place(out, suffixes, args.overwrite)
    return out


# adapt


def add_adapt(commands) -> None:
    """Options of `adapt`: files and models, and every setting of a run by its flat name."""
    parser = _command(commands, "adapt", run_adapt, "Train a domain and save it as a file.")
    parser.add_argument("--target", help="what the pictures shall become")
    parser.add_argument("--picture", type=Path, nargs="+", default=[], metavar="FILE",
                        help=f"pictures of what they shall become, {MOST} at most, alone or beside "
                        "--target")  # fmt: skip
    parser.add_argument("--source", help='what they are, "" for what CLIP sees of them '
                        "(default: the preset's)")  # fmt: skip
    _add_out(parser, "domain file to write (default: by the target, a new one each time)")
    parser.add_argument(
        "--clip",
        default="auto",
        help="CLIP models joined by commas (default: auto, those that suit the generator)",
    )
    parser.add_argument("--start", type=Path, metavar="FILE", help="domain file to go on from")
    _add_carry_over(parser)
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
    """Train, show progress, save the domain; also after Ctrl-C, divergence, an error."""
    suited, target = chosen(args), wanted(args)
    out = place(args, file_name(target_name(target)), DOMAIN)
    device = pick_device(args.device)
    source = locate(args.generator)
    (frozen, origin), clips = read_generator(source.path), load_clips(suited.clip, device)
    origin.warn()
    frozen = frozen.to(device)
    preset = suited.preset if args.k is not None else suited.preset.fitted(frozen)
    preset, plan = fit_preset(frozen, clips, preset)
    start = blend(frozen, [(_domain(args.start, frozen, args), 1.0)]) if args.start else frozen
    loss, select = prepare(clips, target, preset, start)
    for note in filter(None, (plan, *prompt_hints(clips, target.words, preset))):
        print(note, file=sys.stderr)

    trainable = trainable_copy(start, preset.config)
    steps = adapt(start, trainable, loss, preset.config, select)
    with stop_on_signals() as stop:
        progress, status = follow(steps, preset.config.steps, args.json, stop)
        if progress is None:
            return status or stop.status
        stop.hold()
        facts = run_facts(clips, target, preset, progress)
        facts |= generator_facts(source.name, origin)
        facts |= measures(trainable, clips[0], target)
        out = keep(diff(frozen, trainable, facts), out, args.overwrite, stop)
    _say(args.json, f"{progress}\nSaved {out}.", {"out": str(out), "steps_done": progress.step})
    return status or stop.status


def wanted(args: argparse.Namespace) -> Target:
    """What to move to: --target, the pictures, or both.

    Raises:
        ValueError: neither is given.
        PictureError: a picture that cannot be used.
    """
    if not args.picture:
        if args.target is None:
            raise ValueError("Say what to move to: give --target TEXT, --picture FILE, or both.")
        return Target(args.target)
    return Target(args.target or "", *read_pictures(args.picture))


def prompt_hints(clips: Sequence[Encoder], target: str, preset: Preset) -> list[str]:
    """Sentences on prompts, where there are any."""
    if not target:
        return []
    prompts, guidance = (preset.source, target), preset.guidance
    return [
        unknown_words(clips[0], prompts),
        language_hint(clips, prompts),
        direction_hint(clips, *prompts, guidance.prompt_templates),
        reach_hint(clips, bool(guidance.lambda_cap or guidance.lambda_point)),
    ]


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
    preset = replace(preset, source=preset.source if args.source is None else args.source)
    return Suited(name, preset, clip if args.clip == "auto" else args.clip)


def follow(
    steps: Iterator[Progress], total: int, as_json: bool, stop: "Stop"
) -> tuple[Progress | None, int]:
    """Run the steps, shown as a bar or as lines of JSON; the last one and the exit status.

    An error after the first step ends the run like a divergence, with what it has come to.
    """
    progress, status = None, 0
    bar = tqdm(total=total, unit="step", disable=True if as_json else None)  # None: if a terminal
    with closing(steps), bar:
        try:
            for progress in steps:
                bar.update()
                way = {} if progress.way is None else {"way": f"{progress.way:.0%}"}
                alike = {"people": "become alike"} if progress.collapsing else {}
                bar.set_postfix(loss=f"{progress.loss:.4f}", **way, **alike)
                if as_json:
                    print(json_line(as_dict(progress)), flush=True)
                if stop.status:
                    break
        except DivergedError as error:
            tell(stop.command, error)
            status = 1
        except BrokenPipeError:
            status = UNREAD
        except Exception as error:
            if progress is None:
                raise
            tell(stop.command, error)
            status = 2
    return progress, status


def add_distil(commands) -> None:
    """Options of `distil`."""
    summary = "Find the domain of styles, a few kilobytes, that is closest to a large one."
    parser = _command(commands, "distil", run_distil, summary)
    parser.add_argument("file", type=Path, metavar="WEIGHTS", help="the large domain's file")
    usual = DistilConfig()
    parser.add_argument("--steps", type=int, default=usual.steps, help=f"(default: {usual.steps})")
    parser.add_argument("--batch", type=int, default=usual.batch,
                        help=f"pictures in a step (default: {usual.batch})")  # fmt: skip
    parser.add_argument("--lr", type=float, default=usual.lr,
                        help=f"Adam's rate at the start (default: {usual.lr})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=usual.seed, help="of the pictures (default: 0)")
    _add_out(parser, "domain file to write", required=True)


def run_distil(args: argparse.Namespace) -> int:
    """Fit the styles, show progress, save the small domain; also after Ctrl-C or an error."""
    config = DistilConfig(steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed)
    check_place(args.out, DOMAIN, args.overwrite)
    delta = Delta.load(args.file)
    if delta.kind == STYLES:
        raise DeltaError(
            f"{plain(args.file.name)} changes styles alone already "
            f"({size_text(args.file.stat().st_size)}); there is nothing to distil."
        )
    base = load_generator(args.generator, pick_device(args.device))
    large, small = blend(base, [(delta, 1.0)]), copy.deepcopy(base)
    with stop_on_signals("distil") as stop:
        progress, status = follow(distil(large, small, config), config.steps, args.json, stop)
        if progress is None:
            return status or stop.status
        stop.hold()
        close = closeness(base, large, small)
        known = {"target": title(delta.metadata), **delta.metadata}
        prompts = {name: known[name] for name in ("source", "target") if name in known}
        facts = {**prompts, "distilled_from": {**prompts, **close}}
        facts |= {"generator": known["generator"]} if "generator" in known else {}
        out = keep(diff(base, small, facts), args.out, args.overwrite, stop)
    told = {"out": str(out), "steps_done": progress.step, "bytes": out.stat().st_size, **close}
    _say(args.json, _distilled(out, close), told)
    return status or stop.status


def _distilled(out: Path, close: dict[str, float]) -> str:
    return (
        f"Pictures differed by {close['before']:.1%} of the range from the large domain's, and "
        f"differ by {close['after']:.1%} now: {close['explained']:.0%} of the change is explained."
        f"\nSaved {out}, {size_text(out.stat().st_size)}."
    )


class Stop:
    """What signals ask of a run.

    `status` is the exit status to end with, 0 while no signal has come; `command` is the one that
    runs.
    """

    def __init__(self, command: str = "adapt") -> None:
        self.command = command
        self.status, self.patience = 0, 1.0  # so many signals ask; the next one insists

    def __call__(self, number: int, _) -> None:
        if self.patience < 1:
            raise KeyboardInterrupt
        self.patience -= 1
        self.status = self.status or 128 + number

    def hold(self) -> None:
        """From now on signals only ask."""
        self.patience = math.inf

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal interrupts."""
        before, self.patience = self.patience, 0
        try:
            yield
        finally:
            self.patience = before


@contextmanager
def stop_on_signals(command: str = "adapt") -> Iterator[Stop]:
    """The first Ctrl-C, SIGTERM or closed terminal sets `Stop.status`; the next one interrupts."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # under nohup it is
        numbers.append(signal.SIGHUP)
    stop = Stop(command)
    with on_signals(stop, *numbers):
        yield stop


def measures(trainable: Generator, clip: Encoder, target: str | Target) -> dict[str, float]:
    """`measured_facts`, or none where they cannot be taken: the run counts for more."""
    try:
        facts = measured_facts(trainable, clip, target)
    except Exception as error:
        tell("adapt", error)
        return {}
    return {name: value for name, value in facts.items() if math.isfinite(value)}


def keep(delta: Delta, out: Path, overwrite: bool, stop: Stop) -> Path:
    """Save the domain at `out` or, where that fails, at another place; returns where it lies.

    A person at a terminal is asked for places; else some that every system has are tried.

    Raises:
        PlaceError: it could be saved nowhere.
    """
    try:
        delta.save(out := out if overwrite else free_name(out))
        return out
    except OSError as error:
        tell(stop.command, error)
    asked = sys.stdin is not None and sys.stdin.isatty()
    for other in asked_places(out.name, stop) if asked else usual_places(out.name):
        try:
            check_place(other, DOMAIN, overwrite=False)
            delta.save(other)
        except (ValueError, OSError) as error:
            tell(stop.command, error)
        else:
            with suppress(OSError):
                print(f"The domain lies in {other} now.", file=sys.stderr)
            return other
    raise PlaceError("The domain was not saved, and the run is lost.")


def asked_places(name: str, stop: Stop) -> Iterator[Path]:
    """Places that a person gives, one after the other, until they give none."""
    while True:
        print(
            "The run is still in memory. Another file or folder to save it in (nothing: lose it)? ",
            end="",
            file=sys.stderr,
            flush=True,
        )
        with stop.at_once():
            answer = sys.stdin.readline().strip()
        if not answer:
            return
        other = Path(os.path.expanduser(answer))
        yield free_name(other / name) if other.is_dir() else other


def usual_places(name: str) -> Iterator[Path]:
    """A free name in the temporary folder, the home folder and the working directory."""
    for find in (tempfile.gettempdir, Path.home, Path.cwd):
        try:
            other = free_name(Path(find()).absolute() / name)
        except (OSError, RuntimeError):  # there is no such folder
            continue
        yield other


def as_dict(progress: Progress) -> dict:
    """A step for JSON: all but the pictures."""
    told = {f.name: getattr(progress, f.name) for f in fields(progress) if f.name != "preview"}
    return told | {"way": progress.way}


# sample, film, blend, domain, info


def add_sample(commands) -> None:
    """Options of `sample`."""
    parser = _command(commands, "sample", run_sample, "Draw pictures of seeds as one PNG grid.")
    _add_domain(parser, "strength")
    parser.add_argument("--seeds", type=_seeds, default=tuple(range(16)), help="(default: 0-15)")
    parser.add_argument("--psi", type=float, default=0.7, help="truncation (default: 0.7)")
    parser.add_argument("--columns", type=int, default=8, help="of the grid (default: 8)")
    parser.add_argument("--batch", type=int, default=8, help="pictures at once (default: 8)")
    _add_out(parser, "PNG of the grid to write (default: a new samples.png, or none with --folder)")
    parser.add_argument("--folder", type=Path, help="write each picture as SEED.png here; for any "
                        "number of them")  # fmt: skip


def run_sample(args: argparse.Namespace) -> int:
    """Draw and save batch by batch; the grid in the end."""
    check_bounds(args)
    out = place(args, "samples.png", (".png",)) if args.out or not args.folder else None
    if args.folder:
        files = [args.folder / f"{seed}.png" for seed in args.seeds]
        check_place(next(filter(os.path.lexists, files), files[0]), (), args.overwrite)
    generator, count = _blended(args), len(args.seeds)
    side, seeds = generator.size, iter(args.seeds)
    grid = Grid(count, min(args.columns, count), side, side) if out else None
    for pictures in sample_batches(generator, args.seeds, args.psi, args.batch):
        if grid:
            grid.add(pictures)
        if args.folder:
            for image, seed in zip(to_images(pictures), seeds):
                _save_png(image, args.folder / f"{seed}.png")
    if grid:
        _save_png(grid.image, out)
    saved = [str(path) for path in (args.folder, out) if path]
    told = {"out": out and str(out), "folder": args.folder and str(args.folder)}
    _say(args.json, f"Saved {' and '.join(saved)}.", {**told, "seeds": args.seeds})
    return 0


def _save_png(image: Image.Image, path: Path) -> None:
    with written_whole(path) as unfinished:
        image.save(unfinished, format="PNG")


def add_film(commands) -> None:
    """Options of `film`."""
    parser = _command(commands, "film", run_film, "Wander between seeds and strengths, as an mp4.")
    _add_domain(parser, "strength")
    parser.add_argument("--seeds", type=_seeds, default=(1, 2, 3), help="(default: 1-3)")
    parser.add_argument("--psi", type=float, default=0.7, help="truncation (default: 0.7)")
    parser.add_argument("--between", type=int, default=16, help="frames a way (default: 16)")
    parser.add_argument("--fps", type=int, default=FPS, help=f"frames a second (default: {FPS})")
    _add_out(parser, "mp4 to write (default: a new film.mp4)")


def run_film(args: argparse.Namespace) -> int:
    """Draw and encode frame by frame."""
    check_bounds(args)
    out, keys = place(args, "film.mp4", (".mp4",)), visits(args.seeds, 1.0)
    base = load_generator(args.generator, pick_device(args.device))
    write_mp4(frames(base, _recipe(args, base), keys, args.between, args.psi), out, args.fps)
    count = (len(keys) - 1) * args.between
    _say(args.json, f"Saved {out}.", {"out": str(out), "frames": count})
    return 0


def check_bounds(args: argparse.Namespace) -> None:
    """Raises ValueError for a number of `sample` or `film` that makes no sense."""
    for name, (low, high) in BOUNDS.items():
        if not low <= (value := getattr(args, name, low)) <= high:
            raise ValueError(f"--{name} is {value}; choose from {low} to {high}.")


def add_domain(commands) -> None:
    """Options of `domain`."""
    parser = _command(commands, "domain", run_domain, "Tell what a domain file says of itself.")
    parser.add_argument("file", type=Path)


def run_domain(args: argparse.Namespace) -> int:
    """Read, print."""
    delta, base = Delta.load(args.file), load_generator(args.generator)
    facts = describe(delta, fits(delta, base, fingerprint(base)), args.file.stat().st_size)
    parts = facts.get("blend")
    told = facts | {"blend": blend_line(parts)} if parts else facts
    lines = "\n".join(
        f"{name}: {_listed(value) if isinstance(value, dict) else value}"
        for name, value in told.items()
        if value is not None
    )
    _say(args.json, lines, facts)
    return 0


def add_info(commands) -> None:
    """Options of `info`."""
    summary = "Tell what a file is, or without one what would run here, and its limits."
    parser = _command(commands, "info", run_info, summary)
    parser.add_argument(
        "file", nargs="?", help="a generator, a domain or a CLIP model (or its folder)"
    )
    parser.add_argument(
        "--clip", default="auto", help="CLIP models joined by commas (default: auto)"
    )


def run_info(args: argparse.Namespace) -> int:
    """Load, print."""
    if args.file is None:
        facts = Service(Options(args.generator, args.clip, args.device)).info()
    else:
        folder = Path(args.file).expanduser()
        facts = file_facts(folder if folder.is_dir() else locate(args.file).path)
    _say(args.json, "\n".join(f"{name}: {_listed(value)}" for name, value in facts.items()), facts)
    return 0


def _listed(value: object) -> object:
    """A value as a line for people: the items of a list, the entries of a table."""
    if isinstance(value, dict):
        entries = (f"{name} {_listed(entry)}" for name, entry in value.items() if entry is not None)
        return ", ".join(entries) or "nothing"
    return "; ".join(map(plain, map(str, value))) or "nothing" if type(value) is list else value


def add_blend(commands) -> None:
    """Options of `blend`."""
    parser = _command(commands, "blend", run_blend, "Mix domain files of one generator into one.")
    _add_domain(parser, "weight")
    parser.add_argument("--whole", action="store_true", help="save a generator, not a domain file")
    _add_out(parser, "safetensors file to write", required=True)


def run_blend(args: argparse.Namespace) -> int:
    """Mix, save."""
    if not args.domain:
        raise ValueError("Nothing to blend: give --domain FILE WEIGHT once or more.")
    check_place(args.out, GENERATOR if args.whole else DOMAIN, args.overwrite)
    base = load_generator(args.generator, pick_device(args.device))
    recipe = _recipe(args, base)
    mixed = blend(base, recipe)
    facts = blend_facts(recipe)
    if args.whole:
        save_generator(mixed, args.out, {"blend": json.dumps(facts["blend"])})
    else:
        diff(base, mixed, facts).save(args.out)
    _say(args.json, f"Saved {args.out}.", {"out": str(args.out)})
    return 0


def _add_domain(parser: argparse.ArgumentParser, word: str) -> None:
    parser.add_argument(
        "--domain",
        nargs="+",
        action="append",
        metavar=("FILE", "NUMBER"),
        help=f"a domain file and its {word}: one number (default 1), or three for the coarse (4-8 "
        "pixels), middle (16-32) and fine layers (from 64), such as 1 0.5 0; may be repeated",
    )
    _add_carry_over(parser)


def _add_carry_over(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--carry-over",
        action="store_true",
        help="take domains of styles of another generator of the same family as well",
    )


def _domain(file: str | Path, base: Generator, args: argparse.Namespace) -> Delta:
    """A domain for `base`, carried over from another generator where that is asked for."""
    delta = Delta.load(file)
    if args.carry_over and (moved := carry_over(delta, base)) is not delta:
        delta = moved
        print(carried_note(delta), file=sys.stderr)
    return delta


def _recipe(args: argparse.Namespace, base: Generator) -> list[tuple[Delta, Weight]]:
    recipe: list[tuple[Delta, Weight]] = []
    for file, *numbers in args.domain or ():
        try:
            weights = [float(number) for number in numbers or ["1"]]
            weight = Strength(*weights) if len(weights) > 1 else weights[0]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"--domain {file} {' '.join(numbers)}: give one file and one number, such as 0.7, "
                "or three for coarse, middle and fine layers, such as 1 0.5 0."
            ) from error
        recipe.append((_domain(file, base, args), weight))
    return recipe


def _blended(args: argparse.Namespace) -> Generator:
    base = load_generator(args.generator, pick_device(args.device))
    return blend(base, _recipe(args, base))


def _say(as_json: bool, text: str, data: dict) -> None:
    print(json_line(data) if as_json else text)


def program() -> int:
    """`main` as a program of its own, which `python -m nada` and `nada` are."""
    warnings.formatwarning = lambda message, *_: f"nada: {message}\n"
    speak_utf8()
    keep_freed_memory()
    if sys.stdout is not None:
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may hold anything
    return main()


if __name__ == "__main__":
    sys.exit(program())
