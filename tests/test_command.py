"""The command line in a process of its own: places, full disks, signals, pipes, memory."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from nada.__main__ import main
from nada.delta import Delta
from tests.helpers import quick_first
from tests.served import ROOT, tiny_models
from tests.small_disk import fill, small_disk

PROGRAM = (sys.executable, "-m", "nada")
TMPDIR_ALONE = (sys.executable, "-c", """
import os, sys, tempfile
from nada.__main__ import program
tempfile.tempdir = os.environ["TMPDIR"]  # or Python would look for one with room
sys.exit(program())
""")  # fmt: skip
# a run that takes its time between the last step and the saved file, and says when that begins
SLOW_TO_SAVE = """
import sys, time
import nada.__main__ as command
def measure(*_):
    print("measuring", flush=True)
    time.sleep(2)
    return {}
command.measured_facts = measure
sys.exit(command.program())
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory, clip_tiny) -> tuple[str, ...]:
    """Options of `adapt` for a tiny generator and a tiny CLIP on disk."""
    return (
        *tiny_models(tmp_path_factory.mktemp("models"), clip_tiny),
        *("--preset", "demo"),
        *("--batch", "2", "--select-batch", "2", "--target", "sketch"),
    )


def environment(**changes) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **{k: str(v) for k, v in changes.items()}}


def run(*arguments, cwd: Path, program=PROGRAM, **options) -> subprocess.CompletedProcess:
    """A command that ends by itself; a busy machine may take its time."""
    env = options.pop("env", environment())
    return subprocess.run(
        [*program, *map(str, arguments)],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=800, **options,
    )  # fmt: skip


