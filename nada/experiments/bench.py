"""What a step and an image cost, against the formulation of the papers: `python -m nada bench`.

All variants run in one process, in turns, on the same weights: what disturbs one disturbs all, and
what counts is the ratio. The measure is `nada/experiments/reference.py`, the method written down
plainly; the same with a depthwise filter shows what one line gains. Peak memory needs a process
of its own for each variant. `--compare parameters` does the same for what trains: weights, style
offsets, or both.
"""

import argparse
import copy
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import op
from nada.adapt import AdaptConfig, Progress, adapt, trainable_copy
from nada.checkpoint import load_generator
from nada.clip import CLIP, Encoder, load_clip, load_clips, openai_clip
from nada.compute import uses_bf16
from nada.experiments import reference
from nada.experiments.bench_table import (
    SAMPLES,
    Measured,
    as_json,
    rows_of,
    show,
    show_parameters,
)
from nada.experiments.reference import Operations
from nada.generator import Generator, GeneratorConfig
from nada.guidance import DirectionalLoss, GlobalLoss
from nada.layers import PARAMETERS, SELECTION_OPTIONS, select_by_w_shift
from nada.machine import give_back_memory, in_use, peak_bytes, pick_device, restart_peak
from nada.presets import PRESETS, Preset, prepare, preset_for
from nada.sample import sample
from op.benchmark import seconds

BATCH = 2
STEPS_FOR_MEMORY = 2  # Adam's moments are there from the second on
TARGET = "sketch"
TRAINING_RESOLUTION = 256  # the least generator resolution above what OpenAI's CLIP models see
VIT_B_32 = (512, 224, 12, 768, 32, 77, 49408, 512, 8, 12)  # arguments of `clip.model.CLIP`


def steps_per_choice() -> int:
    """How often the usual settings choose layers: every so many steps."""
    config = PRESETS["ffhq"].config
    return config.select_every or config.steps


class BenchScene:
    """What all variants share: weights, texts, device.

    clip: "random" for ViT-B/32 with random weights, which cost as much as trained ones, or what
    `load_clip` takes. at_once: images that the reference draws together, 0 for all.
    """

    def __init__(self, size: int, clip: str, device: torch.device, at_once: int = 0):
        torch.manual_seed(0)
        self.device, self.at_once = device, at_once
        self.frozen = Generator(GeneratorConfig.standard(size)).eval().requires_grad_(False)
        self.frozen.to(device)
        self.clip = random_clip().to(device) if clip == "random" else load_clip(clip, device)
        self.direction = F.normalize(torch.randn(self._features, device=device), dim=0)

    @property
    def _features(self) -> int:
        return self.clip.encode_text([TARGET]).shape[1]


def scene_for(size: int, args: argparse.Namespace, device: torch.device) -> BenchScene:
    """What the command's options ask for."""
    return BenchScene(size, args.clip, device, args.reference_at_once)


def random_clip() -> CLIP:
    """ViT-B/32's architecture with random weights."""
    return CLIP(openai_clip().model.CLIP(*VIT_B_32), "random").eval().requires_grad_(False)


# Variants. Each is opened once and then gives its parts as calls without arguments: "choose" a
# step's choice of layers, "train" the rest of the step; or "whole" for both where they are one.

Parts = dict[str, Callable[[], object]]


def reference_parts(scene: BenchScene, operations: Operations) -> Parts:
    """The formulation of the papers, with one of its sets of operations.

    A whole batch takes 15 GB at 1024 pixels, and the choice of layers more: `BenchScene.at_once`
    has its images drawn in parts, which is the same work.
    """
    trainable = copy.deepcopy(scene.frozen)
    # Adam's rate is 0 so that random weights do not drift off; it costs the same
    optimizer = torch.optim.Adam(reference.train_everything(trainable), 0.0, (0.0, 0.99))
    one = (scene.frozen, trainable, scene.clip, scene.direction, TARGET, optimizer)
    z = torch.randn(reference.SELECT_BATCH, scene.frozen.z_dim, device=scene.device)
    batches = [len(part) for part in torch.empty(BATCH).split(scene.at_once or BATCH)]

    def choose() -> None:
        for part in z.split(scene.at_once or len(z)):
            reference.w_shifts(trainable, part, scene.clip, TARGET, operations)

    def train() -> None:
        for batch in batches:
            reference.step(*one, batch, operations, select=False)

    return {"choose": choose, "train": train}


