"""The reference formulation has the library's mathematics; the benchmark adds up what it times."""

import argparse
import copy
import json
from itertools import islice
from statistics import median
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from nada.__main__ import main
from nada.compute import convolutions_in
from nada.experiments import bench, bench_table, reference
from nada.generator import GeneratorConfig
from nada.guidance import DirectionalLoss, GlobalLoss
from nada.layers import w_shifts
from tests.helpers import TINY, relative_error, tiny_generator

WIDER = GeneratorConfig(64, 32, 32, 2, (48, 48, 32, 24, 16))
OPERATIONS = ("PLAIN", "DEPTHWISE", "FUSED")


@pytest.fixture(scope="module")
def double():
    return tiny_generator(WIDER).double()


# The same mathematics


@pytest.mark.parametrize("operations", OPERATIONS)
def test_pictures_of_the_reference_formulation_are_the_librarys(double, operations):
    ws = double.mapping(torch.randn(2, 32).double()).clone()
    ws[:, 3] += 0.1  # rows that differ
    noise = [n.double() for n in double.make_noise(2, torch.Generator().manual_seed(1))]
    expected = reference.synthesis(double, ws, noise, getattr(reference, operations))
    torch.testing.assert_close(double.synthesis(ws, noise), expected, rtol=1e-9, atol=1e-9)


class PlainCLIP(torch.nn.Module):
    """A CLIP of a few lines that works in any numbers: OpenAI's holds float32 within."""

    name, resolution = "plain", 16

    def __init__(self):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randn(24, 3 * 16 * 16, generator=rng))
        self.register_buffer("text", F.normalize(torch.randn(1, 24, generator=rng)))

    def encode_image(self, images):
        pixels = F.adaptive_avg_pool2d(images, 16).flatten(1)
        return F.normalize((pixels @ self.weight.T).tanh(), dim=1)

    def encode_text(self, prompts):
        return self.text.expand(len(prompts), -1)

    def check_prompt(self, prompt):
        pass


def test_w_shifts_of_the_reference_formulation_are_the_librarys():
    generator, clip = tiny_generator().double(), PlainCLIP().double()
    z = torch.randn(4, 16).double()
    expected = reference.w_shifts(generator, z, clip, "sketch")
    got = w_shifts(generator, z, GlobalLoss(clip, "sketch").double())
    assert got == pytest.approx(expected.tolist(), rel=1e-5)


def gradients(generator, pictures_of, loss, source) -> torch.Tensor:
    """All gradients of the styled convolutions for a loss, in one vector."""
    generator = copy.deepcopy(generator)
    trained = reference.train_everything(generator)
    loss(source, pictures_of(generator)).backward()
    return torch.cat([p.grad.flatten().double() for p in trained])


def errors_of_gradients(generator) -> dict[str, float]:
    """Distances from the reference's gradients in float64, relative to their length."""
    z, direction = torch.randn(2, generator.z_dim), F.normalize(torch.randn(24), dim=0)

    def run(numbers, library: bool, precision="fp32"):
        twin, clip = copy.deepcopy(generator).to(numbers), PlainCLIP().to(numbers)
        loss = DirectionalLoss(clip, direction).to(numbers)
        ws = twin.mapping(z.to(numbers))
        source = torch.zeros(2, 3, twin.size, twin.size, dtype=numbers)

        def pictures_of(g):
            if not library:
                return reference.synthesis(g, ws)
            with convolutions_in(precision, ws.device):
                return g.synthesis(ws)

        return gradients(twin, pictures_of, loss, source)

    exact = run(torch.float64, False)
    return {
        "reference": relative_error(run(torch.float32, False), exact),
        "fp32": relative_error(run(torch.float32, True), exact),
        "bf16": relative_error(run(torch.float32, True, "bf16"), exact),
    }


@pytest.mark.slow
def test_gradients_are_as_near_to_float64_as_the_references():
    """Twice the reference's own distance. Kinks of the leaky ReLU make single distances jump, those
    of bfloat16 from 0.1 to 4 by latents and processor, so all are medians over seven draws."""
    draws = [errors_of_gradients(tiny_generator(WIDER)) for _ in range(7)]
    errors = {name: median(draw[name] for draw in draws) for name in draws[0]}
    assert errors["fp32"] < 2 * errors["reference"] < 1e-2
    assert errors["fp32"] < errors["bf16"] < 0.6


