"""`edm2 verify`: checksums of all results."""

import pytest

from edm2.cli.verify import FOLDERS
from edm2.runtime.checksums import write_checksum
from edm2.runtime.manifest import write_manifest


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def remove(path):
    path.unlink()


@pytest.fixture
def results(empty_project):
    """A project with two folders of results, entered."""
    folder = empty_project({})
    for name, files in {
        "data/images": ("train.tar", "held_out.tar"),
        "models/vae": ("vae.safetensors", "parts/more.bin"),
    }.items():
        for file in files:
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content of {file}")
        write_manifest(folder / name)
    return folder


def test_undamaged_results_give_status_0(results, run):
    result = run("verify")
    assert (result.status, result.err) == (0, "")
    assert "2 folders of results" in result.out
    assert "0 damaged" in result.out


def test_the_results_of_a_whole_pipeline_are_undamaged(project, run):
    folder = project()
    result = run("verify")
    assert result.status == 0, result.out
    found = {
        pattern: len([path for top in FOLDERS for path in (folder / top).rglob(pattern)])
        for pattern in ("manifest.json", "*.sha256")
    }
    assert found["manifest.json"] > 5
    assert (
        f"{found['manifest.json']} folders of results and {found['*.sha256']} tables" in result.out
    )
    read_by_report = ["fid/G-0.csv", "training/G-0.csv", "vae/curves.csv", "baselines/metrics.json"]
    assert all((folder / f"reports/{name}.sha256").exists() for name in read_by_report)


def test_results_without_their_checksums_are_named(results, run):
    (results / "models/vae/manifest.json").unlink()
    for name in ("reports/fid/G-0.csv", "reports/index.html"):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("value\n")
    result = run("verify")
    lines = [line for line in result.out.splitlines() if line.startswith(str(results))]
    missing = ["models/vae/manifest.json", "reports/fid/G-0.csv.sha256"]
    assert [line.partition(": ")[0] for line in lines] == [f"{results}/{name}" for name in missing]
    assert "`edm2 doctor --fix` first" in result.out  # DVC would restore them as they are
    assert (result.status, run("verify", str(results / "data")).status) == (1, 0)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove])
@pytest.mark.parametrize("file", ["data/images/held_out.tar", "models/vae/parts/more.bin"])
def test_a_damaged_file_is_named(results, run, damage, file):
    damage(results / file)
    result = run("verify")
    assert result.status == 1
    (named,) = (line for line in result.out.splitlines() if line.startswith(str(results)))
    assert named.startswith(f"{results / file}: ")
    assert "1 damaged" in result.out


@pytest.mark.parametrize(
    ("damage", "file"), [(flip_a_bit, "G.csv"), (flip_a_bit, "G.csv.sha256"), (remove, "G.csv")]
)
def test_a_damaged_table_is_named(results, run, damage, file):
    folder = results / "reports/fid"
    folder.mkdir(parents=True)
    (folder / "G.csv").write_text("value\n1.5\n")
    write_checksum(folder / "G.csv")
    assert run("verify").status == 0
    damage(folder / file)
    result = run("verify")
    assert result.status == 1
    assert str(folder / "G.csv") in result.out


def test_all_damaged_files_are_named(results, run):
    flip_a_bit(results / "data/images/train.tar")
    truncate(results / "data/images/held_out.tar")
    remove(results / "models/vae/vae.safetensors")
    result = run("verify")
    assert result.status == 1
    for file in ("data/images/train.tar", "data/images/held_out.tar", "models/vae/vae.safetensors"):
        assert f"{results / file}: " in result.out
    assert "more.bin" not in result.out
    assert "3 damaged" in result.out


def test_a_damaged_manifest_is_named_along_with_other_damage(results, run):
    (results / "data/images/manifest.json").write_text("{")
    remove(results / "models/vae/vae.safetensors")
    result = run("verify")
    assert result.status == 1
    assert f"{results / 'data/images/manifest.json'}: " in result.out
    assert f"{results / 'models/vae/vae.safetensors'}: " in result.out
    assert "2 damaged" in result.out


def test_only_named_folders_are_read(results, run, monkeypatch):
    """Relative to the caller's folder."""
    truncate(results / "models/vae/vae.safetensors")
    monkeypatch.chdir(results / "data")
    assert run("verify", "images").status == 0
    assert run("verify", "../models/vae").status == 1
    assert run("verify").status == 1


def test_named_folders_need_no_project(results, run):
    (results / "dvc.yaml").unlink()
    assert run("verify", "models").status == 0
    assert run("verify").status == 2


def test_a_project_without_results_gives_status_2(empty_project, run):
    folder = empty_project({})
    result = run("verify")
    assert (result.status, result.out) == (2, "")
    names = ", ".join(str(folder / name) for name in FOLDERS)
    assert f"{names}: no results" in result.err
    (folder / "data").mkdir()
    assert run("verify", "data").status == 2


def test_a_folder_that_does_not_exist_is_named(results, run):
    result = run("verify", "data", "modles")
    assert (result.status, result.out) == (2, "")
    assert "'modles'" in result.err
