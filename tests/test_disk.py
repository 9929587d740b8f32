"""The server's folder: whose it is, what stays in it, and how much."""

import os
import time

import pytest

import nada.serve.disk
from nada.serve.disk import Home, Shown, linked, temporary_root, usage


def write(path, size=100, age=0.0):
    """A file of some bytes that was last written to `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    if age:
        for one in (path, path.parent):
            os.utime(one, (time.time() - age,) * 2)
    return path


def test_two_servers_never_share_a_folder(tmp_path):
    one, two = (Home(tmp_path, "7860", 60.0) for _ in range(2))
    assert one.folder != two.folder
    mine, its = (write(home.visitors / "a" / "x") for home in (one, two))
    upload = write(two.folder / "0123" / "upload")
    one._lock.release()  # killed
    again = Home(tmp_path, "7860", 60.0)
    assert again.folder == one.folder and mine.exists() and its.exists() and upload.exists()
    other = Home(tmp_path, "7861", 60.0)
    assert other.folder not in (one.folder, two.folder) and mine.exists()
    for home in (again, two, other):
        home.close()


def test_a_dead_server_leaves_only_what_can_be_come_back_to(tmp_path):
    dead = Home(tmp_path, "7860", 60.0)
    passing = [
        write(dead.folder / "0123" / "upload.safetensors"),
        write(dead.shown / "ab" / "samples.png"),
        write(dead.visitors / "tab-1" / "domains" / "x"),
    ]
    kept = write(dead.visitors / "0f" / "domains" / "x")
    dead._lock.release()
    again = Home(tmp_path, "7860", 60.0)
    assert kept.exists() and not any(path.exists() for path in passing)
    again.close()
    assert kept.exists()  # of somebody who may come back


def test_folders_of_other_dead_servers_go_once_they_are_old(tmp_path):
    dead = Home(tmp_path, "7000", 60.0)
    fresh = write(dead.visitors / "0f" / "x")
    upload = write(dead.folder / "0123" / "x")
    dead._lock.release()
    Home(tmp_path, "7860", 60.0).close()
    assert fresh.exists() and not upload.exists()
    write(fresh, age=100)
    Home(tmp_path, "7860", 60.0).close()
    assert not dead.folder.exists()
    assert not list(tmp_path.glob("7000*"))


def test_an_empty_folder_goes_with_its_server(tmp_path):
    home = Home(tmp_path, "7860", 60.0)
    write(home.folder / "0123" / "upload")
    home.close()
    assert not home.folder.exists()


def test_what_passes_goes_by_age_and_by_size(tmp_path, monkeypatch):
    home = Home(tmp_path, "7860", 60.0)
    kept = write(home.visitors / "a" / "x", age=1000)
    old = write(home.folder / "01" / "x", age=700)
    young = [write(home.folder / f"1{n}" / "x", age=100 - n) for n in range(3)]
    home.tidy()
    assert kept.exists() and not old.exists() and all(path.exists() for path in young)
    monkeypatch.setattr(nada.serve.disk, "UPLOAD_BYTES", 250)
    answer = write(home.shown / "0" / "x", age=200)  # which uploads do not drive out
    home.tidy()
    assert [path.exists() for path in young] == [False, True, True] and kept.exists()
    assert answer.exists() and home.usage() == {"kept": 100, "passing": 300}
    home.close()


def test_parts_of_failed_uploads_go_when_none_is_on_its_way(tmp_path):
    home = Home(tmp_path, "7860", 60.0)
    part = write(home.folder / "tmpabc")
    whole, old = write(home.folder / "01" / "tmp"), write(home.folder / "tmpold", age=100)
    home.tidy()
    assert part.exists() and not old.exists()  # it may yet grow
    with part.open("rb") as still_open:
        home.remove_parts()
        assert not part.exists() and os.fstat(still_open.fileno()).st_size == 0
    assert whole.exists()
    home.close()


def test_a_visitor_has_only_so_many_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(nada.serve.disk, "FETCH_SECONDS", 0.0)
    monkeypatch.setattr(nada.serve.disk, "MAX_SHOWN", 5)
    shown = Shown(tmp_path)
    files = [write(shown.path("me", "x.png")) for _ in range(20)]
    other = write(shown.path("other", "x.png"))
    assert [path.exists() for path in files[-6:]] == [True] * 6  # one more until the next comes
    assert not any(path.exists() for path in files[:-6])
    shown.forget("me")
    assert not any(path.exists() for path in files) and other.exists()
    assert list(tmp_path.iterdir()) == [other.parent]


def test_answers_take_only_so_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(nada.serve.disk, "SHOWN_BYTES", 1000)
    monkeypatch.setattr(nada.serve.disk, "ANSWER_BYTES", 3000)
    shown, most = Shown(tmp_path), 0
    for number in range(100):
        write(shown.path(f"visitor {number % 7}", "x"), 150)
        most = max(most, usage(tmp_path))
    assert most <= 3000 + 150 * (nada.serve.disk.FETCHED + 1)
    alone = [write(shown.path("me", "x"), 400) for _ in range(10)]
    assert alone[-1].exists() and not alone[0].exists()
    assert sum(path.exists() for path in alone) <= nada.serve.disk.FETCHED + 1


def test_bytes_count_once_and_what_goes_meanwhile_counts_as_none(tmp_path):
    first = write(tmp_path / "a" / "x", 1000)
    linked(first, tmp_path / "y")
    assert usage(tmp_path) == 1000 == usage(first)
    assert usage(tmp_path / "nothing") == 0


def test_a_link_is_copied_where_there_are_none(tmp_path, monkeypatch):
    first = write(tmp_path / "x", 10)

    def link(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", link)
    assert linked(first, tmp_path / "y").read_bytes() == first.read_bytes()


def test_the_temporary_root_is_nobody_elses(tmp_path, monkeypatch):
    monkeypatch.setattr(nada.serve.disk.tempfile, "gettempdir", lambda: str(tmp_path))
    root = temporary_root()
    assert root.parent == tmp_path and temporary_root() == root
    root.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    (tmp_path / "nada-4000000").mkdir()
    assert temporary_root() not in (root, tmp_path / "nada-4000000")


def test_where_nothing_can_be_written_a_server_does_not_start(tmp_path):
    write(tmp_path / "file")
    with pytest.raises(OSError):
        Home(tmp_path / "file", "7860", 60.0)
