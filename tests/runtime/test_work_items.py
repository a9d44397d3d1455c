"""Work items: each is made once, by whichever launch claims it; what killed launches leave is made again."""

import os
import signal
import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from edm2.runtime import work_items
from edm2.runtime.files import replacing
from edm2.runtime.work_items import claimed_items, result_of

GROUPS = {f"n{g}": [f"n{g}-{k}" for k in range(3)] for g in range(4)}
ALL = [item for items in GROUPS.values() for item in items]


def make(folder, made, groups=GROUPS, stop_at=None, first=lambda: None):
    """Make all items that can be claimed; call `first` with the first, be interrupted at one of them."""
    with claimed_items(folder, groups, "test") as names:
        for name in names:
            made.append(name)
            if name == stop_at:
                raise KeyboardInterrupt
            if len(made) == 1:
                first()
            with replacing(result_of(folder, name), durable=False) as temporary:
                temporary.write_text(name)


def test_one_launch_makes_every_item_in_order(tmp_path):
    made = []
    make(tmp_path, made)
    assert made == ALL
    make(tmp_path, made)
    assert made == ALL
    assert all(result_of(tmp_path, name).read_text() == name for name in ALL)


def test_launches_at_once_make_each_item_once_and_begin_with_different_groups(tmp_path):
    """Locks are of open files, so threads are to each other as processes are."""
    made = [[] for _ in range(3)]
    all_have_one = threading.Barrier(3)
    threads = [
        threading.Thread(target=make, args=(tmp_path, part), kwargs={"first": all_have_one.wait})
        for part in made
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(name for part in made for name in part) == Counter(ALL)
    assert {part[0] for part in made} == {"n0-0", "n1-0", "n2-0"}


def test_without_a_group_of_its_own_a_launch_takes_items_of_others(tmp_path):
    made = []
    with claimed_items(tmp_path, GROUPS, "first") as names:
        assert next(names) == "n0-0"
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path, made, stop_at="n0-2")
    assert made == [*ALL[3:], "n0-1", "n0-2"]


def test_an_interrupted_launch_leaves_its_item_to_the_next(tmp_path):
    made = []
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path, made, stop_at="n1-1")
    assert made == ALL[:5]
    make(tmp_path, made)
    assert made[5:] == ALL[4:]


def test_whoever_waits_takes_what_a_killed_launch_had_claimed(tmp_path, monkeypatch, capsys):
    """It had also begun to write, under a temporary name."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        with claimed_items(tmp_path, {"n0": ["n0-0"]}, "killed") as names:
            name = next(names)
            (tmp_path / f".{name}.json.123.partial").write_text("half")
            (tmp_path / ".n0-00.json.123.partial").write_text("of another item")
            os.write(writing, b"x")
            time.sleep(60)
        os._exit(0)
    os.read(reading, 1)

    def kill(_):
        os.kill(process, signal.SIGKILL)
        assert os.waitpid(process, 0)[1] == signal.SIGKILL

    made = []
    monkeypatch.setattr(work_items, "time", SimpleNamespace(sleep=kill))
    make(tmp_path, made, {"n0": ["n0-0"]})
    assert made == ["n0-0"]
    assert "test: other launches are at work on the last 1 items" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".n0-00.json.123.partial",
        "n0-0.json",
        "n0.lock",
    ]


def test_an_item_that_was_claimed_and_not_written_is_an_error(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"n0-0.json: claimed"),
        claimed_items(tmp_path, GROUPS, "test") as names,
    ):
        list(names)
