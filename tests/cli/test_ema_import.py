"""`edm2 ema import`, and averages of published networks without a project."""

import json

import pytest
import torch
from published_pickles import write_published
from safetensors.torch import load_file

from edm2.diffusion import build_denoiser
from edm2.diffusion.names import published_name
from edm2.ema import SnapshotStore, reconstruct, solve_weights
from edm2.pipeline.portable import read_portable
from edm2.runtime.manifest import read_verified
from edm2.runtime.verification import damaged_files

LENGTHS = (0.05, 0.1)


@pytest.fixture
def checkpoints(tmp_path):
    """Averages in folders of a training, of which each file has the network itself, too."""
    torch.manual_seed(0)
    for step in (10, 20, 30):
        for length in LENGTHS:
            path = tmp_path / f"runs/checkpoint-{step}/ema-{length}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            weights = {"w": torch.randn(3, 2), "count": torch.tensor(step)}
            torch.save({"model": weights, "ema": {"state": weights}, "step": step}, path)
    (tmp_path / "runs/log.txt").touch()
    return tmp_path / "runs"


def test_averages_of_a_training_elsewhere_become_a_store(checkpoints, tmp_path, run):
    store, out = tmp_path / "store", tmp_path / "out"
    result = run(
        *("ema", "import", checkpoints, "--out", store, "--key", "ema.state"),
        *("--pattern", "checkpoint-{step}/ema-{length}.pt", "--batch", 8),
    )
    assert result.status == 0
    assert result.err == "note: files in these folders, left out by their names: 1\n"
    assert "6 power averages up to 240" in result.out
    assert "Tensors averaged: 1, copied from the last snapshot: 1." in result.out
    assert run("ema", "verify", store).status == 0
    options = ("--lengths", "0.08", "--dtype", "float32", "--out", out)
    assert run("ema", "reconstruct", store, *options).status in (0, 1)
    times = [80, 80, 160, 160, 240, 240]
    weights = solve_weights(times, LENGTHS * 3, [240], [0.08])[:, 0]
    networks = [
        torch.load(checkpoints / f"checkpoint-{step}/ema-{length}.pt")["ema"]["state"]["w"]
        for step in (10, 20, 30)
        for length in LENGTHS
    ]
    expected = sum(weight * w.double() for weight, w in zip(weights, networks, strict=True))
    tensors = load_file(out / "000000000240-ema_length-0.08.safetensors")
    torch.testing.assert_close(tensors["w"].double(), expected, rtol=1e-5, atol=1e-5)
    assert tensors["count"] == 30
    assert not (out / "config.json").exists()


def test_a_single_file_and_averages_by_index(checkpoints, tmp_path, run):
    store = tmp_path / "store"
    options = ("--out", store, "--key", "ema", "--drop", "count")
    file = checkpoints / "checkpoint-10/ema-0.05.pt"
    assert run("ema", "import", file, "--nimg", 7, "--gammas", "16.97", *options).status == 0
    (snapshot,) = SnapshotStore(store).snapshots
    assert (snapshot.nimg, round(snapshot.sigma_rel, 3)) == (7, 0.05)
    pattern = ("--pattern", "checkpoint-{step}/ema-0.0{index}.pt", "--decays", "0.1,0.2")
    assert run("ema", "import", checkpoints, *pattern, *options).status == 2  # index 5 of 2
    pattern = ("--pattern", "checkpoint-{step}/ema-0.05.pt", "--decays", "0.999")
    result = run("ema", "import", checkpoints, *pattern, *options)
    assert (result.status, result.out) == (2, "")
    assert all(f"checkpoint-{step}/ema-0.05.pt: an average" in result.err for step in (10, 20, 30))
    pattern = ("--pattern", "checkpoint-{step}/ema-*.pt", "--decays", "0.1")
    result = run("ema", "import", checkpoints, *pattern, *options)
    assert (result.status, result.out) == (2, "")
    assert "the same average" in result.err
    pattern = ("--pattern", "checkpoint-{step}/ema-0.05.pt", "--decays", "0.1")
    assert run("ema", "import", checkpoints, *pattern, *options).status == 0
    assert {s.average for s in SnapshotStore(store).snapshots} == {"power", "traditional"}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ([], "--pattern"),
        (["--pattern", "checkpoint-{step}/ema-{length}.pt"], "--key"),
        (["--pattern", "checkpoint-{step}/ema-{length}.pt", "--nimg", "3"], "--nimg"),
        (["--pattern", "{x}"], "{x}"),
        (["--pattern", "checkpoint-{step}/*", "--lengths", "a"], "--lengths"),
        (["--pattern", "*{step}/*", "--lengths", "0.1", "--gammas", "3"], "--gammas"),
        (["--pattern", "*{step}/*", "--gammas", "-3"], "--gammas"),
    ],
)
def test_wrong_options_are_named(checkpoints, tmp_path, run, options, part):
    result = run("ema", "import", checkpoints, "--out", tmp_path / "store", *options)
    assert (result.status, result.out) == (2, "")
    assert part in result.err
    assert not (tmp_path / "store").exists()


def narrow(seed, classes=3):
    torch.manual_seed(seed)
    denoiser = build_denoiser("G", channels=8, num_classes=classes)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_()
    return denoiser


