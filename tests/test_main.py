"""The command line as its users call it, with tiny models."""

import contextlib
import copy
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from itertools import combinations
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

import nada.memory
from nada.__main__ import build_parser, chosen, main, stop_on_signals
from nada.checkpoint import fingerprint, load_generator
from nada.delta import Delta, Strength, blend, diff
from nada.facts import file_name
from nada.presets import PRESETS
from nada.sample import image_grid, sample, to_images
from tests.helpers import equal
from tests.served import tiny_models


@pytest.fixture(scope="module")
def models(tmp_path_factory, clip_tiny) -> tuple[str, ...]:
    """Options that name a tiny generator and a tiny CLIP on disk."""
    return tiny_models(tmp_path_factory.mktemp("models"), clip_tiny)


@pytest.fixture
def domain(models, tmp_path) -> Path:
    """A domain file of the tiny generator."""
    base = load_generator(models[1])
    adapted = copy.deepcopy(base)
    adapted.convs[1].conv.weight += 0.5
    diff(base, adapted, {"target": "sketch"}).save(tmp_path / "domain.safetensors")
    return tmp_path / "domain.safetensors"


FAST = ("--preset", "demo", "--steps", "3", "--batch", "2", "--select-batch", "2")


def parse(*arguments: str):
    return build_parser().parse_args(["adapt", "--target", "sketch", *arguments])


def test_adapt_needs_no_source(models, tmp_path):
    found = []
    for source in (["--source", ""], []):
        out = tmp_path / f"{len(source)}.safetensors"
        arguments = ["adapt", *models, *FAST, "--target", "sketch", *source, "--out", str(out)]
        assert main(arguments) == 0
        found.append(Delta.load(out))
    assert [delta.metadata["source"] for delta in found] == ["", "photo"]
    assert not equal(found[0].tensors, found[1].tensors)


def test_adapt_writes_a_domain_that_the_base_takes(models, tmp_path, capsys):
    out = tmp_path / "new" / "sketch.safetensors"
    arguments = ["adapt", *models, *FAST, "--target", "sketch", "--k", "2", "--out", str(out)]
    assert main(arguments) == 0
    assert f"Saved {out}." in capsys.readouterr().out
    delta, base = Delta.load(out), load_generator(models[1])
    assert {key.rsplit(".", 2)[0].removesuffix(".conv") for key in delta.tensors} == {
        name for name in delta.metadata["layers"]
    }
    beside = {name for name in delta.metadata["layers"] if name.startswith("to_rgb")}
    assert len({*delta.metadata["layers"]} - beside) == delta.metadata["k"] == 2
    assert len(beside) == 3 and delta.kind == "styles"
    assert delta.metadata["target"] == "sketch" and delta.metadata["source"] == "photo"
    assert delta.metadata["steps_done"] == 3 and delta.metadata["config"]["batch"] == 2
    assert not torch.equal(sample(blend(base, [(delta, 1.0)]), [0]), sample(base, [0]))


def test_pictures_are_a_target_alone_or_beside_words(models, tmp_path, capsys):
    files = [tmp_path / f"{name}.png" for name in ("red", "crimson")]
    for file in files:
        Image.new("RGB", (40, 30), file.stem).save(file)
    tensors = {}
    for name, given in {
        "alone": ["--picture", *files],
        "beside": ["--picture", *files, "--target", "sketch"],
        "lightly": ["--picture", *files, "--target", "sketch", "--picture-weight", "0.1"],
        "words": ["--target", "sketch"],
    }.items():
        out = tmp_path / f"{name}.safetensors"
        assert main(["adapt", *models, *FAST, *map(str, given), "--out", str(out)]) == 0
        delta = Delta.load(out)
        tensors[name] = delta.tensors
        assert delta.metadata.get("pictures", {}).get("count", 0) == (0 if name == "words" else 2)
    assert not any(equal(tensors[one], tensors[two]) for one, two in combinations(tensors, 2))
    main(["domain", str(tmp_path / "alone.safetensors")])
    assert "title: 2 pictures" in capsys.readouterr().out


