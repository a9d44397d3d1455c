"""Latents without images: what is read, refused and imported."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_files import labels_file, latent, members, name, npy, pack, unpack

from edm2.data.latent_import import import_shards, require_shape
from edm2.data.latents import LatentShards, latent_metadata
from edm2.data.prepared import has_images, list_images, open_images, open_latents
from edm2.data.sources import FileSource, FolderImages, LabeledFolderImages, ZipImages, open_source
from edm2.data.sources.latents import DamagedLatentError, LatentSource
from edm2.params import UserError
from edm2.params.dataset import Dataset
from edm2.runtime.distributed import Ranks
from edm2.runtime.manifest import write_manifest

LABELS = [1, 0, 2, 0, 1, 2, 0, 1, 1, 0]
SHAPE = (2, 4, 4)


@pytest.fixture
def of(dataset: Dataset):
    """of(path): the params of a source of latents; shards have four."""
    return lambda path: dataset.model_copy(
        update={"source": "latents", "path": str(path), "held_out": None, "resolution": 4}
    )


def listed(params: Dataset, folder: Path):
    write_manifest(folder, **list_images(open_source(params), folder, params, seed=0))
    return open_latents(folder)


def imported(params: Dataset, folder: Path, dtype=torch.float32, workers=0) -> LatentShards:
    latents = listed(params, folder / "images")
    out = folder / "latents"
    assert import_shards(latents, out, SHAPE, dtype, workers) == []
    write_manifest(out, classes=latents.source.classes, **latent_metadata(out, dtype=dtype))
    return LatentShards(out, "train")


def error_of(params: Dataset) -> str:
    with pytest.raises(UserError) as error:
        open_source(params)
    return str(error.value)


@pytest.mark.parametrize("write", [pack, unpack])
def test_latents_and_labels_are_those_of_the_files(tmp_path: Path, of, write) -> None:
    """All of them, each once, in a random order; to the bit in 32 bits."""
    shards = imported(of(write(tmp_path / "latents-of", members(LABELS))), tmp_path)
    assert shards.classes == ["0", "1", "2"]
    mean, std, labels = shards.batch(range(len(LABELS)))
    expected = torch.stack([torch.from_numpy(latent(k)) for k in range(len(LABELS))])
    order = [int((expected[:, :2] == m).flatten(1).all(1).nonzero()) for m in mean]
    assert sorted(order) == list(range(10)) != order
    assert torch.equal(std, expected[order, 2:])
    assert labels.tolist() == [LABELS[k] for k in order]


def test_16_bits_are_rounded_once(tmp_path: Path, of) -> None:
    params = of(pack(tmp_path / "x.zip", members(LABELS)))
    exact = imported(params, tmp_path / "a").batch(range(10))
    rounded = imported(params, tmp_path / "b", torch.float16).batch(range(10))
    assert torch.equal(rounded[0], exact[0].half())
    assert torch.equal(rounded[1], exact[1].half())


def test_moments_are_those_of_the_stored_latents(tmp_path: Path, of) -> None:
    params = of(pack(tmp_path / "x.zip", members(LABELS)))
    shards = imported(params, tmp_path, torch.float16)
    mean, std, _ = (x.double().numpy() for x in shards.batch(range(10)))
    np.testing.assert_allclose(shards.normalization.mean, mean.mean((0, 2, 3)), rtol=1e-5)
    total = np.sqrt((std**2).mean((0, 2, 3)) + mean.var((0, 2, 3)))
    np.testing.assert_allclose(shards.normalization.std, total, rtol=1e-5)


def test_workers_ranks_and_interruptions_change_no_byte(tmp_path, of, monkeypatch) -> None:
    params = of(pack(tmp_path / "x.zip", members(LABELS)))
    latents = listed(params, tmp_path / "images")

    def run(folder: str, workers: int = 0) -> dict[str, bytes]:
        import_shards(latents, tmp_path / folder, SHAPE, torch.float16, workers)
        return {p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()}

    whole = run("one")
    assert sorted(n for n in whole if n.endswith(".tar")) == [f"train-00000{k}.tar" for k in "012"]
    assert run("two", workers=2) == whole
    for rank in (0, 1):
        monkeypatch.setattr("edm2.data.preparation.ranks", lambda rank=rank: Ranks(rank, 2, rank))
        both = run("ranks")
    assert both == whole
    monkeypatch.undo()
    kept = tmp_path / "one/train-000000.tar"
    (tmp_path / "one/train-000001.tar").unlink()
    before = kept.stat().st_mtime_ns
    assert run("one") == whole
    assert kept.stat().st_mtime_ns == before


def bad(change) -> bytes:
    values = latent(0)
    return npy(change(values))


def with_value(index, value):
    def change(values):
        values[index] = value
        return values

    return change


DAMAGED = {
    "pixels": (b"\x89PNG" + bytes(50), "magic string"),
    "empty": (b"", "cannot be read"),
    "cut short": (npy(latent(0))[:-4], "252 bytes"),
    "too long": (npy(latent(0)) + b"x", "257 bytes"),
    "enormous": (npy(latent(0)).replace(b"(4, 4, 4)", b"(999999,)"), "expected 3999996"),
    "float64": (bad(np.float64), "float64, expected float32"),
    "integers": (bad(lambda v: v.astype(np.int32)), "int32, expected float32"),
    "objects": (npy(np.array([None])), "object, expected float32"),
    "one side": (bad(lambda v: v[:, :3].copy()), r"shape \[4, 3, 4\], expected \[4, 4, 4\]"),
    "no std": (bad(lambda v: v[:2].copy()), r"shape \[2, 4, 4\]"),
    "nan": (bad(with_value((0, 1, 1), np.nan)), "1 of 64 values are not finite"),
    "infinite std": (bad(with_value((3, 0, 0), np.inf)), "1 of 64"),
    "negative std": (bad(with_value((2, 0, 0), -0.5)), r"negative standard deviations \(-0.5\)"),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("write", [pack, unpack])
def test_a_damaged_latent_is_named_with_its_reason(tmp_path: Path, of, write, kind: str) -> None:
    content, reason = DAMAGED[kind]
    files = {**members(LABELS), name(3): content}
    source = open_source(of(write(tmp_path / "latents", files)))
    with pytest.raises(DamagedLatentError, match=rf"img-mean-std-00000003.npy: .*{reason}"):
        source.latent(3, SHAPE)
    assert source.latent(4, SHAPE).shape == (2, *SHAPE)


def test_arrays_in_the_order_of_columns_are_read(tmp_path: Path, of) -> None:
    files = {**members(LABELS), name(3): npy(np.asfortranarray(latent(3)))}
    source = open_source(of(pack(tmp_path / "x.zip", files)))
    assert np.array_equal(source.latent(3, SHAPE).reshape(4, 4, 4), latent(3))


def test_all_damaged_latents_are_listed_and_their_shards_are_not_written(tmp_path, of) -> None:
    """Flipped bytes in the archive, which its checksums find; and values too large for 16 bits."""
    files = {**members(LABELS), name(1): bad(with_value((0, 0, 0), 7e4))}
    path = pack(tmp_path / "x.zip", files)
    content = bytearray(path.read_bytes())
    content[content.index(latent(5).tobytes()) + 100] ^= 1
    path.write_bytes(content)
    latents = listed(of(path), tmp_path / "images")
    messages = import_shards(latents, tmp_path / "out", SHAPE, torch.float16, 0)
    assert len(messages) == 2
    large, flipped = sorted(messages)
    assert f"{path}: {name(1)}: has numbers up to 70000" in large
    assert "latents.dtype" in large
    assert f"{path}: {name(5)}: " in flipped
    places = [int(np.flatnonzero(latents.indices == k)[0]) // 4 for k in (1, 5)]
    written = {int(p.stem[-6:]) for p in (tmp_path / "out").glob("*.tar")}
    assert written == {0, 1, 2} - set(places)
    messages = import_shards(latents, tmp_path / "out", SHAPE, torch.float32, 0)
    assert [flipped] == messages


@pytest.mark.parametrize("write", [pack, unpack])
def test_images_given_as_latents_are_refused(tmp_path: Path, of, write) -> None:
    images = {f"00000/img{k:08d}.png": b"x" for k in range(3)}
    message = error_of(of(write(tmp_path / "a", {**images, "dataset.json": labels_file(LABELS)})))
    assert "contains no latents, and 3 images" in message
    assert "set dataset.source to folder or zip" in message
    assert "label" not in message
    mixed = error_of(of(write(tmp_path / "b", {**images, **members(LABELS)})))
    assert "contains 10 latents together with 3 images" in mixed


@pytest.mark.parametrize(
    ("write", "scan"),
    [(pack, ZipImages), (unpack, LabeledFolderImages), (unpack, FolderImages)],
)
def test_latents_given_as_images_are_refused(tmp_path: Path, write, scan) -> None:
    path = write(tmp_path / "x", members(LABELS))
    with pytest.raises(UserError) as error:
        FileSource(scan(path), 8, "lanczos")
    assert "contains no images, and 10 latents" in str(error.value)
    assert "set dataset.source to latents" in str(error.value)
    assert "label without" not in str(error.value)


def test_labels_are_checked_as_those_of_images(tmp_path: Path, of) -> None:
    files = members(LABELS)
    lacking = {**files, "dataset.json": labels_file(LABELS[:-1])}
    assert f"without a label: {name(9)}" in error_of(of(pack(tmp_path / "a.zip", lacking)))
    del files[name(2)]
    assert f"label without a latent: {name(2)}" in error_of(of(pack(tmp_path / "b.zip", files)))
    gaps = {**members(LABELS), "dataset.json": labels_file([0, 2] * 5)}
    assert "at least one latent" in error_of(of(pack(tmp_path / "c.zip", gaps)))
    del files["dataset.json"]
    for write in (pack, unpack):
        assert "dataset.json" in error_of(of(write(tmp_path / write.__name__, files)))


def test_null_labels_are_one_class_which_is_said(tmp_path: Path, of) -> None:
    files = {**members(LABELS), "dataset.json": labels_file(None)}
    source = open_source(of(pack(tmp_path / "x.zip", files)))
    assert source.labels.tolist() == [0] * 10
    assert "one class" in "".join(source.doubtful.lines())


def test_another_shape_is_refused_with_the_params_that_set_it(tmp_path: Path, of) -> None:
    """Damaged latents have no shape."""
    files = {**members(LABELS), name(0): b"x"}
    params = of(pack(tmp_path / "x.zip", files))
    source = open_source(params)
    require_shape(source, params, SHAPE, "codec.kind rgb")
    with pytest.raises(UserError) as error:
        require_shape(source, params, (3, 4, 4), "codec.kind rgb")
    for words in ("[4, 4, 4]", "[6, 4, 4]", "codec.kind rgb", "dataset.resolution"):
        assert words in str(error.value)


def test_what_was_listed_has_no_images_and_must_not_change(tmp_path: Path, of) -> None:
    path = pack(tmp_path / "x.zip", members(LABELS))
    latents = listed(of(path), tmp_path / "images")
    assert len(pickle.loads(pickle.dumps(latents)).indices) == 10
    manifest = json.loads((tmp_path / "images/manifest.json").read_text())
    assert (manifest["images"], manifest["images_per_class"]["train"]) == (
        {"train": 10, "held_out": 0},
        [4, 4, 2],
    )
    assert not has_images(tmp_path / "images")
    with pytest.raises(UserError, match="has no images: dataset.source latents"):
        open_images(tmp_path / "images", "train")
    pack(path, members([*LABELS, 0]))
    with pytest.raises(UserError, match="latents were added, removed or changed"):
        open_latents(tmp_path / "images")


def test_class_names_are_those_of_a_file(tmp_path: Path, of) -> None:
    (tmp_path / "names.txt").write_text("tench\nshark\nray\n")
    params = of(pack(tmp_path / "x.zip", members(LABELS)))
    params = params.model_copy(update={"classes": str(tmp_path / "names.txt")})
    source = open_source(params)
    assert isinstance(source, LatentSource)
    assert source.classes == ["tench", "shark", "ray"]