@pytest.fixture(scope="module")
def pickles(tmp_path_factory):
    """Pickles like the authors' of one network, and the raw networks in them, by file."""
    folder, networks = tmp_path_factory.mktemp("pickles"), []
    for seed, (time, length) in enumerate((t, x) for t in (1048, 2097) for x in LENGTHS):
        denoiser = narrow(seed)
        tensors = {published_name(n): t.half() for n, t in denoiser.state_dict().items()}
        write_published(folder / f"edm2-img512-s-{time:07d}-{length:.3f}.pkl", tensors)
        networks.append(denoiser.unet.state_dict())
    return folder, networks


def reconstruct_from(run, source, out, *options):
    lengths = ("--lengths", "0.05,0.08", "--out", out, "--dtype", "float32")
    return run("ema", "reconstruct", "--from", source, *lengths, *options)


def test_averages_of_published_networks_need_no_project(pickles, tmp_path, run):
    """They are sums of the networks, can be sampled from, and are made of pickles that are read once."""
    folder, networks = pickles
    out = tmp_path / "out"
    assert reconstruct_from(run, folder, out).status in (0, 1)
    times = [2**20, 2**20, 2**21, 2**21]
    weights = solve_weights(times, LENGTHS * 2, [2**21], [0.08])[:, 0]
    name = f"{2**21:012d}-ema_length-0.08.safetensors"
    tensors = load_file(out / name)
    for key in ("out_gain", "enc.64x64-conv.weight", "map.label.weight"):
        expected = sum(w * n[key].half().double() for w, n in zip(weights, networks, strict=True))
        torch.testing.assert_close(tensors[key].double(), expected, rtol=1e-4, atol=1e-4)
    network = read_portable(out / name)
    assert (network.codec.kind, network.classes) == ("stable_diffusion", ["0", "1", "2"])
    assert network.denoiser.head is None
    assert torch.equal(network.denoiser.unet.state_dict()["out_gain"], tensors["out_gain"])
    assert damaged_files([out]) == []
    read_verified(out / "snapshots")
    before = {path: path.stat().st_mtime_ns for path in (out / "snapshots").glob("ema-*")}
    run("ema", "reconstruct", "--from", folder, "--lengths", "0.07", "--out", out)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_an_imported_store_hands_on_its_description(pickles, tmp_path, run):
    file = pickles[0] / "edm2-img512-s-0002097-0.100.pkl"
    store, out = tmp_path / "store", tmp_path / "out"
    assert run("ema", "import", file, "--out", store).status == 0
    assert run("ema", "reconstruct", store, "--lengths", "0.1", "--out", out).status == 0
    assert (out / "config.json").read_bytes() == (store / "config.json").read_bytes()
    source = json.loads((out / "config.json").read_text())["provenance"]["file"]
    assert source == "averages of edm2-img512-s"
    ((_, expected),) = reconstruct(SnapshotStore(store), [0.1])
    (name,) = (path for path in out.iterdir() if path.suffix == ".safetensors")
    assert torch.equal(load_file(name)["out_gain"], expected["out_gain"].half())
    (out / "config.json").write_text("{}")
    result = run("ema", "reconstruct", store, "--lengths", "0.08", "--out", out)
    assert (result.status, result.out) == (2, "")
    assert f"{out / 'config.json'}: describes other networks" in result.err


def test_pickles_of_several_networks_are_refused(pickles, tmp_path, run):
    """By their names, before anything is read; a pattern chooses those of one."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in pickles[0].iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "edm2-img512-xs-uncond-2147483-0.045.pkl").write_bytes(b"not read")
    result = reconstruct_from(run, folder, tmp_path / "out")
    assert (result.status, result.out) == (2, "")
    assert "edm2-img512-s (4), edm2-img512-xs-uncond (1)" in result.err
    assert not (tmp_path / "out").exists()
    pattern = f"{folder}/edm2-img512-s-0002097-0.050.pkl"
    assert reconstruct_from(run, pattern, tmp_path / "out").status in (0, 1)


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ([], "edm2 ema import"),
        (["network.pkl"], r"network.pkl: expected a name"),
        (["s-0000001-0.100.pkl"], "s-0000001-0.100.pkl: cannot be read"),
        (["s-0000000-0.100.pkl"], "time 0"),
    ],
)
def test_folders_without_usable_pickles_are_refused(tmp_path, run, files, part):
    (tmp_path / "pickles").mkdir()
    for name in files:
        (tmp_path / "pickles" / name).write_bytes(b"damaged")
    result = reconstruct_from(run, tmp_path / "pickles", tmp_path / "out")
    assert (result.status, result.out) == (2, "")
    assert part in result.err


def test_other_networks_of_the_same_name_are_refused(pickles, tmp_path, run):
    tensors = {published_name(n): t.half() for n, t in narrow(0, classes=2).state_dict().items()}
    path = write_published(tmp_path / "edm2-img512-s-0004194-0.100.pkl", tensors)
    result = run("ema", "import", pickles[0], path, "--out", tmp_path / "store")
    assert (result.status, result.out) == (2, "")
    assert f"{path}: tensor map.label.weight" in result.err


def test_either_a_store_or_pickles_are_expected(tmp_path, run):
    options = ("--lengths", "0.1", "--out", tmp_path / "out")
    for source in ((), (tmp_path, "--from", tmp_path)):
        result = run("ema", "reconstruct", *source, *options)
        assert (result.status, result.out) == (2, "")
        assert "--from" in result.err
    result = run("ema", "import", tmp_path, "--out", tmp_path, "--key", "ema")
    assert result.status == 2


def test_options_of_checkpoints_have_no_effect_on_pickles(pickles, tmp_path, run):
    result = run("ema", "import", pickles[0], "--out", tmp_path / "out", "--update-every", 2)
    assert (result.status, result.out) == (2, "")
    assert "--update-every" in result.err