def library_parts(scene: BenchScene, **settings) -> Parts:
    """The library: a run that chooses layers in every second step, so that calls take turns."""
    config = AdaptConfig(steps=100_000, batch=BATCH, lr=0.0, select_every=2, **settings)
    options = replace(SELECTION_OPTIONS, precision=config.precision, resolution=config.resolution)
    # as many as there are: their order costs, and then all train, as in the reference
    k = len(config.layers(scene.frozen))
    objective = GlobalLoss(scene.clip, TARGET)
    select = partial(select_by_w_shift, objective=objective, k=k, options=options)
    loss = DirectionalLoss(scene.clip, scene.direction)
    steps = adapt(scene.frozen, copy.deepcopy(scene.frozen), loss, config, select)
    return {"whole": partial(next, steps), "train": partial(next, steps)}


STEPS = {
    "reference": partial(reference_parts, operations=reference.PLAIN),
    "reference, depthwise filter": partial(reference_parts, operations=reference.DEPTHWISE),
    "reference, fused operations": partial(reference_parts, operations=reference.FUSED),
    "ours, fp32": library_parts,
    "ours, bf16": partial(library_parts, precision="bf16"),
    "ours, bf16, trained at 256": partial(
        library_parts, precision="bf16", resolution=TRAINING_RESOLUTION
    ),
    "ours, bf16, trained at 256, latents come round": partial(
        library_parts, precision="bf16", resolution=TRAINING_RESOLUTION, latent_pool=1
    ),
}


def variants_for(size: int, device: torch.device) -> list[str]:
    """The names of STEPS that make sense here: what trains at 256 pixels for larger generators, the
    original's kernels on a GPU, where the original has them."""
    names = [n for n in STEPS if "256" not in n or size > TRAINING_RESOLUTION]
    return [n for n in names if "fused" not in n or device.type == "cuda"]


def drawing(scene: BenchScene, precision: str | None) -> Callable[[], object]:
    """SAMPLES images by the library, or by the reference for a precision of None."""
    if precision:
        seeds = range(SAMPLES)
        return lambda: sample(scene.frozen, seeds, batch=SAMPLES, precision=precision)
    z = torch.randn(SAMPLES, scene.frozen.z_dim, device=scene.device)

    @torch.no_grad()
    def draw() -> Tensor:
        return reference.synthesis(scene.frozen, scene.frozen.mapping(z, 0.7))

    return draw


# What trains


@dataclass(frozen=True)
class TrainingScene:
    """What runs of weights, of styles and of both share."""

    frozen: Generator
    clips: Sequence[Encoder]
    preset: Preset


def training_scene(size: int, args: argparse.Namespace, device: torch.device) -> TrainingScene:
    """The bundled models and their preset at the bundled generator's size; at others random weights
    with FFHQ's preset, and the CLIP of the command's options."""
    frozen = load_generator("demo", device)
    if size == frozen.size:
        _, preset, clip = preset_for("demo", frozen)
        clips: Sequence[Encoder] = load_clips(clip, device)
    else:
        scene = scene_for(size, args, device)
        frozen, clips, preset = scene.frozen, [scene.clip], preset_for("ffhq", scene.frozen).preset
    return TrainingScene(frozen, clips, preset if args.k is None else preset.with_({"k": args.k}))


