"""Images in shards such as those that img2dataset writes."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image

from edm2.data.cropping import crop_to_square
from edm2.data.web import WebImages
from edm2.params import UserError

RESOLUTION = 8


def encoded(width: int, height: int, color: tuple[int, int, int], kind: str, mode: str) -> bytes:
    """An image of one color, white outside its largest centered square."""
    side = min(width, height)
    image = Image.new("RGB", (width, height), "white")
    corner = (width - side) // 2, (height - side) // 2
    image.paste(Image.new("RGB", (side, side), color), corner)
    stream = io.BytesIO()
    options = {"quality": 100} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


# as in img2dataset, the key consists of the shard's number and the sample's number in the shard
IMAGES = [
    ("000000000", "jpg", encoded(40, 40, (200, 40, 40), "jpeg", "RGB"), (200, 40, 40)),
    ("000000003", "jpeg", encoded(24, 60, (40, 200, 40), "jpeg", "RGB"), (40, 200, 40)),
    ("000000004", "png", encoded(9, 5, (40, 40, 200), "png", "RGBA"), (40, 40, 200)),
    ("000010000", "webp", encoded(64, 30, (10, 200, 200), "webp", "RGB"), (10, 200, 200)),
    ("000010001", "jpg", encoded(33, 31, (90, 90, 90), "jpeg", "L"), (90, 90, 90)),
]


def sample(key: str, extension: str, content: bytes) -> dict[str, object]:
    metadata = json.dumps({"url": f"https://example.org/{key}.jpg", "status": "success"})
    return {"__key__": key, extension: content, "json": metadata.encode(), "txt": b"a caption"}


def write_tar(path: Path, samples: list[dict[str, object]]) -> Path:
    with wds.TarWriter(str(path), encoder=False) as writer:
        for entry in samples:
            writer.write(entry)
    return path


def add(path: Path, name: str, content: bytes) -> None:
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Two tars of three and two images."""
    samples = [sample(*image[:3]) for image in IMAGES]
    return [
        write_tar(tmp_path / "00000.tar", samples[:3]),
        write_tar(tmp_path / "00001.tar", samples[3:]),
    ]


def test_images_are_center_cropped_and_in_order(paths: list[Path]) -> None:
    images = WebImages(paths, RESOLUTION)
    assert (len(images), images.resolution) == (5, RESOLUTION)
    batches = list(images.batches(2))
    assert [len(batch) for batch, _ in batches] == [2, 2, 1]
    pixels = torch.cat([batch for batch, _ in batches])
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (5, 3, RESOLUTION, RESOLUTION))
    for image, (*_, color) in zip(pixels, IMAGES, strict=True):
        deviation = (image.float() - torch.tensor(color)[:, None, None]).abs()
        assert deviation[:, 1:-1, 1:-1].max() <= 6  # JPEG artifacts; white bleeds into the border
        assert deviation.mean() <= 6
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 5


def test_several_threads_read_the_same_images(paths: list[Path]) -> None:
    images = WebImages(paths, 64)
    order = [4, 0, 3, 3, 2, 1]
    pixels, _ = images.batch(order)
    assert torch.equal(pixels, torch.stack([images[i][0] for i in order]))


def test_only_images_are_indexed(paths: list[Path]) -> None:
    """By WebDataset's rule for extensions, in upper or lower case, in any folder."""
    content = IMAGES[0][2]
    for name in ("000000000.mask.png", "readme", "notes.txt", "._000000000.jpg", ".jpg"):
        add(paths[1], name, content)
    with tarfile.open(paths[1], "a") as tar:
        folder = tarfile.TarInfo("more.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert len(WebImages(paths, RESOLUTION)) == 5
    for name in ("a.JPG", "./b.Png", "deep.er/c.jpg", f"{'long' * 60}.webp"):
        add(paths[1], name, content)
    assert len(WebImages(paths, RESOLUTION)) == 9


def test_index_is_small(paths: list[Path]) -> None:
    """As documented: 23 bytes per file and 8 per sample, for images only."""
    files = WebImages(paths, RESOLUTION).files
    assert files.rows.nbytes == 23 * 5
    assert files.sample_starts.nbytes == 8 * 6


@pytest.mark.parametrize("size", [0, 20, 200])
def test_a_damaged_image_is_named_with_its_tar(tmp_path: Path, size: int) -> None:
    samples = [sample(*image[:3]) for image in IMAGES]
    samples[1]["jpeg"] = IMAGES[1][2][:size]
    path = write_tar(tmp_path / "00000.tar", samples)
    images = WebImages([path], RESOLUTION)
    images.batch([0, 2, 3, 4])
    with pytest.raises(UserError, match=f"{path}: 000000003.jpeg"):
        images.batch([0, 1])


def test_a_tar_without_images_is_named(tmp_path: Path, paths: list[Path]) -> None:
    empty = write_tar(tmp_path / "00002.tar", [{"__key__": "0", "txt": b"a caption"}])
    with pytest.raises(UserError, match=f"{empty}: .*jpg.*webp"):
        WebImages([*paths, empty], RESOLUTION)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 512 * 7])


def compress(path: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize("damage", [truncate, compress, Path.unlink])
def test_a_damaged_tar_is_named(paths: list[Path], damage: Callable[[Path], None]) -> None:
    damage(paths[1])
    with pytest.raises(UserError, match=f"{paths[1]}: .*uncompressed"):
        WebImages(paths, RESOLUTION)


def test_the_given_crop_is_used(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (19, 24, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    path = write_tar(tmp_path / "0.tar", [sample("0", "png", stream.getvalue())])
    for crop in ("adm", "lanczos"):
        expected = crop_to_square(Image.fromarray(pixels), 8, crop).transpose(2, 0, 1)
        images = WebImages([path], 8, crop)
        np.testing.assert_array_equal(images[0][0], expected)
        augmented = images.augmented_batch([0], [np.random.default_rng(0)], 1.0, 0.0)
        np.testing.assert_array_equal(augmented[0], expected)


def test_pixels_are_unchanged_at_the_stored_resolution(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    path = write_tar(tmp_path / "0.tar", [sample("0", "png", stream.getvalue())])
    image, _ = WebImages([path], 8)[0]
    np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))
