"""State is found again by the same work, and by no other."""

import threading
from pathlib import Path

import pytest
import torch

from edm2.params import UserError
from edm2.runtime.manifest import write_manifest
from edm2.runtime.state import State, fingerprint, open_state


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder


def test_fingerprint_is_the_same_for_the_same_work(root: Path) -> None:
    inputs = [files(Path("code"), a="1", b="2"), files(Path("c"), d="3") / "d"]
    first = fingerprint({"seed": 0, "vae": {"lr": 0.1, "batch": 8}}, inputs)
    assert first == fingerprint({"vae": {"batch": 8, "lr": 0.1}, "seed": 0}, inputs)


def test_fingerprint_follows_params(root: Path) -> None:
    values = [{"lr": 0.1}, {"lr": 0.2}, {"lr": None}, {"lr": 0.1, "seed": 0}, {}]
    assert len({fingerprint(value, []) for value in values}) == len(values)


def test_fingerprint_follows_code(root: Path) -> None:
    code = files(Path("code"), a="1", b="2")
    seen = [fingerprint({}, [code])]
    files(code / "inner", deep="1")
    seen.append(fingerprint({}, [code]))
    files(code, a="3")
    seen.append(fingerprint({}, [code]))
    (code / "b").rename(code / "bb")
    seen.append(fingerprint({}, [code]))
    assert len(set(seen)) == 4
    files(code, **{"a.cpython-311.pyc": "compiled"})
    assert fingerprint({}, [code]) == seen[-1]


def test_fingerprint_knows_where_a_file_ends(root: Path) -> None:
    code = files(Path("code"), a="1", b="2")
    two = fingerprint({}, [code])
    (code / "b").unlink()
    files(code, a="1code/b2")
    assert fingerprint({}, [code]) != two


def test_fingerprint_takes_results_by_their_manifest(root: Path) -> None:
    folder = files(Path("images"), shard="1")
    write_manifest(folder)
    before = fingerprint({}, [folder])
    files(folder, shard="2")
    assert fingerprint({}, [folder]) == before  # reading all data is the reader's business
    write_manifest(folder)
    assert fingerprint({}, [folder]) != before


def test_missing_input_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="data/images"):
        fingerprint({}, [Path("data/images")])


def test_state_lies_below_the_project_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = files(root / "temporary_checkout")
    monkeypatch.chdir(elsewhere)
    with open_state("train_vae", "abc") as state:
        assert state.folder == root / ".state" / "train_vae" / "abc"
    assert not list(elsewhere.iterdir())


def test_previous_checkpoint_is_kept_and_older_ones_dropped(root: Path) -> None:
    with open_state("s", "f") as state:
        assert state.restore() is None
        for nimg in (900, 1000, 20000):  # in order of time, not of text
            state.save(nimg, {"nimg": nimg, "x": torch.full((2,), nimg)})
        assert state.restore()["nimg"] == 20000
        latest = max(state.folder.glob("checkpoint-*"))
        latest.unlink()
        assert state.restore()["nimg"] == 1000
        assert len(list(state.folder.glob("checkpoint-*"))) == 1


def test_broken_checkpoint_is_named_and_the_one_before_it_usable(root: Path) -> None:
    with open_state("s", "f") as state:
        state.save(1, {"nimg": 1})
        state.save(2, {"nimg": 2})
        broken = max(state.folder.glob("checkpoint-*"))
        broken.write_bytes(broken.read_bytes()[:-1])
        with pytest.raises(UserError, match=broken.name):
            state.restore()
        broken.unlink()
        assert state.restore() == {"nimg": 1}


def test_notes_add_up(root: Path) -> None:
    with open_state("s", "f") as state:
        state.note(mlflow_run="a")
        state.note(finished=False)
        assert State(state.folder).read_notes() == {"mlflow_run": "a", "finished": False}


def test_publish_links_results_and_finishes(root: Path) -> None:
    with open_state("s", "f") as state:
        (state.results / "models").mkdir()
        files(state.results / "models" / "vae", weights="w")
        files(state.results, table="t")
        state.save(1, {"nimg": 1})
        assert not state.finished()
        state.publish([Path("models/vae"), Path("table")])
        assert (root / "models/vae/weights").read_text() == "w"
        assert (root / "table").read_text() == "t"
        assert not list(state.folder.glob("checkpoint-*"))
    with open_state("s", "f") as again:
        assert again.finished()


def test_finished_results_reach_the_pipeline_again(root: Path) -> None:
    with open_state("s", "f") as state:
        files(state.results, table="t")
        state.publish([Path("table")])
        Path("table").unlink()  # as DVC does before a stage runs
        state.publish([Path("table")])
    assert Path("table").read_text() == "t"


def test_second_launch_waits_for_the_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order, waiting = [], threading.Event()

    def second() -> None:
        with open_state("s", "f"):
            order.append("second enters")

    thread = threading.Thread(target=second)
    with open_state("s", "f"):
        thread.start()
        while not waiting.wait(0.01):
            if "waiting for it" in capsys.readouterr().err:
                waiting.set()
        order.append("first leaves")
    thread.join(timeout=30)
    assert order == ["first leaves", "second enters"]


def test_other_work_does_not_wait(root: Path) -> None:
    with open_state("s", "f") as one, open_state("s", "g") as two, open_state("t", "f") as three:
        assert len({one.folder, two.folder, three.folder}) == 3