@contextmanager
def begun(*arguments, cwd: Path, program=PROGRAM, **options) -> Iterator[subprocess.Popen]:
    """A command of which the first line has been read from `stdout`."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    options.setdefault("env", environment())
    words = [*program, *map(str, arguments)]
    with subprocess.Popen(words, cwd=cwd, text=True, **options) as process:
        try:
            assert json.loads(process.stdout.readline())["step"] == 1
            yield process
        finally:
            process.kill()


def end(process: subprocess.Popen) -> tuple[int, list[str], str]:
    """Exit status, what was printed after the first line, and the complaints."""
    printed, complaints = process.communicate(timeout=60)
    return process.returncode, printed.splitlines(), complaints


LONG = ("--steps", "2000", "--json")


# Places


@pytest.mark.parametrize(
    "command, name, options",
    [
        ("adapt", "a.safetensors", ("--target", "sketch")),
        ("sample", "a.png", ()),
        ("film", "a.mp4", ()),
        ("blend", "a.safetensors", ("--domain", "none")),
        ("convert", "a.pt", ()),
    ],
)
def test_a_place_is_tried_before_anything_is_loaded(tmp_path, capsys, command, name, options):
    missing = ("--generator", str(tmp_path / "missing.pt"))  # to load it would be another sentence
    (tmp_path / "file").touch()
    (tmp_path / name).write_text("mine")
    for out, complaint in (
        (tmp_path / "file" / name, "file is a file"),
        (tmp_path / name, f"{name} is there already; give another name, or --overwrite"),
        (Path("/proc/new") / name, "cannot be written: no such file or directory"),
    ):
        assert main([command, *missing, *options, "--out", str(out)]) == 2
        assert complaint in capsys.readouterr().err
    out = ("--out", str(tmp_path / name), "--overwrite")
    assert main([command, *missing, *options, *out]) == 2
    assert "no generator file" in capsys.readouterr().err
    assert (tmp_path / name).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "file"])


def test_a_full_disk_is_told_before_the_run(models, tmp_path, capsys):
    with small_disk(tmp_path / "disk") as disk:
        fill(disk)
        out = disk / "new" / "a.safetensors"
        assert main(["adapt", *models, "--out", str(out)]) == 2 and os.listdir(disk) == ["filler"]
    printed, complaint = capsys.readouterr()
    assert complaint.startswith("nada adapt: The disk is full: ") and complaint.count("\n") == 1
    assert not printed


@pytest.mark.slow
def test_a_disk_that_fills_during_the_run_costs_no_run(models, tmp_path):
    """The first place that is tried is full as well."""
    home = tmp_path / "home"
    home.mkdir()
    with small_disk(tmp_path / "disk") as disk:
        where = {"cwd": disk, "env": environment(TMPDIR=disk, HOME=home), "program": TMPDIR_ALONE}
        options = (*models, *LONG, "--out", disk / "a.safetensors")
        with begun("adapt", *options, **where, stdin=subprocess.DEVNULL) as process:
            fill(disk)
            process.send_signal(signal.SIGINT)
            status, printed, complaints = end(process)
        assert os.listdir(disk) == ["filler"]
    assert status == 130 and "nada adapt: The disk is full: " in complaints
    assert f"The domain lies in {home / 'a.safetensors'} now." in complaints
    last = json.loads(printed[-1])
    assert last["out"] == str(home / "a.safetensors")
    assert Delta.load(last["out"]).metadata["steps_done"] == last["steps_done"]


@pytest.mark.slow
def test_a_run_that_can_be_saved_nowhere_ends_in_a_sentence(models, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        env = environment(TMPDIR=disk, HOME="/proc/nobody")
        where = {"cwd": disk, "env": env, "program": TMPDIR_ALONE}
        options = (*models, *LONG, "--out", disk / "a.safetensors")
        with begun("adapt", *options, **where, stdin=subprocess.DEVNULL) as process:
            fill(disk)
            process.send_signal(signal.SIGINT)
            status, _, complaints = end(process)
        assert os.listdir(disk) == ["filler"]
    assert status == 2 and complaints.endswith("was not saved, and the run is lost.\n")
    assert "Traceback" not in complaints


@pytest.mark.parametrize(
    "answers, status",
    [(["/proc/a.safetensors", "{}"], 143), pytest.param([""], 2, marks=pytest.mark.slow)],
)
def test_a_person_is_asked_for_another_place(models, tmp_path, answers, status):
    screen, keyboard = os.openpty()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with small_disk(tmp_path / "disk") as disk:
        options = (*models, *LONG, "--out", disk / "a.safetensors")
        with begun("adapt", *options, cwd=tmp_path, stdin=keyboard) as process:
            fill(disk)
            process.terminate()
            for answer in answers:
                os.write(screen, f"{answer.format(folder)}\n".encode())
            ended, printed, complaints = end(process)
    assert ended == status and "The run is still in memory." in complaints
    if status == 2:
        assert "the run is lost" in complaints and not os.listdir(folder)
    else:
        assert "/proc/a.safetensors cannot be written" in complaints
        assert json.loads(printed[-1])["out"] == str(folder / "a.safetensors")
        assert Delta.load(folder / "a.safetensors").tensors


@pytest.mark.slow
def test_names_are_the_targets_own_and_new_each_time(models, tmp_path):
    options = (*models[:-1], "Ночной зомби", "--steps", "1", "--json")
    env = environment(LC_ALL="C")
    for _ in range(2):
        done = run("adapt", *options, cwd=tmp_path, env=env, umask=0o027)
        assert done.returncode == 0, done.stderr
    names = {"ночной-зомби.safetensors", "ночной-зомби-2.safetensors"}
    assert set(os.listdir(tmp_path)) == names
    assert json.loads(done.stdout.splitlines()[-1])["out"] in names
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert run("adapt", *options, "--overwrite", cwd=tmp_path).returncode == 0
    assert set(os.listdir(tmp_path)) == names


# Signals and pipes


@pytest.mark.parametrize("number", quick_first(signal.SIGINT, signal.SIGTERM))
def test_signals_after_the_last_step_lose_nothing(models, tmp_path, number):
    options = (*models, "--steps", "1", "--json", "--out", "a.safetensors")
    program = (sys.executable, "-c", SLOW_TO_SAVE)
    with begun("adapt", *options, cwd=tmp_path, program=program) as process:
        assert process.stdout.readline() == "measuring\n"
        for _ in range(3):
            process.send_signal(number)
            time.sleep(0.1)
        ended, printed, complaints = end(process)
    assert ended == 128 + number and not complaints
    assert json.loads(printed[-1]) == {"out": "a.safetensors", "steps_done": 1}
    assert Delta.load(tmp_path / "a.safetensors").metadata["steps_done"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_terminated_saves_what_it_has(models, tmp_path, number):
    with begun("adapt", *models, *LONG, "--out", "a.safetensors", cwd=tmp_path) as process:
        process.send_signal(number)
        ended, printed, _ = end(process)
    assert ended == 128 + number
    delta = Delta.load(tmp_path / "a.safetensors")
    assert delta.metadata["steps_done"] == json.loads(printed[-1])["steps_done"] < 2000


@pytest.mark.slow
def test_a_run_that_nobody_reads_saves_what_it_has(models, tmp_path):
    with begun("adapt", *models, *LONG, "--out", "a.safetensors", cwd=tmp_path) as process:
        process.stdout.close()
        assert process.wait(60) == 141 and not process.stderr.read()
    assert Delta.load(tmp_path / "a.safetensors").tensors


@pytest.mark.slow
def test_a_film_that_is_terminated_leaves_nothing(models, tmp_path):
    words = [*PROGRAM, "film", *models[:2], "--between", "10000"]
    with subprocess.Popen(words, cwd=tmp_path, env=environment()) as process:
        while not any(tmp_path.glob(".unfinished-*/film.mp4")):
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        assert process.wait(60) == 143
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_is_printed_may_go_anywhere(models, tmp_path):
    command = f"{' '.join(PROGRAM)} info {' '.join(models[:4])}"
    for shell, status, said in (
        (f"{command} | head -1; exit ${{PIPESTATUS[0]}}", (0, 141), ""),
        (f"{command} > /dev/full", (2,), "nada info: What is printed: No space left on device.\n"),
        (f"{command} >&-", (0,), ""),
    ):
        done = run("-c", shell, cwd=tmp_path, program=("bash",))
        assert (done.returncode in status, done.stderr) == (True, said)


# Errors of libraries


@pytest.mark.slow
def test_an_error_that_nobody_foresaw_is_a_sentence(tmp_path):
    program = (sys.executable, "-c", """