def test_a_bad_picture_is_told_before_anything_is_loaded(tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    given = ["adapt", "--generator", "nowhere.pt", "--picture", str(tmp_path / "bad.png")]
    assert main(given) != 0
    assert "“bad.png” is no picture" in capsys.readouterr().err
    assert main(["adapt"]) != 0
    assert "give --target TEXT, --picture FILE, or both" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_domain(models, tmp_path, capsys):
    tensors = []
    for number, seed in enumerate("778"):
        out = tmp_path / f"{number}.safetensors"
        options = ["--target", "sketch", "--seed", seed, "--out", str(out)]
        assert main(["adapt", *models, *FAST, *options]) == 0
        tensors.append(Delta.load(out).tensors)
    assert equal(tensors[0], tensors[1]) and not equal(tensors[0], tensors[2])


def test_json_is_one_object_a_line(models, tmp_path, capsys):
    out = tmp_path / "d.safetensors"
    assert main(["adapt", *models, *FAST, "--target", "sketch", "--json", "--out", str(out)]) == 0
    *steps, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert [step["step"] for step in steps] == [1, 2, 3]
    assert steps[0].keys() >= {"steps", "loss", "terms", "way", "layers", "seconds", "eta"}
    assert last == {"out": str(out), "steps_done": 3}


def test_words_that_clip_never_saw_are_named(models, tmp_path, capsys):
    options = ["--target", "zebra sketch", "--out", str(tmp_path / "d.safetensors")]
    assert main(["adapt", *models, *FAST, *options]) == 0
    assert "never shown “zebra” and can only guess" in capsys.readouterr().err


def test_memory_is_told_before_a_run(models, tmp_path, capsys, monkeypatch):
    out = tmp_path / "d.safetensors"
    monkeypatch.setattr(nada.memory, "free_bytes", lambda device: 1000)
    assert main(["adapt", *models, *FAST, "--target", "sketch", "--out", str(out)]) == 2
    assert "are free: close other programs" in capsys.readouterr().err and not out.exists()


def test_options_change_the_preset_of_the_generator():
    assert chosen(parse()).preset.config.steps == PRESETS["demo"].config.steps
    assert chosen(parse("--generator", "ffhq.pt")).preset.selection.k == PRESETS["ffhq"].selection.k
    assert chosen(parse("--preset", "demo-weights")).preset.selection.k == 0
    assert chosen(parse("--generator", "ffhq.pt", "--preset", "demo")).preset.selection.k == 6
    assert chosen(parse()).clip == "demo"
    assert chosen(parse("--generator", "ffhq")).clip == "ViT-B/32"
    changes = parse("--steps", "7", "--global", "0.5", "--views", "0", "--k", "3", "--train-to-rgb")
    preset = chosen(changes).preset
    assert (preset.config.steps, preset.selection.k, preset.config.train_to_rgb) == (7, 3, True)
    assert preset.guidance.lambda_global == 0.5 and preset.guidance.views == 0
    assert preset.guidance.lambda_directional == 1.0
    assert not chosen(parse("--no-train-to-rgb")).preset.config.train_to_rgb


def test_the_last_rate_follows_the_first():
    config = PRESETS["demo"].config
    halved = chosen(parse("--lr", str(config.lr / 2))).preset.config
    assert halved.final_lr == pytest.approx(config.final_lr / 2)
    assert chosen(parse("--lr", "1", "--final-lr", "2")).preset.config.final_lr == 2


def test_sample_draws_the_grid(models, domain, tmp_path, capsys):
    out, folder = tmp_path / "deep" / "grid.png", tmp_path / "each"
    options = ["--seeds", "3,5-7", "--columns", "3", "--domain", str(domain), "0.7"]
    assert main(["sample", *models[:2], *options, "--out", str(out), "--folder", str(folder)]) == 0
    base = load_generator(models[1])
    pictures = sample(blend(base, [(Delta.load(domain), 0.7)]), [3, 5, 6, 7])
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(image_grid(pictures, 3)))
    assert sorted(path.name for path in folder.iterdir()) == ["3.png", "5.png", "6.png", "7.png"]
    assert Image.open(folder / "5.png").size == (16, 16)