def test_a_reference_step_moves_the_convolutions_and_nothing_else(clip_tiny):
    frozen = tiny_generator()
    trainable = copy.deepcopy(frozen)
    optimizer = torch.optim.Adam(reference.train_everything(trainable), 0.01, (0.0, 0.99))
    direction = F.normalize(torch.ones(16), dim=0)
    reference.step(frozen, trainable, clip_tiny, direction, "sketch", optimizer)
    before, after = frozen.state_dict(), trainable.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("conv") for name in moved)
    assert len(moved) == 5 * len(frozen.conv_names)


# Adding up


def measured(**parts) -> dict[str, bench_table.Measured]:
    return {name: bench_table.Measured(times, flops) for name, (times, flops) in parts.items()}


def test_rows_add_up_choice_and_training():
    table = bench_table.rows_of(
        {
            "reference": measured(choose=([30.0, 33.0, 30.0], 300), train=([10.0, 11.0, 10.0], 80)),
            "ours, bf16": measured(whole=([6.0, 6.0, 5.0], 200), train=([2.0, 2.0, 2.0], 60)),
        },
        {"reference": 9.0},
        {"fp32": 100.0, "bf16": 400.0},
        every=8,
        compiled=True,
    )
    first, often, rarely = table
    assert (first.ratio, first.least, first.most) == (1, 1, 1)
    assert first.seconds == 40 and first.share is None and first.gb == 9
    assert often.seconds == 6 and often.ratio == pytest.approx(40 / 6) and often.every == 1
    assert often.least == pytest.approx(40 / 6) and often.most == pytest.approx(40 / 5)
    assert rarely.seconds == 2.5 and rarely.ratio == 16 and rarely.every == 8
    assert rarely.share == pytest.approx((60 + 140 / 8) / 2.5 / 400) and rarely.gb is None
    lines = bench_table.table(table).splitlines()
    assert "| reference | every step | 40 | 1.0 | 1.0 to 1.0 |  | 9.0 |" in lines
    assert lines[-1].startswith("| ours, bf16 | every 8 steps | 2.5 | 16.0 |")


def test_variants_take_turns_and_are_counted():
    calls, weight = [], torch.randn(4, 4)

    def call(name):
        def run():
            calls.append(name)
            return weight @ weight

        return run

    times = bench.in_turns({"a": call("a"), "b": call("b")}, 2, torch.device("cpu"))
    assert calls == ["a", "b"] * 3
    assert len(times["a"].seconds) == 2 and times["a"].flops == 2 * 4**3


@pytest.mark.parametrize("at_once, drawn", [(0, [8, 2]), (3, [3, 3, 2, 2]), (1, [1] * 10)])
def test_the_reference_in_parts_draws_every_picture(small, monkeypatch, at_once, drawn):
    """The same work, whatever memory there is: 8 latents to choose with, 2 pictures to train."""
    scene, sizes = bench.BenchScene(16, "random", torch.device("cpu"), at_once), []
    synthesis = reference.synthesis

    def watch(generator, ws, *rest, **options):
        sizes.extend([len(ws)] if generator is not scene.frozen else [])
        return synthesis(generator, ws, *rest, **options)

    monkeypatch.setattr(reference, "synthesis", watch)
    for call in bench.reference_parts(scene, reference.PLAIN).values():
        call()
    assert sizes == drawn


@pytest.fixture
def small(monkeypatch, clip_tiny):
    """A benchmark of moments: a tiny generator and CLIP, whatever the size."""
    monkeypatch.setattr(bench, "GeneratorConfig", SimpleNamespace(standard=lambda size: TINY))
    monkeypatch.setattr(bench, "random_clip", lambda: clip_tiny)
    monkeypatch.setattr(bench, "peak_flops", lambda device, dtype: 1e12)