def run_of(scene: TrainingScene, parameters: str) -> Iterator[Progress]:
    """A run of one of PARAMETERS with the preset's settings; its first step chooses the layers. The
    rates are 0, so that random weights do not drift off."""
    still = {"steps": 100_000, "lr": 0.0, "final_lr": None, "style_lr": 0.0, "preview_every": 0}
    config = replace(scene.preset.config, parameters=parameters, **still)
    loss, select = prepare(scene.clips, TARGET, replace(scene.preset, config=config))
    trainable = trainable_copy(scene.frozen, config)
    return adapt(scene.frozen, trainable, loss, config, select)


def measure_parameters(size: int, args: argparse.Namespace) -> dict:
    """Steps of each of PARAMETERS at one size, in turns, and what each takes of memory."""
    device = pick_device(args.device)
    memory = {} if args.no_memory else {n: peak_memory(size, n, args) for n in PARAMETERS}
    scene = training_scene(size, args, device)
    runs = {name: run_of(scene, name) for name in PARAMETERS}
    layers = {name: len(next(run).layers) for name, run in runs.items()}
    with _full_precision(device):
        times = in_turns({n: partial(next, run) for n, run in runs.items()}, args.rounds, device)
    config = scene.preset.config
    return {
        "size": size,
        "resolution": config.synthesis_options(scene.frozen).resolution,
        "batch": config.batch,
        "rounds": args.rounds,
        "precision": "bf16" if uses_bf16(config.precision, device) else "fp32",
        **surroundings(device),
        "rows": {
            name: {"layers": layers[name], "seconds": m.seconds, "gb": memory.get(name)}
            for name, m in times.items()
        },
    }


# Measuring


def in_turns(
    calls: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, Measured]:
    """Each call in turn, over and over, after a first time that counts operations and warms up; a
    single round is that first time itself."""
    flops, times = {}, {name: [] for name in calls}
    for i in range(rounds + (rounds > 1)):
        for name, call in calls.items():
            with FlopCounterMode(display=False) if i == 0 else nullcontext() as counter:
                times[name].append(seconds(call, device))
            if counter:
                flops[name] = counter.get_total_flops()
            _say(f"{'first time' if i == 0 else f'round {i}'}: {name}: {times[name][-1]:.2f} s")
    return {name: Measured(times[name][-rounds:], flops[name]) for name in calls}


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest convolution found: the roof in practice."""
    rates = []
    for channels, side in ((512, 32), (256, 64), (128, 128)):
        x = torch.randn(BATCH, channels, side, side, device=device, dtype=dtype)
        weight = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
        call = partial(F.conv2d, x, weight, padding=1)
        times = [seconds(call, device) for _ in range(12)]
        rates.append(2 * 9 * x.numel() * channels / min(times))
    return max(rates)


def peak_memory(size: int, name: str, args: argparse.Namespace) -> float:
    """GB that a process needs for a whole step (choice and training) of a variant and nothing else,
    or for a run beside the models: resident memory on a CPU, allocated tensors on a GPU."""
    words = ["--sizes", str(size), "--clip", args.clip, "--device", args.device, "--only", name]
    words += ["--reference-at-once", str(args.reference_at_once)]
    words += [] if args.k is None else ["--k", str(args.k)]
    command = [sys.executable, "-m", "nada", "bench", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"The process for {name} ended early: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])["peak_gb"]


def run_only(size: int, name: str, args: argparse.Namespace) -> dict:
    """One whole step of a variant, and what it took at most; or the first steps of a run, and what
    they took beside the models."""
    device = pick_device(args.device)
    if name in PARAMETERS:
        return {"size": size, "name": name, "peak_gb": _peak_of_run(size, name, args, device) / 1e9}
    for call in STEPS[name](scene_for(size, args, device)).values():
        call()
    return {"size": size, "name": name, "peak_gb": _peak(device) / 1e9}


def _peak_of_run(size: int, parameters: str, args: argparse.Namespace, device: torch.device) -> int:
    scene = training_scene(size, args, device)
    sample(scene.frozen, [0])  # libraries load what they need
    give_back_memory()  # else the run takes what the sample has freed, and seems to need less
    restart_peak()
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else peak_bytes()
    for _ in islice(run_of(scene, parameters), STEPS_FOR_MEMORY):
        pass
    return _peak(device) - before


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()


def surroundings(device: torch.device) -> dict:
    """What the numbers depend on."""
    return {
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "operations": op.describe(device)["runs"],
        "allocator": in_use(),
        "bf16": uses_bf16("auto", device),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure_size(size: int, args: argparse.Namespace) -> dict:
    """All figures of one size."""
    device = pick_device(args.device)
    scene = scene_for(size, args, device)
    names = variants_for(size, device)
    memory = {} if args.no_memory else {name: peak_memory(size, name, args) for name in names}
    peaks = {
        "fp32": peak_flops(device, torch.float32),
        "bf16": peak_flops(device, torch.bfloat16),
    }
    opened = {name: STEPS[name](scene) for name in names}
    flat = {f"{name}: {part}": call for name in names for part, call in opened[name].items()}
    with _full_precision(device):
        times = in_turns(flat, args.rounds, device)
        ways = {"reference": None, "ours, fp32": "fp32", "ours, bf16": "bf16"}
        drawn = in_turns({n: drawing(scene, p) for n, p in ways.items()}, args.rounds, device)
    measured = {name: {part: times[f"{name}: {part}"] for part in opened[name]} for name in names}
    return {
        "size": size,
        "batch": BATCH,
        "rounds": args.rounds,
        "reference_at_once": args.reference_at_once,
        **surroundings(device),
        "peak_tflops": {name: rate / 1e12 for name, rate in peaks.items()},
        "rows": rows_of(
            measured, memory, peaks, steps_per_choice(), op.describe(device)["runs"] != "reference"
        ),
        "parts": {n: {p: m.median for p, m in parts.items()} for n, parts in measured.items()},
        "sampling": drawn,
    }


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """No TF32 behind the back of what is called fp32; cuDNN may choose its algorithms."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = False, True
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


