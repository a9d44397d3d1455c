"""Images of shards as img2dataset writes them."""

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

from edm2.data.web import WebImages
from edm2.params import UserError

RESOLUTION = 8


def encoded(width: int, height: int, color: tuple[int, int, int], kind: str, mode: str) -> bytes:
    """A picture of a color, with white to both sides of its largest centered square."""
    side = min(width, height)
    image = Image.new("RGB", (width, height), "white")
    corner = (width - side) // 2, (height - side) // 2
    image.paste(Image.new("RGB", (side, side), color), corner)
    stream = io.BytesIO()
    options = {"quality": 100} if kind == "jpeg" else {"lossless": True} if kind == "webp" else {}
    image.convert(mode).save(stream, kind, **options)
    return stream.getvalue()


# of img2dataset: the key has the number of the shard and of the sample in it
PICTURES = [
    ("000000000", "jpg", encoded(40, 40, (200, 40, 40), "jpeg", "RGB"), (200, 40, 40)),
    ("000000003", "jpeg", encoded(24, 60, (40, 200, 40), "jpeg", "RGB"), (40, 200, 40)),
    ("000000004", "png", encoded(9, 5, (40, 40, 200), "png", "RGBA"), (40, 40, 200)),
    ("000010000", "webp", encoded(64, 30, (10, 200, 200), "webp", "RGB"), (10, 200, 200)),
    ("000010001", "jpg", encoded(33, 31, (90, 90, 90), "jpeg", "L"), (90, 90, 90)),
]


def sample(key: str, ending: str, content: bytes) -> dict[str, object]:
    about = json.dumps({"url": f"https://example.org/{key}.jpg", "status": "success"})
    return {"__key__": key, ending: content, "json": about.encode(), "txt": b"a caption"}


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
    samples = [sample(*picture[:3]) for picture in PICTURES]
    return [
        write_tar(tmp_path / "00000.tar", samples[:3]),
        write_tar(tmp_path / "00001.tar", samples[3:]),
    ]


def test_images_come_in_order_as_their_centre_squares(paths: list[Path]) -> None:
    images = WebImages(paths, RESOLUTION)
    assert (len(images), images.resolution) == (5, RESOLUTION)
    batches = list(images.batches(2))
    assert [len(batch) for batch, _ in batches] == [2, 2, 1]
    found = torch.cat([batch for batch, _ in batches])
    assert (found.dtype, found.shape) == (torch.uint8, (5, 3, RESOLUTION, RESOLUTION))
    for image, (*_, color) in zip(found, PICTURES, strict=True):
        deviation = (image.float() - torch.tensor(color)[:, None, None]).abs()
        assert deviation[:, 1:-1, 1:-1].max() <= 6  # by JPEG; at the rim white shines in
        assert deviation.mean() <= 6
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 5


def test_large_images_are_read_alike_by_several_threads(paths: list[Path]) -> None:
    images = WebImages(paths, 64)
    order = [4, 0, 3, 3, 2, 1]
    found, _ = images.batch(order)
    assert torch.equal(found, torch.stack([images[i][0] for i in order]))


def test_only_images_are_taken(paths: list[Path]) -> None:
    """By WebDataset's rule of endings, in small or capital letters, in folders or not."""
    picture = PICTURES[0][2]
    for name in ("000000000.mask.png", "readme", "notes.txt", "._000000000.jpg", ".jpg"):
        add(paths[1], name, picture)
    with tarfile.open(paths[1], "a") as tar:
        folder = tarfile.TarInfo("more.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert len(WebImages(paths, RESOLUTION)) == 5
    for name in ("a.JPG", "./b.Png", "deep.er/c.jpg", f"{'long' * 60}.webp"):
        add(paths[1], name, picture)
    assert len(WebImages(paths, RESOLUTION)) == 9


def test_index_is_small(paths: list[Path]) -> None:
    """As its docstring says: 23 bytes a file and 8 a sample, of the images alone."""
    files = WebImages(paths, RESOLUTION).files
    assert files.rows.nbytes == 23 * 5
    assert files.first.nbytes == 8 * 6


@pytest.mark.parametrize("kept", [0, 20, 200])
def test_damaged_image_is_named_with_its_tar(tmp_path: Path, kept: int) -> None:
    samples = [sample(*picture[:3]) for picture in PICTURES]
    samples[1]["jpeg"] = PICTURES[1][2][:kept]
    path = write_tar(tmp_path / "00000.tar", samples)
    images = WebImages([path], RESOLUTION)
    images.batch([0, 2, 3, 4])
    with pytest.raises(UserError, match=r"00000\.tar: 000000003\.jpeg: cannot be read") as refusal:
        images.batch([0, 1])
    assert str(path) in str(refusal.value)


def test_tar_without_images_is_named(tmp_path: Path, paths: list[Path]) -> None:
    empty = write_tar(tmp_path / "00002.tar", [{"__key__": "0", "txt": b"a caption"}])
    with pytest.raises(UserError, match=f"{empty}: no images in it: .*jpg.*webp"):
        WebImages([*paths, empty], RESOLUTION)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 512 * 7])


def compress(path: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize("damage", [cut, compress, Path.unlink])
def test_damaged_tar_is_named(paths: list[Path], damage: Callable[[Path], None]) -> None:
    damage(paths[1])
    with pytest.raises(UserError, match=f"{paths[1]}: not a readable tar .*uncompressed"):
        WebImages(paths, RESOLUTION)


def test_pixels_are_those_of_the_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    path = write_tar(tmp_path / "0.tar", [sample("0", "png", stream.getvalue())])
    image, _ = WebImages([path], 8)[0]
    np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))
