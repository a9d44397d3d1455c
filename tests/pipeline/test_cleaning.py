"""`edm2 clean`: finished and abandoned state goes; what runs, continues or is nowhere else stays."""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import REPLICATE, ROOT, write_params

from edm2.cli import main
from edm2.params import load
from edm2.pipeline import runner
from edm2.pipeline.cleaning import Entry, clean
from edm2.pipeline.declaration import read_declaration
from edm2.pipeline.dvc_cache import DvcCache
from edm2.runtime.checked_json import write_checked
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.delivery.pipeline_run import PipelineRun, joined
from edm2.runtime.state import State, open_state, used_state
from edm2.runtime.temporaries import temporary

DAY = 86400
NAME = "results/models/x"


@pytest.fixture
def cleaned(root: Path) -> Callable[..., dict[str, Entry]]:
    """Clean the current project, which has no state yet; the entries by stage/fingerprint."""
    from dvc.repo import Repo

    shutil.copy(ROOT / "dvc.yaml", root)
    write_params(root / "params.yaml", {})
    Repo.init(no_scm=True).close()

    def run(apply: bool = False, days: float = 14) -> dict[str, Entry]:
        entries = clean(load("params.yaml"), DvcCache(root), days, apply)
        return {entry.path.relative_to(".state").as_posix(): entry for entry in entries}

    return run


def make_state(name: str, content: bytes = b"", age: float = 0, **notes: Any) -> Path:
    """The state `stage/fingerprint` with one result and notes, last changed `age` days ago."""
    folder = Path(".state", name)
    (folder / NAME).parent.mkdir(parents=True)
    (folder / NAME).write_bytes(content)
    if notes:
        State(folder).note(**notes)
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (time.time() - age * DAY,) * 2)
    return folder


def make_finished(name: str, content: bytes) -> Path:
    return make_state(name, content, result_bytes={"models/x": len(content)}, params={})


def in_cache(content: bytes) -> Path:
    checksum = hashlib.md5(content).hexdigest()
    path = Path(".dvc/cache/files/md5", checksum[:2], checksum[2:])
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def values(stage: str, config: str = "", **changes: Any) -> Any:
    """The params that a stage depends on now."""
    params = load("params.yaml")
    declared = read_declaration(stage, config).values(params.of(config) if config else params)
    return json.loads(json.dumps({**declared, **changes}))


def test_finished_state_goes_if_the_cache_has_its_results(cleaned) -> None:
    linked = make_finished("fid-G-0/linked", b"one")
    os.link(linked / NAME, in_cache(b"one"))
    make_finished("fid-G-0/copied", b"four")
    in_cache(b"four").write_bytes(b"four")
    make_finished("fid-G-0/only", b"five!")
    make_finished("fid-G-0/damaged", b"fivE")  # of the size of another one
    entries = cleaned()
    assert {name for name, entry in entries.items() if entry.removable} == {
        "fid-G-0/linked",
        "fid-G-0/copied",
    }
    assert entries["fid-G-0/linked"].shared == 3  # the cache keeps its blocks
    notes = (linked / "notes.json").stat().st_size
    assert entries["fid-G-0/linked"].freed == notes
    assert entries["fid-G-0/copied"].shared == 0
    assert "dvc repro" in entries["fid-G-0/only"].reason


@pytest.mark.parametrize("use", [open_state, used_state], ids=["stage", "evaluate"])
def test_state_that_a_process_has_open_stays(cleaned, use) -> None:
    folder = make_finished("fid-G-0/abc", b"one")
    in_cache(b"one").write_bytes(b"one")
    with use("fid-G-0", "abc"), use("fid-G-0", "other"):
        assert not any(entry.removable for entry in cleaned(apply=True, days=0).values())
    assert (folder / NAME).exists()
    assert cleaned(apply=True)["fid-G-0/abc"].removable
    assert not folder.exists()


def test_files_that_are_removed_meanwhile_are_left_out(cleaned) -> None:
    folder = make_state("train_vae/abc", b"x", age=30, params={})
    (folder / "gone").symlink_to("nowhere")
    assert cleaned()["train_vae/abc"].freed == 1 + (folder / "notes.json").stat().st_size


def test_pipeline_runs_go_when_they_are_old_and_no_stage_runs(cleaned) -> None:
    make_state("pipeline/old-1", age=30)
    make_state("pipeline/new-1")
    make_state("pipeline/running-1", age=30)
    run = PipelineRun("running", True, lambda: ("main: G", {}, {}))
    with joined(Path(".state").resolve(), run, {}):
        entries = cleaned()
    assert {name for name, entry in entries.items() if entry.removable} == {"pipeline/old-1"}
    assert "open" in entries["pipeline/running-1"].reason
    assert not cleaned()["pipeline/running-1"].removable  # not delivered