def test_three_numbers_are_a_strength_by_resolution(models, domain, tmp_path, capsys):
    out, mix, film = (tmp_path / name for name in ("grid.png", "mix.safetensors", "film.mp4"))
    given = [*models[:2], "--domain", str(domain), "-0.5", "0.5", "0"]
    assert main(["sample", *given, "--seeds", "3,5", "--out", str(out)]) == 0
    assert main(["film", *given, "--seeds", "3", "--between", "2", "--out", str(film)]) == 0
    assert main(["blend", *given, "--domain", str(domain), "0.25", "--out", str(mix)]) == 0
    base, delta, strength = load_generator(models[1]), Delta.load(domain), Strength(-0.5, 0.5, 0)
    pictures = image_grid(sample(blend(base, [(delta, strength)]), [3, 5]), 2)
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(pictures))
    expected = blend(base, [(delta, strength), (delta, 0.25)])
    assert fingerprint(blend(base, [(Delta.load(mix), 1.0)])) == fingerprint(expected)

    capsys.readouterr()
    assert main(["domain", *models[:2], str(mix)]) == 0
    line = "blend: sketch, coarse -0.5, middle 0.5, fine 0 + sketch, 0.25"
    assert line in capsys.readouterr().out.splitlines()
    assert main(["domain", *models[:2], str(mix), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)["blend"]
    assert first["by_resolution"] == {"coarse": -0.5, "middle": 0.5, "fine": 0.0}
    assert first["weight"] == 0 and second == {"weight": 0.25, "target": "sketch"}


def test_adapt_goes_on_from_a_domain_and_is_measured(models, tmp_path, capsys):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert main(["adapt", *models, *FAST, "--target", "zombie", "--out", str(first)]) == 0
    options = ["--target", "sketch", "--start", str(first), "--out", str(second)]
    assert main(["adapt", *models, *FAST, *options]) == 0
    assert main(["domain", *models[:2], "--json", str(second)]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["target"] == "sketch" and told["fits"] and told["quality"] and told["diversity"]
    alone = tmp_path / "c.safetensors"
    assert main(["adapt", *models, *FAST, "--target", "sketch", "--out", str(alone)]) == 0
    one, other = Delta.load(alone).tensors, Delta.load(second).tensors
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_film_writes_a_film(models, domain, tmp_path, capsys):
    out = tmp_path / "film.mp4"
    options = ["--domain", str(domain), "--seeds", "1-2", "--between", "3", "--out", str(out)]
    assert main(["film", *models[:2], *options, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "frames": 12}
    with av.open(str(out)) as film:
        assert film.streams.video[0].frames == 12 and film.streams.video[0].average_rate == 24


def test_info_tells_what_would_run(models, capsys):
    assert main(["info", *models, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["size"] == 16 and told["limits"]["steps"] == [1, 2000] and told["words"]


def test_blend_writes_a_domain_or_a_generator(models, domain, tmp_path, capsys):
    base, half = load_generator(models[1]), tmp_path / "half.safetensors"
    assert main(["blend", *models[:2], "--domain", str(domain), "0.5", "--out", str(half)]) == 0
    expected = blend(base, [(Delta.load(domain), 0.5)])
    assert fingerprint(blend(base, [(Delta.load(half), 1.0)])) == fingerprint(expected)
    facts = {"weight": 0.5, "target": "sketch"}
    assert Delta.load(half).metadata == {"blend": [facts]}

    whole = tmp_path / "whole.safetensors"
    options = ["--domain", str(domain), "--domain", str(half), "-1", "--whole"]
    assert main(["blend", *models[:2], *options, "--out", str(whole)]) == 0
    loaded = load_generator(whole)
    torch.testing.assert_close(sample(loaded, [1]), sample(expected, [1]), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["adapt", "--target", ""], "The prompt is empty"),
        (["adapt", "--target", "x" * 10_000], "10000 characters"),
        (["adapt", "--target", "photo"], "the same to CLIP"),
        (["adapt", "--target", "sketch", "--k", "99"], "k is 99"),
        (["adapt", "--target", "sketch", "--steps", "-1"], "steps is -1"),
        (["adapt", "--target", "sketch", "--lr", "nan"], "lr is nan"),
        (["adapt", "--target", "sketch", "--views", "-2"], "views"),
        (["adapt", "--target", "sketch", "--global", "nan"], "global is nan"),
        (
            ["adapt", "--target", "sketch", *"--directional 0 --global 0 --in-domain 0".split()],
            "weight",
        ),
        (["adapt", "--target", "sketch", "--device", "abacus"], "'abacus' cannot be used"),
        (["adapt", "--target", "sketch", "--generator", "none.pt"], "no generator file 'none.pt'"),
        (["adapt", "--target", "sketch", "--clip", "none.safetensors"], "no CLIP file"),
        (["adapt", "--target", "sketch", "--out", "."], "is a folder"),
        (["sample", "--domain", "none.safetensors"], "no domain file"),
        (["sample", "--psi", "nan"], "--psi is nan; choose from -10 to 10."),
        (["sample", "--psi", "1e308"], "--psi is 1e+308; choose from -10 to 10."),
        (["sample", "--columns", "100000"], "--columns is 100000; choose from 1 to 1000."),
        (
            ["sample", "--seeds", "0-9999", "--columns", "1000", "--batch", "2000"],
            "--batch is 2000",
        ),
        (["film", "--psi", "inf"], "--psi is inf"),
        (["film", "--between", "1000000"], "--between is 1000000; choose from 2 to 10000."),
        (["film", "--fps", "0"], "--fps is 0; choose from 1 to 240."),
        (["adapt", "--target", "sketch", "--out", "d.pt"], "d.pt should end in .safetensors."),
        (["sample", "--out", "a.jpg"], "a.jpg should end in .png."),
        (["film", "--out", "a.gif"], "a.gif should end in .mp4."),
        (["blend", "--out", "d.pt", "--domain", "a"], "d.pt should end in .safetensors."),
        (
            ["blend", "--out", "g.pkl", "--whole", "--domain", "a"],
            "should end in .safetensors or .pt",
        ),
        (["film", "--between", "1"], "--between is 1; choose from 2"),
        (["domain", "none.safetensors"], "no domain file"),
        (["sample", "--batch", "0"], "batch is 0"),
        (["sample", "--columns", "0"], "--columns is 0"),
        (["blend", "--out", "x"], "Nothing to blend"),
        (["blend", "--out", "x.safetensors", "--domain", "a", "much"], "one file and one number"),
        (["blend", "--out", "x.safetensors", "--domain", "a", "1", "2"], "one file and one number"),
        (["sample", "--domain", "a", "1", "2", "3", "4"], "three for coarse, middle and fine"),
        (["sample", "--domain", "a", "1", "much", "0"], "--domain a 1 much 0: give one file"),
    ],
)
def test_bad_input_gets_a_sentence(models, tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    command, *options = arguments
    given = models if command == "adapt" else models[:2]
    preset = ("--preset", "demo") if command == "adapt" else ()
    assert main([command, *given, *preset, *options]) == 2
    message = capsys.readouterr().err
    assert complaint in message and message.startswith(f"nada {command}: ")
    assert "Traceback" not in message and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        ([], "required: COMMAND"),
        (["adapt", "--target", "a", "--steps", "many"], "invalid int value: 'many'"),
        (["adapt", "--target", "a", "--method", "luck"], "invalid choice: 'luck'"),
        (["sample", "--seeds", "7-3"], "write 3-7"),
        (["sample", "--seeds", "0-99999999"], "more than 10000 seeds"),
        (["sample", "--seeds", "a"], "contain 'a'"),
    ],
)
def test_options_that_cannot_be_read_get_a_sentence(capsys, arguments, complaint):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2 and complaint in capsys.readouterr().err


def test_divergence_saves_the_last_good_weights(models, tmp_path, capsys, monkeypatch):
    class Loss:
        """Sound for two steps, then not a number."""

        calls = 0

        def __call__(self, source, adapted):
            self.calls += 1
            return adapted.mean() * (1 if self.calls <= 2 else float("nan"))

    monkeypatch.setattr("nada.__main__.prepare", lambda *_: (Loss(), None))
    out = tmp_path / "d.safetensors"
    assert main(["adapt", *models, *FAST, "--target", "sketch", "--out", str(out)]) == 1
    assert "Lower the learning rate" in capsys.readouterr().err
    delta, base = Delta.load(out), load_generator(models[1])
    assert delta.tensors and delta.metadata["steps_done"] == 2
    assert sample(blend(base, [(delta, 1.0)]), [0]).isfinite().all()


@pytest.mark.parametrize(
    "error, complaint",
    [
        (KeyError("weight"), "An error that was not foreseen, KeyError: 'weight'. With NADA_TRACE"),
        (
            SafetensorError("bad\nlines"),
            "An error that was not foreseen, SafetensorError: bad. With NADA_TRACEBACK=1",
        ),
        (MemoryError(), "There is not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "There is not enough memory"),
        (RuntimeError("[enforce fail] can't allocate memory: you"), "There is not enough memory"),
        (PermissionError(13, "Permission denied", "a.png"), "a.png: Permission denied."),
        (ValueError(), "An error that was not foreseen, ValueError"),
    ],
)
def test_an_error_of_a_library_is_a_sentence(
    models, tmp_path, capsys, monkeypatch, error, complaint
):
    def fail(*_):
        raise error

    monkeypatch.setattr("nada.__main__.load_generator", fail)
    monkeypatch.chdir(tmp_path)
    assert main(["sample"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"nada sample: {complaint}") and message.count("\n") == 1
    monkeypatch.setenv("NADA_TRACEBACK", "1")
    assert main(["sample"]) == 2
    assert "in fail\n" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("when", ["step", "measuring"])
def test_an_error_after_the_first_step_costs_no_run(models, tmp_path, capsys, monkeypatch, when):
    def fail(*_):
        raise RuntimeError("out of memory")

    if when == "step":
        calls = iter([lambda x: x.mean(), fail])
        monkeypatch.setattr(
            "nada.__main__.prepare", lambda *_: (lambda source, adapted: next(calls)(adapted), None)
        )
    else:
        monkeypatch.setattr("nada.__main__.measured_facts", fail)
    out = tmp_path / "d.safetensors"
    status = main(["adapt", *models, *FAST, "--target", "sketch", "--out", str(out)])
    assert status == {"step": 2, "measuring": 0}[when]
    assert "nada adapt: There is not enough memory" in capsys.readouterr().err
    assert Delta.load(out).metadata["steps_done"] == {"step": 1, "measuring": 3}[when]


def test_json_holds_nothing_that_json_does_not_know(models, domain, capsys, monkeypatch):
    facts = {"deep": [{"loss": float("-inf")}, (float("nan"), 1.5)]}
    monkeypatch.setattr("nada.__main__.describe", lambda *_: facts)
    assert main(["domain", *models[:2], "--json", str(domain)]) == 0
    assert capsys.readouterr().out == '{"deep": [{"loss": null}, [null, 1.5]]}\n'


def test_images_that_are_none_get_a_sentence(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = load_generator(models[1])
    blinding = copy.deepcopy(base)
    for to_rgb in blinding.to_rgbs:  # each within the bounds of a domain file
        to_rgb.bias += 9e5
    diff(base, blinding).save("blinding.safetensors")
    for command in ("sample", "film"):
        assert main([command, *models[:2], "--domain", "blinding.safetensors"]) == 2
        assert "are not pictures any more" in capsys.readouterr().err
    assert os.listdir() == ["blinding.safetensors"]


def test_pictures_in_a_folder_need_no_grid(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["sample", *models[:2], "--folder", "f", "--seeds"]
    assert main([*options, "0-9,3", "--batch", "4", "--json"]) == 0
    seeds = [*range(10), 3]
    assert json.loads(capsys.readouterr().out) == {"out": None, "folder": "f", "seeds": seeds}
    assert sorted(os.listdir("f")) == [f"{seed}.png" for seed in range(10)]
    drawn = sample(load_generator(models[1]), seeds, batch=4)
    for seed, image in zip(seeds, to_images(drawn)):
        np.testing.assert_array_equal(np.asarray(Image.open(f"f/{seed}.png")), np.asarray(image))
    assert main([*options, "9-12"]) == 2
    assert "f/9.png is there already" in capsys.readouterr().err and len(os.listdir("f")) == 10
    assert main([*options, "9-12", "--overwrite"]) == 0 and len(os.listdir("f")) == 13


def test_files_without_a_name_given_are_new_each_time(models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for command, *size in (("sample",), ("film", "--between", "2")):
        options = [command, *models[:2], "--seeds", "1", *size]
        for _ in range(3):
            assert main(options) == 0
        assert main([*options, "--overwrite"]) == 0
    numbers = ("", "-2", "-3")
    names = {f"samples{n}.png" for n in numbers} | {f"film{n}.mp4" for n in numbers}
    assert set(os.listdir()) == names


def test_the_first_interrupt_asks_and_the_second_insists():
    # a shell starts its background jobs, and so these tests, with interrupts ignored
    given = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.status == 130
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, given)


def test_ctrl_c_saves_what_there_is(models, tmp_path):
    out = tmp_path / "d.safetensors"
    options = ["--target", "sketch", "--steps", "100000", "--json", "--out", str(out)]
    command = [sys.executable, "-m", "nada", "adapt", *models, "--preset", "demo", *options]
    root = Path(__file__).parent.parent
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        first = json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        *_, last = process.stdout.read().splitlines()
    assert process.returncode == 130
    assert first["step"] == 1 and json.loads(last)["steps_done"] < 1000
    assert Delta.load(out).metadata["steps_done"] == json.loads(last)["steps_done"]


@pytest.mark.slow
def test_a_terminal_shows_a_bar(models, tmp_path):
    out, (screen, keyboard) = tmp_path / "d.safetensors", os.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # else it has no width
    options = ["--target", "sketch", *FAST, "--out", str(out)]
    command = [sys.executable, "-m", "nada", "adapt", *models, *options]
    root, shown = Path(__file__).parent.parent, b""
    with subprocess.Popen(command, cwd=root, stdout=keyboard, stderr=keyboard) as process:
        os.close(keyboard)
        with contextlib.suppress(OSError), open(screen, "rb", buffering=0) as terminal:
            while some := terminal.read(4096):
                shown += some
    assert process.returncode == 0 and b"3/3" in shown and b"loss=" in shown
    assert b"Saved " in shown and out.is_file()


def test_file_names_come_from_prompts():
    assert file_name("Pencil  sketch!") == "pencil-sketch.safetensors"
    assert file_name("../../etc/passwd") == "etc-passwd.safetensors"
    assert file_name("🧟 Зомби") == "зомби.safetensors"
    assert file_name("ゾンビ ♥ zo\u0308mbie") == "ゾンビ-zömbie.safetensors"
    assert file_name("ज़ोंबी") == "ज़ोंबी.safetensors"  # its vowels are marks
    assert file_name("x" * 1000) == "x" * 80 + ".safetensors"
    assert file_name("я" * 1000) == "я" * 40 + ".safetensors"
    assert file_name("CON") == "con-domain.safetensors" and file_name("con 1")[:5] == "con-1"
    for nothing in ("", "🧟", "\ud800", "../..", "\u0301"):
        assert file_name(nothing) == "domain.safetensors"
