"""The same run finds its state again; no other run does."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edm2.params import UserError
from edm2.runtime import checkpoint_parts
from edm2.runtime import state as state_module
from edm2.runtime.checkpoint import stage
from edm2.runtime.state import State, open_state
from edm2.runtime.temporaries import remove


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder


def test_state_is_below_the_project_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = files(root / "temporary_checkout")
    monkeypatch.chdir(elsewhere)
    with open_state("train_vae", "abc") as state:
        assert state.folder == root / ".state" / "train_vae" / "abc"
    assert not list(elsewhere.iterdir())


def test_the_last_two_checkpoints_are_kept(root: Path) -> None:
    with open_state("s", "f") as state:
        assert state.restore() is None
        for nimg in (900, 1000, 20000):  # times of different lengths
            state.save(nimg, stage({"nimg": nimg, "x": torch.full((2,), nimg)}))
        assert state.restore()["nimg"] == 20000
        remove(state.checkpoints()[-1])
        assert state.restore()["nimg"] == 1000
        assert len(list(state.folder.glob("checkpoint-*"))) == 1


def test_a_corrupted_checkpoint_is_named_and_the_previous_one_remains_usable(root: Path) -> None:
    with open_state("s", "f") as state:
        state.save(1, stage({"nimg": 1}))
        state.save(2, stage({"nimg": 2}))
        latest = state.checkpoints()[-1]
        (latest / "index.json").write_text("{}")
        with pytest.raises(UserError, match=f"Remove {latest} "):
            state.restore()
        remove(latest)
        assert state.restore() == {"nimg": 1}


def test_what_a_killed_save_leaves_is_no_checkpoint_and_is_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the part is written and before the index is."""

    def kill(*args: object) -> None:
        raise KeyboardInterrupt

    with open_state("s", "f") as state:
        state.save(1, stage({"x": torch.ones(2)}))
        monkeypatch.setattr(checkpoint_parts, "write_checked", kill)
        with pytest.raises(KeyboardInterrupt):
            state.save(2, stage({"x": torch.zeros(2)}))
        partial = state.folder / ".checkpoint-000000000002.partial"
        assert [path.name for path in partial.iterdir()] == ["part-00000.safetensors"]
        assert len(state.checkpoints()) == 1
    with open_state("s", "f") as state:
        assert not partial.exists()
        assert state.restore()["x"].tolist() == [1, 1]


def test_notes_accumulate(root: Path) -> None:
    with open_state("s", "f") as state:
        state.note(mlflow_run="a")
        state.note(finished=False)
        assert State(state.folder).read_notes() == {"mlflow_run": "a", "finished": False}
        state.notes.write_text('{"mlflow_run":')
        with pytest.raises(UserError, match=f"{state.notes}: .*Remove it"):
            state.read_notes()


def test_notes_of_another_run_are_refused(root: Path) -> None:
    with open_state("s", "f") as one, open_state("s", "g") as other:
        one.note(complete=True)
        other.notes.write_bytes(one.notes.read_bytes())
        with pytest.raises(UserError, match=f"{other.notes}: SHA-256 .*Remove it"):
            other.read_notes()


def test_a_second_launch_waits_for_the_first(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before, it shares the work; what both write in the folder of work items stays."""
    order, waiting = [], threading.Event()

    def share(state: State) -> None:
        state.items.mkdir()
        for folder in (state.items, state.results):
            (folder / ".a.json.1.partial").touch()
        order.append("second shares")

    def second() -> None:
        with open_state("s", "f", share) as state:
            order.append("second enters")
            partial = [path.parent for path in state.folder.rglob("*.partial")]
            assert partial == [state.items]
            order.append("items are kept")

    thread = threading.Thread(target=second)
    with open_state("s", "f", lambda _: order.append("first shares")):
        thread.start()
        while not waiting.wait(0.01):
            if "waiting" in capsys.readouterr().err:
                waiting.set()
        order.append("first leaves")
    thread.join(timeout=30)
    assert order == ["second shares", "first leaves", "second enters", "items are kept"]


def test_other_runs_do_not_wait(root: Path) -> None:
    with open_state("s", "f") as one, open_state("s", "g") as two, open_state("t", "f") as three:
        assert len({one.folder, two.folder, three.folder}) == 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """clock(seconds): that many seconds pass."""
    now = [100.0]
    monkeypatch.setattr(state_module.time, "perf_counter", lambda: now[0])
    return lambda seconds: now.append(now.pop() + seconds)


def test_seconds_of_several_launches_are_added(tmp_path: Path, clock) -> None:
    state = State(tmp_path)
    with contextlib.suppress(KeyboardInterrupt), state.timed():
        clock(5)
        raise KeyboardInterrupt
    clock(1000)
    with state.timed():
        clock(7)
    assert state.read_notes()["seconds"] == 12


def test_seconds_are_unknown_after_a_launch_was_killed(tmp_path: Path, clock) -> None:
    state = State(tmp_path)
    with state.timed():
        clock(5)
        killed = state.read_notes()
    state.note(**killed)  # what a process leaves that never ends the block
    with state.timed():
        clock(7)
    assert state.read_notes()["seconds"] is None