def test_unfinished_state_goes_if_nothing_continues_it(cleaned) -> None:
    now = values("train_diffusion", "G")
    other = values("train_diffusion", "G", ema=1)
    make_state("train_diffusion-G-0/current", age=30, params=now)
    make_state("train_diffusion-G-0/older-code", age=31, params=now)
    make_state("train_diffusion-G-0/other", age=15, params=other)
    make_state("train_diffusion-G-0/recent", age=13, params=other)
    make_state("train_diffusion-Z/no-config", age=15, params=now)
    make_state("train_vae/other-stage", age=15, params=now)
    make_state("train_vae/unknown", b"x", age=99)
    make_state("prepare/current", age=99, params=values("prepare"))
    gone = {name for name, entry in cleaned(apply=True).items() if entry.removable}
    assert gone == {
        "train_diffusion-G-0/older-code",
        "train_diffusion-G-0/other",
        "train_diffusion-Z/no-config",
        "train_vae/other-stage",
    }
    assert {path.name for path in Path(".state").glob("*/*") if path.is_dir()} == {
        "current",
        "recent",
        "unknown",
    }
    assert cleaned(days=12)["train_diffusion-G-0/recent"].removable


def test_what_mlflow_has_not_taken_stays(cleaned) -> None:
    folder = make_state("train_vae/abc", age=30, params={})
    outbox = Outbox(folder)
    outbox.add_metrics(1, {"loss": 1.0})
    assert not cleaned(days=0)["train_vae/abc"].removable
    outbox.path.unlink()
    assert cleaned(days=0)["train_vae/abc"].removable


def test_indices_of_tars_that_are_gone_go(cleaned, tmp_path: Path) -> None:
    indices = Path(".state/tar-indices")
    indices.mkdir(parents=True)
    (tmp_path / "here.tar").touch()
    for name in ("here", "gone"):
        write_checked(indices / f"{name}.json", {"tar": f"{tmp_path}/{name}.tar"})
        (indices / f"{name}.npy").write_bytes(b"1234")
        (indices / f"{name}.lock").touch()
    entries = cleaned(apply=True)
    assert entries["tar-indices/gone.npy"].freed == 4
    assert {path.stem for path in indices.iterdir()} == {"here"}


def test_what_is_damaged_is_named_and_stays(cleaned) -> None:
    notes = make_finished("report/abc", b"1") / "notes.json"
    notes.write_text(notes.read_text().replace('"models/x": 1', '"models/x": 2'))
    Path(".state/tar-indices").mkdir()
    index = Path(".state/tar-indices/a.json")
    index.write_text('{"tar": "a.tar"}')
    entries = cleaned(apply=True)
    assert str(notes) in entries["report/abc"].reason
    assert str(index) in entries["tar-indices/a.npy"].reason
    assert notes.exists()
    assert index.exists()


def test_the_command_lists_then_removes_and_names_what_the_cache_holds(cleaned, capsys) -> None:
    from dvc.repo import Repo

    with Repo() as repo:
        for content in (b"old!", b"new"):  # results of two states of the project
            Path("result").unlink(missing_ok=True)
            Path("result").write_bytes(content)
            repo.add("result")
    folder = make_finished("report/abc", b"old!")
    assert run("clean", capsys).splitlines()[0].split()[0] == "remove"
    assert folder.exists()
    output = run("clean --yes", capsys)
    assert output.splitlines()[0].split()[0] == "removed"
    assert "4.00B that no result of the workspace uses" in output
    assert not folder.exists()


def run(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    assert end.value.code == 0
    return capsys.readouterr().out


def test_stages_note_the_params_that_they_depend_on(finished: Path) -> None:
    (notes,) = finished.glob(".state/fid-G-0/*/notes.json")
    assert json.loads(notes.read_text())["params"]["evaluation"]["samples"] == 300


def test_what_the_command_evaluates_is_known_by_its_params(
    cleaned: Callable[..., dict[str, Entry]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_fingerprint", lambda *_: "key")
    runner.share_stage("fid", lambda *_: None, load("params.yaml"), REPLICATE, lambda _: "")
    assert "current params" in cleaned()["fid-G-0/key"].reason
    write_params(Path("params.yaml"), {"evaluation.samples": 999})
    assert not cleaned(apply=True)["fid-G-0/key"].removable
    assert cleaned(days=-1)["fid-G-0/key"].removable


def test_incomplete_files_beside_results_go_when_nobody_writes_them(cleaned, root) -> None:
    with temporary(root / "data" / "images") as used:
        used.mkdir()
        left = (
            root
            / "models"
            / f".vae.{used.name.split('.')[2].split('-')[0]}-4194305-0123abcd.partial"
        )
        left.mkdir(parents=True)
        (left / "a").write_bytes(b"1234567")
        other = root / "reports" / "fid" / ".G-0.csv.123.partial"  # of an earlier version
        other.parent.mkdir(parents=True)
        other.touch()
        entries = {
            entry.path: entry
            for entry in clean(load("params.yaml"), DvcCache(root), 14, apply=True)
        }
        removable = {path.parts[0]: entry.removable for path, entry in entries.items()}
        assert removable == {"data": False, "models": True, "reports": False}
        assert entries[left.relative_to(root)].freed == 7
        assert used.exists()
        assert other.exists()
        assert not left.exists()
