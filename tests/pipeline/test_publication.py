"""Fingerprints of runs, and the publication of results as outs of the pipeline."""

import hashlib
from pathlib import Path

import pytest

from edm2.params import UserError
from edm2.pipeline.publication import fingerprint, is_complete, publish
from edm2.runtime.checkpoint import stage
from edm2.runtime.manifest import write_manifest
from edm2.runtime.state import open_state


def files(folder: Path, **contents: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder


def test_the_fingerprint_does_not_depend_on_the_order_of_params(root: Path) -> None:
    inputs = [files(Path("code"), a="1", b="2"), files(Path("c"), d="3") / "d"]
    first = fingerprint({"seed": 0, "vae": {"lr": 0.1, "batch": 8}}, inputs)
    assert first == fingerprint({"vae": {"batch": 8, "lr": 0.1}, "seed": 0}, inputs)


def test_the_fingerprint_depends_on_params(root: Path) -> None:
    values = [{"lr": 0.1}, {"lr": 0.2}, {"lr": None}, {"lr": 0.1, "seed": 0}, {}]
    assert len({fingerprint(value, []) for value in values}) == len(values)


def test_the_fingerprint_depends_on_code(root: Path) -> None:
    code = files(Path("code"), a="1", b="2")
    fingerprints = [fingerprint({}, [code])]
    files(code / "inner", deep="1")
    fingerprints.append(fingerprint({}, [code]))
    files(code, a="3")
    fingerprints.append(fingerprint({}, [code]))
    (code / "b").rename(code / "bb")
    fingerprints.append(fingerprint({}, [code]))
    assert len(set(fingerprints)) == 4
    files(code, **{"a.cpython-311.pyc": "compiled"})
    assert fingerprint({}, [code]) == fingerprints[-1]


def test_the_fingerprint_depends_on_the_end_of_each_file(root: Path) -> None:
    code = files(Path("code"), a="1", b="2")
    two_files = fingerprint({}, [code])
    (code / "b").unlink()
    files(code, a="1code/b2")
    assert fingerprint({}, [code]) != two_files


def test_the_fingerprint_of_results_is_that_of_their_manifest(root: Path) -> None:
    folder = files(Path("images"), shard="1")
    write_manifest(folder)
    before = fingerprint({}, [folder])
    files(folder, shard="2")
    assert fingerprint({}, [folder]) == before  # data are not read
    write_manifest(folder)
    assert fingerprint({}, [folder]) != before


def test_a_missing_input_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="data/images"):
        fingerprint({}, [Path("data/images")])


def test_publication_links_results_and_completes_the_run(root: Path) -> None:
    with open_state("s", "f") as state:
        (state.results / "models").mkdir()
        files(state.results / "models" / "vae", weights="w")
        files(state.results, table="t")
        state.save(1, stage({"nimg": 1}))
        assert not is_complete(state)
        publish(state, [Path("models/vae"), Path("table")])
        assert (root / "models/vae/weights").read_text() == "w"
        assert (root / "table").read_text() == "t"
        assert not list(state.folder.glob("checkpoint-*"))
    with open_state("s", "f") as state:
        assert is_complete(state)


@pytest.mark.parametrize("content", ["12", None], ids=["truncated", "missing"])
def test_a_run_with_truncated_or_missing_results_starts_again(root: Path, capsys, content) -> None:
    with open_state("s", "f") as state:
        path = files(state.results, table="123", other="1") / "table"
        publish(state, [])
        path.unlink()
        if content:
            path.write_text(content)
        assert not is_complete(state)
        assert str(path) in capsys.readouterr().err
        assert list(state.results.iterdir()) == []
        assert not is_complete(state)


def test_publication_reads_no_result_that_a_manifest_lists(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, digest = [], hashlib.file_digest

    def listing(file, *args):
        read.append(Path(file.name).name)
        return digest(file, *args)

    with open_state("s", "f") as state:
        write_manifest(files(state.results / "models", weights="w"))
        files(state.results, table="t")
        monkeypatch.setattr(hashlib, "file_digest", listing)
        publish(state, [Path("models"), Path("table")])
    assert read == ["table"]


def test_complete_results_can_be_published_again(root: Path) -> None:
    with open_state("s", "f") as state:
        files(state.results, table="t")
        publish(state, [Path("table")])
        Path("table").unlink()  # as DVC does before a stage runs
        publish(state, [Path("table")])
    assert Path("table").read_text() == "t"


def test_a_flipped_bit_in_a_listed_result_makes_the_stage_run_again(root: Path) -> None:
    """Its out is a hard link to the same damaged file: publishing it again would not help."""
    with open_state("s", "f") as state:
        out = files(state.results, weights="1234").joinpath("weights")
        write_manifest(state.results)
        publish(state, [Path("weights")])
        out.write_text("1235")
        assert not is_complete(state)
        assert not out.exists()


@pytest.mark.parametrize("name", ["reports/fid.csv", "models/vae/manifest.json"])
def test_a_changed_table_or_manifest_makes_the_stage_run_again(root: Path, capsys, name) -> None:
    """DVC would otherwise take what is published again as the stage's result."""
    with open_state("s", "f") as state:
        for folder in ("reports", "models/vae"):
            (state.results / folder).mkdir(parents=True)
        files(state.results / "reports", **{"fid.csv": "fid\n1.25\n"})
        write_manifest(state.results / "models/vae", scale=1.25)
        publish(state, [Path("reports"), Path("models/vae")])
        assert is_complete(state)
        with Path(name).open("r+b") as file:  # a hard link
            position = file.read().index(b"1.25")
            file.seek(position)
            file.write(b"9")
        assert not is_complete(state)
        assert Path(name).name in capsys.readouterr().err
        assert not list(state.results.iterdir())
