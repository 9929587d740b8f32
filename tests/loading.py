"""How long a generator takes to load and what it takes of memory: `python -m tests.loading`.

Makes a generator of FFHQ's shapes (1024 pixels, random weights) in every layout, loads each in a
process of its own, and prints a table. `python -m tests.loading FILE` measures one file.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from nada.checkpoint import load_generator, save_generator
from nada.generator import Generator, GeneratorConfig
from tests.basicsr_files import basicsr_state
from tests.nvidia_files import nvidia_generator, snapshot
from tests.tensorflow_files import Shape, dumped, networks, variables

ROOT = Path(__file__).resolve().parent.parent
LAYOUTS = {
    "PyTorch, zip": "zip.pt",
    "PyTorch, older": "older.pt",
    "safetensors": "g.safetensors",
    "module pickled whole": "module.pt",
    "NVIDIA pickle": "nvidia.pkl",
    "NVIDIA's names, plain": "nvidia.pt",
    "basicsr's names, no mean": "basicsr.pth",
    "TensorFlow pickle": "tensorflow.pkl",
    "training file": "training.pt",
}


def ffhq_shaped(size: int = 1024) -> Generator:
    """A generator of the published shapes with random weights."""
    torch.manual_seed(0)
    return Generator(GeneratorConfig.standard(size)).eval().requires_grad_(False)


def write(generator: Generator, path: Path) -> None:
    """The generator in the layout that the file's name stands for."""
    whole = {"g_ema": generator.state_dict(), "latent_avg": generator.mean_latent}
    if path.name == "older.pt":
        torch.save(whole, path, _use_new_zipfile_serialization=False)
    elif path.name == "module.pt":
        torch.save({"g_ema": generator}, path)
    elif path.name == "nvidia.pt":
        torch.save({"G_ema": nvidia_generator(generator).state_dict()}, path)
    elif path.name == "basicsr.pth":
        torch.save({"params_ema": basicsr_state(generator)}, path)
    elif path.name == "nvidia.pkl":
        path.write_bytes(snapshot(nvidia_generator(generator)))
    elif path.name == "tensorflow.pkl":  # of other weights: the same shapes, three networks
        config = generator.config
        shape = Shape(config.channels, config.w_dim, config.z_dim, config.mapping_layers)
        path.write_bytes(dumped(networks(shape, variables(shape)), "frame"))
    elif path.name == "training.pt":  # as training leaves it: two generators, the optimiser's sums
        rest = {key: {k: v + 1 for k, v in whole["g_ema"].items()} for key in ("g", "sums")}
        torch.save({**rest, **whole}, path)
    else:
        save_generator(generator, path, dtype=torch.float32)


def measured(path: str | Path) -> dict:
    """Seconds, and the peak of memory over the weights' bytes, of loading in this process."""
    load_generator("demo")  # everything is imported
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    start = time.monotonic()
    generator = load_generator(path)
    seconds = time.monotonic() - start
    weights = sum(t.nbytes for t in generator.state_dict().values())
    peak = (_kilobytes("VmHWM") - before) * 1024
    return {"seconds": seconds, "peak": peak, "weights": weights, "ratio": peak / weights}


def _kilobytes(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0])


def measured_apart(path: Path) -> dict:
    """`measured` in a new process."""
    run = [sys.executable, "-m", "tests.loading", str(path)]
    out = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1])))
        return
    generator = ffhq_shaped()
    print(
        "| FFHQ 1024 as | file | seconds | peak memory | over the weights |\n|---|---|---|---|---|"
    )
    for title, name in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            write(generator, path)
            runs = [measured_apart(path) for _ in range(3)]
            best = min(run["seconds"] for run in runs)
            peak, ratio = (max(run[key] for run in runs) for key in ("peak", "ratio"))
            print(
                f"| {title} | {path.stat().st_size / 1e6:.0f} MB | {best:.1f} | "
                f"{peak / 1e6:.0f} MB | {ratio:.2f} × |"
            )


if __name__ == "__main__":
    main()