import sys
import nada.__main__ as command
def fail(*_): raise KeyError("weight")
command.load_generator = fail
sys.exit(command.program())
""")  # fmt: skip
    done = run("sample", cwd=tmp_path, program=program)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "not foreseen, KeyError: 'weight'. With NADA_TRACEBACK=1" in done.stderr
    done = run("sample", cwd=tmp_path, program=program, env=environment(NADA_TRACEBACK=1))
    assert done.returncode == 2 and "Traceback" in done.stderr and "in fail" in done.stderr


@pytest.mark.slow
def test_too_little_memory_is_a_sentence(tmp_path):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    done = run(
        "sample", "--device", "cpu", "--seeds", "0-1023", "--batch", "1024",
        cwd=tmp_path, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr.splitlines()[-1].startswith("nada sample: There is not enough memory")
    assert "Traceback" not in done.stderr


# Many images

PEAK = """
import resource, sys
import nada.__main__ as command
status = command.main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
sys.exit(status)
"""


def peak(*arguments, cwd: Path) -> int:
    """The most memory that a command has held, in MB."""
    done = run(*arguments, cwd=cwd, program=(sys.executable, "-c", PEAK))
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_images_take_no_more_memory_than_a_hundred(tmp_path):
    few = peak("sample", "--seeds", "0-99", "--folder", "few", cwd=tmp_path)
    many = peak("sample", "--seeds", "0-999", "--folder", "many", cwd=tmp_path)
    assert len(os.listdir(tmp_path / "many")) == 1000 and many < few + 80  # as floats: 177
    assert Image.open(tmp_path / "many" / "999.png").size == (128, 128)
    assert sorted(os.listdir(tmp_path)) == ["few", "many"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_film_of_a_thousand_frames_takes_no_more_memory_than_one_of_a_hundred(tmp_path):
    few = peak("film", "--seeds", "1-3", "--between", "17", "--out", "few.mp4", cwd=tmp_path)
    many = peak("film", "--seeds", "1-3", "--between", "167", "--out", "many.mp4", cwd=tmp_path)
    assert many < few + 80
