"""Writing files: whole or not at all, where there is room, with the umask's mode."""

import errno
import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nada.checkpoint import save_generator
from nada.formats.files import (
    PlaceError,
    check_place,
    free_name,
    write_safetensors,
    written_whole,
)
from tests.small_disk import small_disk


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.mark.parametrize("umask, file, folder", [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_files_and_folders_get_the_mode_of_new_ones(tmp_path, generator, umask, file, folder):
    before = os.umask(umask)
    try:
        write_safetensors({"a": torch.ones(2)}, tmp_path / "new/deep/a.safetensors", {})
        save_generator(generator, tmp_path / "new/g.pt")
        with written_whole(tmp_path / "new/a.txt") as unfinished:
            unfinished.touch(0o600)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        **dict.fromkeys(("new", "deep"), folder),
        **dict.fromkeys(("a.safetensors", "g.pt", "a.txt"), file),
    }


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(KeyError), written_whole(tmp_path / "a.txt") as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_a_full_disk_is_told_whatever_library_writes(disk, generator):
    def png(path: Path) -> None:
        with written_whole(path) as unfinished:
            unfinished.write_bytes(bytes(2 << 20))

    generator.convs[0].conv.weight = torch.nn.Parameter(torch.ones(1 << 19, 1))  # 2 MB
    writers = {
        "a.safetensors": lambda path: write_safetensors({"a": torch.ones(1 << 19)}, path, {}),
        "a.pt": lambda path: save_generator(generator, path),
        "a.png": png,
    }
    for name, write in writers.items():
        with pytest.raises(PlaceError, match=f"The disk is full: .*{name} cannot") as caught:
            write(disk / name)
        assert caught.value.errno == errno.ENOSPC and not list(disk.iterdir())
    write_safetensors({"a": torch.ones(9)}, disk / "a.safetensors", {})
    assert load_file(disk / "a.safetensors")["a"].sum() == 9


def test_a_place_is_tried_and_left_as_it_was(tmp_path):
    check_place(tmp_path / "new" / "deep" / "a.png", (".png",))
    check_place(tmp_path / "A.PNG", (".png",))
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.png").write_text("old")
    check_place(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_place_where_nothing_can_be_written_gets_a_sentence(tmp_path, disk):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "device").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    (disk / "filler").write_bytes(bytes(disk_room(disk)))
    complaints = {
        tmp_path: "is a folder",
        tmp_path / "file" / "a": "file is a file, so nothing can lie in it",
        tmp_path / "file": "is there already; give another name, or --overwrite",
        tmp_path / "dangling": "is there already",
        tmp_path / "device": "is a device or a pipe",
        tmp_path / "pipe": "is a device or a pipe",
        tmp_path / ("x" * 300): "file name too long",
        Path("/proc/new/a"): "cannot be written: no such file",
        disk / "new" / "a": "The disk is full",
    }
    for path, complaint in complaints.items():
        with pytest.raises(PlaceError, match=complaint):
            check_place(path, overwrite=False)
    with pytest.raises(ValueError, match=r"a.jpg should end in .png or .webp"):
        check_place(tmp_path / "a.jpg", (".png", ".webp"))
    assert [path.name for path in disk.iterdir()] == ["filler"]


def disk_room(disk: Path) -> int:
    facts = os.statvfs(disk)
    return facts.f_bavail * facts.f_frsize


def test_a_read_only_disk_gets_a_sentence(disk):
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(PlaceError, match="read-only file system"):
        check_place(disk / "a")


def test_names_that_nothing_has_yet(tmp_path):
    names = []
    for _ in range(3):
        names.append(free_name(tmp_path / "a.b.png").name)
        (tmp_path / names[-1]).touch()
    assert names == ["a.b.png", "a.b-2.png", "a.b-3.png"]


def test_names_of_255_bytes_can_be_written(tmp_path):
    name = "я" * 121 + ".safetensors"
    check_place(tmp_path / name)
    write_safetensors({"a": torch.ones(1)}, tmp_path / name, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_many_write_the_same_file_at_once(tmp_path):
    def write(number: int) -> None:
        write_safetensors({"a": torch.full((1000,), number)}, tmp_path / "a.safetensors", {})

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(load_file(tmp_path / "a.safetensors")["a"].unique()) == 1
    assert len(list(tmp_path.iterdir())) == 1