def test_the_command_measures_every_variant(small, capsys):
    assert main(["bench", "--sizes", "16", "--rounds", "1", "--no-memory", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    often = {row["name"]: row for row in result["rows"] if row["every"] == 1}
    assert {"reference", "reference, depthwise filter", "ours, fp32", "ours, bf16"} <= set(often)
    assert often["reference"]["ratio"] == 1
    assert all(row["seconds"] > 0 for row in result["rows"])
    assert result["threads"] == torch.get_num_threads()
    assert set(result["sampling"]) == {"reference", "ours, fp32", "ours, bf16"}


def test_the_command_prints_tables(small, capsys):
    assert main(["bench", "--sizes", "16", "--rounds", "1", "--no-memory"]) == 0
    out = capsys.readouterr().out
    assert "| ours, fp32 | every step |" in out and "| pictures by | s per picture |" in out
    assert f"| ours, fp32 | every {bench.steps_per_choice()} steps |" in out


def test_the_cheap_variants_of_large_generators_run(small, monkeypatch):
    monkeypatch.setattr(bench, "TRAINING_RESOLUTION", 8)
    scene = bench.BenchScene(16, "random", torch.device("cpu"))
    for settings in ({"resolution": 8}, {"resolution": 8, "latent_pool": 1}):
        for call in bench.library_parts(scene, **settings).values():
            assert call().loss == pytest.approx(1)  # a rate of 0 leaves the twins as they are


def test_the_memory_of_one_variant_is_its_own_process(small, capsys):
    args = argparse.Namespace(clip="random", device="cpu", reference_at_once=0)
    told = bench.run_only(16, "ours, fp32", args)
    assert told["name"] == "ours, fp32" and 0.1 < told["peak_gb"] < 100


def test_what_trains_is_compared_in_one_run(small, capsys):
    command = ["bench", "--compare", "parameters", "--sizes", "16", "--rounds", "2", "--k", "3"]
    assert main([*command, "--no-memory", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["rows"]) == ["weights", "styles", "both"] and result["batch"] == 2
    for row in result["rows"].values():
        assert row["layers"] == 3 and len(row["seconds"]) == 2 and min(row["seconds"]) > 0


def test_a_run_that_is_timed_leaves_the_twins_alike(small):
    args = argparse.Namespace(clip="random", k=3, reference_at_once=0)
    scene = bench.training_scene(16, args, torch.device("cpu"))
    losses = {name: [next(bench.run_of(scene, name)).loss] for name in ("weights", "styles")}
    assert losses["weights"] == losses["styles"]
    again = list(islice(bench.run_of(scene, "styles"), 3))
    assert all(progress.loss == pytest.approx(1) for progress in again)


def test_the_memory_of_a_run_is_told_beside_its_models(small):
    args = argparse.Namespace(clip="random", device="cpu", reference_at_once=0, k=None)
    told = bench.run_only(16, "styles", args)
    assert told["name"] == "styles" and 0 <= told["peak_gb"] < 1


def test_the_table_of_what_trains_takes_weights_as_the_measure():
    rows = {
        "weights": {"layers": 4, "seconds": [3.0, 4.0, 3.2], "gb": 0.2},
        "styles": {"layers": 4, "seconds": [2.0, 2.0, 1.0], "gb": 0.1},
        "both": {"layers": 4, "seconds": [4.0, 4.0, 4.0], "gb": None},
    }
    names = ("processor", "threads", "torch", "operations", "allocator", "precision")
    known = {name: "x" for name in names} | {"size": 8, "resolution": 8, "batch": 2, "rounds": 3}
    lines = bench_table.show_parameters({"rows": rows, **known}).splitlines()
    assert "| weights | 4 | 3.2 | 1.00 | 1.00 to 1.00 | 200 | 1.00 |" in lines
    assert "| styles | 4 | 2 | 1.60 | 1.50 to 3.20 | 100 | 0.50 |" in lines
    assert "| both | 4 | 4 | 0.80 | 0.75 to 1.00 |  |  |" in lines


def test_bad_numbers_get_a_sentence(capsys):
    assert main(["bench", "--rounds", "0"]) == 2
    assert "Give --rounds of 1 or more" in capsys.readouterr().err
