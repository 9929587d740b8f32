"""Times of the operations: each backend against the reference, alternating in one process.

On a GPU also against the bytes that an operation must move at the least, at the bandwidth that a
plain copy reaches there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from op.backends import use_backend
from op.build import BACKENDS, library_path
from op.functions import styled_leaky_relu, upfirdn2d

SIZES = (64, 128, 256, 512, 1024)
CHANNELS = {64: 64, 128: 32, 256: 64, 512: 32, 1024: 16}  # up to what a CPU's patience allows
GPU_CHANNELS = {64: 512, 128: 256, 256: 128, 512: 64, 1024: 32}  # the published generators'
BATCH = 2
WARM_UP = 2


@dataclass(frozen=True)
class TimedOperation:
    """An operation at a size: `run` from `x` to its result; `passes` over x and result at least."""

    name: str
    x: Tensor
    run: Callable[[Tensor], Tensor]


def cases(size: int, channels: int, device: str, dtype: torch.dtype) -> list[TimedOperation]:
    """The operations as a generator's layers at `size` pixels use them."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=device)
    kernel = taps.outer(taps) / 16

    def images(side: int, width: int) -> Tensor:
        return torch.randn(BATCH, width, side, side, device=device, dtype=dtype)

    bias = torch.randn(channels, device=device, requires_grad=True)
    demodulation = torch.rand(BATCH, channels, device=device, requires_grad=True)
    noise = torch.randn(1, 1, size, size, device=device)
    strength = torch.ones(1, device=device, requires_grad=True)
    return [
        TimedOperation(
            "blur", images(size + 1, channels), lambda x: upfirdn2d(x, kernel, pad=(1, 1))
        ),
        TimedOperation(
            "upsample", images(size // 2, 3), lambda x: upfirdn2d(x, kernel, up=2, pad=(2, 1))
        ),
        TimedOperation(
            "activation",
            images(size, channels),
            lambda x: styled_leaky_relu(x, bias, demodulation, noise, strength),
        ),
    ]


def seconds(run: Callable[[], object], device: str | torch.device) -> float:
    """Time of one call, with whatever it started on the device.

    Where a single thread computes, its own time counts: what other programs take does not.
    """
    kind = torch.device(device).type

    def finish() -> None:
        if kind == "cuda":
            torch.cuda.synchronize(device)

    single = kind == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if single else time.perf_counter
    finish()
    start = clock()
    run()
    finish()
    return clock() - start


def forward(case: TimedOperation) -> Callable[[], object]:
    x = case.x.detach()

    def run() -> Tensor:
        with torch.no_grad():
            return case.run(x)

    return run


def backward(case: TimedOperation) -> Callable[[], object]:
    """The backward pass alone, of a graph that stays."""
    x = case.x.detach().requires_grad_()
    out = case.run(x)
    grad = torch.randn_like(out)
    return lambda: torch.autograd.backward(out, grad, retain_graph=True, inputs=[x])


def compare(
    case: TimedOperation,
    make: Callable[[TimedOperation], Callable],
    backend: str,
    device: str,
    rounds: int,
) -> tuple[float, float]:
    """Median seconds of the reference and of `backend`, alternating."""
    runs = {}
    for name in ("reference", backend):
        with use_backend(name):
            runs[name] = make(case)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(WARM_UP + rounds):
        for name, run in runs.items():
            with use_backend(name):
                times[name].append(seconds(run, device))
    return median(times["reference"][WARM_UP:]), median(times[backend][WARM_UP:])


def bandwidth(device: str) -> float:
    """Bytes per second that a copy of half a GB moves on a device, reading and writing."""
    source = torch.empty(2**27, device=device)
    target = torch.empty_like(source)
    runs = [seconds(lambda: target.copy_(source), device) for _ in range(20)]
    return 2 * source.numel() * 4 / median(runs[5:])


def least_bytes(case: TimedOperation, make: Callable) -> int:
    """What must be read and written at the least: x and the result, and for the activation's
    backward pass the gradient beside them."""
    with torch.no_grad():
        moved = case.x.numel() + case.run(case.x).numel()
    if case.name == "activation" and make is backward:
        moved += case.x.numel()
    return moved * case.x.element_size()


def print_tables(sizes: tuple[int, ...] = SIZES, rounds: int = 9) -> None:
    """A table in Markdown for each compiled backend that is built."""
    built = [backend for backend in BACKENDS.values() if library_path(backend) is not None]
    if not built:
        print("No compiled backend is built, so there is nothing to compare; `python -m op build`.")
    for backend in built:
        device = backend.device_type
        if device == "cpu" or torch.cuda.is_available():
            _print_table(backend.name, device, sizes, rounds)


def _print_table(backend: str, device: str, sizes: tuple[int, ...], rounds: int) -> None:
    peak = bandwidth(device) if device == "cuda" else None
    where = torch.cuda.get_device_name() if peak else f"threads: {torch.get_num_threads()}"
    note = f", {peak / 1e9:.0f} GB/s in a copy" if peak else ""
    print(f"\n{backend} against the reference, batch {BATCH}, {where}{note}\n")
    print("| operation | type | C×H×W | pass | reference, ms | ms | times faster |", end="")
    print(" of bandwidth |" if peak else "")
    print("|---|---|---|---|---|---|---|" + ("---|" if peak else ""))
    widths = GPU_CHANNELS if peak else CHANNELS
    types = (torch.float32, torch.float16, torch.bfloat16)
    for dtype in [dtype for dtype in types if dtype in BACKENDS[backend].dtypes]:
        for size in sizes:
            for case in cases(size, widths[size], device, dtype):
                for make in (forward, backward):
                    _print_row(case, make, backend, device, rounds, peak)


def _print_row(
    case: TimedOperation, make: Callable, backend: str, device: str, rounds: int, peak: float | None
) -> None:
    before, after = compare(case, make, backend, device, rounds)
    shape = "×".join(map(str, case.x.shape[1:]))
    name, dtype = case.name, str(case.x.dtype).removeprefix("torch.")
    row = f"| {name} | {dtype} | {shape} | {make.__name__} | {before * 1e3:.3f} | {after * 1e3:.3f}"
    row += f" | {before / after:.2f} |"
    print(row + (f" {least_bytes(case, make) / after / peak:.0%} |" if peak else ""), flush=True)
