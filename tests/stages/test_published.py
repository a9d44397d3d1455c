"""Networks of EDM2's authors instead of a training: pickles like theirs, of a narrow network."""

import pandas as pd
import pytest
import torch
from page_text import page_text
from published_pickles import write_published
from safetensors.torch import load_file
from tiny import TINY, run_stage, write_params

from edm2.diffusion import build_denoiser
from edm2.diffusion.names import published_name
from edm2.ema import SnapshotStore, reconstruct
from edm2.params import UserError, load
from edm2.pipeline.published import import_published, time_in_images
from edm2.runtime.manifest import read_manifest
from stages.snapshot_emas import external_inputs

pytestmark = pytest.mark.slow
LENGTHS = (0.05, 0.1)


def narrow(seed, channels=8):
    """A random denoiser of config G, and its tensors in 16 bits under their published names."""
    torch.manual_seed(seed)
    denoiser = build_denoiser("G", channels=channels, num_classes=3)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.normal_()
    return denoiser, {published_name(n): t.half() for n, t in denoiser.state_dict().items()}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of two pickles, and the raw networks in them, by EMA length."""
    folder, networks = tmp_path_factory.mktemp("pickles"), {}
    for seed, length in enumerate(LENGTHS):
        denoiser, tensors = narrow(seed)
        write_published(folder / f"edm2-img512-s-0000064-{length:.3f}.pkl", tensors)
        networks[length] = denoiser.unet.state_dict()
    return folder, networks


@pytest.fixture
def diffusion(tmp_path):
    return load(write_params(tmp_path / "params.yaml", TINY)).diffusion


def assert_network(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            tensors[name].float(), tensor.half().float(), rtol=1e-5, atol=1e-5
        )


def test_a_stored_length_gives_the_published_network_under_our_names(
    published, diffusion, tmp_path
):
    folder, networks = published
    import_published(sorted(folder.iterdir()), tmp_path / "store", diffusion)
    store = SnapshotStore(tmp_path / "store")
    assert [(s.nimg, s.sigma_rel, s.average) for s in store.snapshots] == [
        (64_000, length, "power") for length in LENGTHS
    ]
    parameters = dict(build_denoiser("G", channels=8, num_classes=3).unet.named_parameters())
    assert set(store.parameters) == set(parameters)
    for average, tensors in reconstruct(store, LENGTHS):
        network = networks[average.sigma_rel]
        expected = {name: tensor for name, tensor in network.items() if name in parameters}
        assert_network({name: tensors[name] for name in expected}, expected)
        assert tensors.keys() == network.keys()
        assert average.error < 1e-6


@pytest.mark.parametrize(
    ("thousands", "nimg"),
    [
        (2147483, 2**31),
        (1073741, 2**30),
        (939524, 896 * 2**20),  # size XXL
        (64, 64_000),  # no multiple of 2²⁰
        (0, 0),
    ],
)
def test_times_of_names_are_restored_to_the_image(thousands, nimg):
    assert time_in_images(thousands) == nimg


def test_networks_of_time_0_are_skipped_and_named(published, diffusion, tmp_path, capsys):
    start = tmp_path / "edm2-img512-s-0000000-0.050.pkl"
    start.touch()
    import_published([start, *sorted(published[0].iterdir())], tmp_path / "store", diffusion)
    assert start.name in capsys.readouterr().out
    assert {s.nimg for s in SnapshotStore(tmp_path / "store").snapshots} == {64_000}


def assert_refused(paths, tmp_path, diffusion, message):
    with pytest.raises(UserError, match=message):
        import_published(paths, tmp_path / "store", diffusion)


def test_a_folder_without_pickles_is_refused(tmp_path, diffusion):
    assert_refused([], tmp_path, diffusion, r"ema.path.*: .*\*\.pkl")


@pytest.mark.parametrize(
    "name", ["network.pkl", "edm2-img512-s-2147483.pkl", "edm2-img512-s-0.130.pkl", "s-12-1.3.pkl"]
)
def test_a_file_name_without_time_and_length_is_refused(tmp_path, diffusion, name):
    assert_refused([tmp_path / name], tmp_path, diffusion, name)


def test_networks_of_another_width_are_refused(published, tmp_path, diffusion):
    paths = sorted(published[0].iterdir())
    wider = diffusion.model_copy(update={"channels": 12})
    assert_refused(paths, tmp_path, wider, r"0\.050\.pkl.* 8 channels.* 12")
    sized = diffusion.model_copy(update={"channels": None, "size": "XS"})
    assert_refused(paths, tmp_path, sized, r" 8 channels.* 128")


def test_networks_with_other_constants_are_refused(tmp_path, diffusion):
    path = tmp_path / "edm2-img512-s-0000064-0.200.pkl"
    write_published(path, narrow(2)[1], sigma_data=1.0)
    assert_refused([path], tmp_path, diffusion, f"{path}: argument sigma_data is 1.0, expected 0.5")


def test_networks_of_different_shapes_are_refused(published, tmp_path, diffusion):
    """Here, of different numbers of classes."""
    _, tensors = narrow(2)
    tensors["unet.emb_label.weight"] = tensors["unet.emb_label.weight"][:, :2]
    other = write_published(tmp_path / "edm2-img512-s-0000064-0.200.pkl", tensors)
    assert_refused(
        [*sorted(published[0].iterdir()), other],
        tmp_path,
        diffusion,
        r"ema-0\.2-.*tensor map\.label\.weight",
    )


def test_a_damaged_pickle_is_named(published, tmp_path, diffusion):
    original = sorted(published[0].iterdir())[0]
    truncated = tmp_path / original.name
    truncated.write_bytes(original.read_bytes()[:-1000])
    assert_refused([truncated], tmp_path, diffusion, str(truncated))


def test_stages_up_to_the_sweep_take_published_networks(project, published, capsys):
    """Nothing is trained, and the report says so. The other stages were run before."""
    source, networks = published
    project_folder = project(ema__source="published", ema__path=str(source))
    for stage in ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema"):
        run_stage(stage, "G")
    assert "config G is not trained here" in capsys.readouterr().out
    models = project_folder / "models"
    assert list(read_manifest(models / "diffusion/G-0")["files"]) == []
    assert pd.read_csv(project_folder / "reports/training/G-0.csv").empty
    store = read_manifest(models / "ema/G-0")
    assert len(store["snapshots"]) == len(store["files"]) == len(LENGTHS)
    swept = {n["ema_length"]: n for n in read_manifest(models / "sweep/G-0")["networks"]}
    assert list(swept) == TINY["sweep.ema_lengths"]
    written = load_file(models / "sweep/G-0" / swept[0.1]["file"])
    for name in (name for name in written if name.endswith("weight")):
        torch.testing.assert_close(written[name].float(), networks[0.1][name], rtol=1e-3, atol=1e-3)
    run_stage("report")
    page = page_text((project_folder / "reports/index.html").read_text())
    assert "none was trained" in page
    assert "Training dynamics</h2>" not in page


def test_a_single_published_network_is_copied(project, tmp_path, capsys):
    (tmp_path / "one").mkdir()
    denoiser, tensors = narrow(3)
    write_published(tmp_path / "one/edm2-img512-s-0000064-0.130.pkl", tensors)
    folder = project(ema__source="published", ema__path=str(tmp_path / "one"))
    for stage in ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema"):
        run_stage(stage, "G")
    assert (
        "sweep.ema_lengths, sweep.tensors and sweep.search have no effect"
        in capsys.readouterr().out
    )
    (network,) = read_manifest(folder / "models/sweep/G-0")["networks"]
    assert (network["ema_length"], network["nimg"]) == (0.13, 64_000)
    written = load_file(folder / "models/sweep/G-0" / network["file"])
    expected = denoiser.unet.state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name].half()) for name, tensor in written.items())


def test_external_inputs_change_with_the_pickles(published, tmp_path, monkeypatch):
    """With their names and sizes; a training in this project has none."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "pickles").mkdir()
    changes = {**TINY, "ema.source": "published", "ema.path": "pickles"}
    params = load(write_params(tmp_path / "params.yaml", changes))
    inputs = [external_inputs(params)]
    for name, size in (("a.pkl", 3), ("b.pkl", 4), ("a.pkl", 5)):
        (tmp_path / "pickles" / name).write_bytes(b"x" * size)
        inputs.append(external_inputs(params))
    assert len(set(inputs)) == 4
    (tmp_path / "pickles/notes.txt").touch()
    assert external_inputs(params) == inputs[-1]
    assert external_inputs(load(write_params(tmp_path / "params.yaml", TINY))) == ""