# The command

# How to measure a size, and to show that as JSON and as Markdown.
COMPARISONS = {
    "formulations": (measure_size, as_json, show),
    "parameters": (measure_parameters, dict, show_parameters),
}


def add_bench(commands, command) -> None:
    """Options of `bench`; `command` makes a parser with the options that all commands share."""
    parser = command(commands, "bench", run_bench, "Time a step against the papers' formulation.")
    parser.add_argument("--sizes", type=int, nargs="+", default=[256], help="(default: 256)")
    parser.add_argument("--rounds", type=int, default=3, help="of all variants (default: 3)")
    parser.add_argument("--clip", default="random", help="random (ViT-B/32), or as for adapt")
    parser.add_argument(
        "--reference-at-once",
        type=int,
        default=0,
        metavar="N",
        help="pictures that the reference draws together, where all do not fit (default: 0, all)",
    )
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak of memory")
    parser.add_argument(
        "--compare",
        choices=COMPARISONS,
        default="formulations",
        help="with the papers' formulation, or what trains: weights, styles, both (default: "
        "formulations)",
    )
    layers = "layers that train, of --compare parameters; 0 for all (default: the preset's)"
    parser.add_argument("--k", type=int, help=layers)
    one = "one step of one variant, for its memory"
    parser.add_argument("--only", choices=(*STEPS, *PARAMETERS), help=one)


def run_bench(args: argparse.Namespace) -> int:
    """Measure, print."""
    if args.rounds < 1 or args.reference_at_once < 0:
        raise ValueError("Give --rounds of 1 or more, and --reference-at-once of 0 or more.")
    for size in args.sizes:
        if args.only:
            print(json.dumps(run_only(size, args.only, args)))
            continue
        measure, as_dict, as_text = COMPARISONS[args.compare]
        result = measure(size, args)
        print(json.dumps(as_dict(result)) if args.json else as_text(result), flush=True)
    return 0
