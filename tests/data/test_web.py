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
from edm2.data.image_members import OTHER_FIELD
from edm2.data.tally import FOREIGN, OTHER_ENDING
from edm2.data.web import WebImages
from edm2.params import UserError
from edm2.params.dataset import Crop

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


def open_images(
    paths: list[Path],
    skip: frozenset[str] = frozenset(),
    resolution: int = RESOLUTION,
    crop: Crop = "lanczos",
) -> WebImages:
    return WebImages(paths, resolution, crop, paths[0].parent / "indices", skip)


def test_images_are_center_cropped_and_in_order(paths: list[Path]) -> None:
    images = open_images(paths)
    assert (len(images), images.resolution) == (5, RESOLUTION)
    pixels, labels = images.batch(range(5))
    assert (pixels.dtype, pixels.shape) == (torch.uint8, (5, 3, RESOLUTION, RESOLUTION))
    for image, (*_, color) in zip(pixels, IMAGES, strict=True):
        deviation = (image.float() - torch.tensor(color)[:, None, None]).abs()
        assert deviation[:, 1:-1, 1:-1].max() <= 6  # JPEG artifacts; white bleeds into the border
        assert deviation.mean() <= 6
    assert labels.tolist() == [0] * 5


def test_several_threads_read_the_same_images(paths: list[Path]) -> None:
    images = open_images(paths, resolution=64)
    order = [4, 0, 3, 3, 2, 1]
    pixels, _ = images.batch(order)
    assert torch.equal(pixels, torch.stack([images[i][0] for i in order]))


def test_only_images_are_indexed(paths: list[Path]) -> None:
    """By WebDataset's rule for extensions, in upper or lower case, in any folder."""
    content = IMAGES[0][2]
    for name in ("000010000.mask.png", "readme", "notes.txt", "._000000000.jpg", ".jpg"):
        add(paths[1], name, content)
    with tarfile.open(paths[1], "a") as tar:
        folder = tarfile.TarInfo("more.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    assert len(open_images(paths)) == 5
    for name in ("a.JPG", "./b.Png", "deep.er/c.jpg", f"{'long' * 60}.webp"):
        add(paths[1], name, content)
    assert len(open_images(paths)) == 9


@pytest.mark.parametrize(
    "name",
    [
        "22.05.jpg",
        "photo.v2.0001.jpg",
        "./a.b/1.jpg",
        "1.gif",
        "1.jfif",
        "1.avif",
        "1.JPE",
        "x.1.jp2",
    ],
)
def test_dots_and_other_endings_are_read(tmp_path: Path, name: str) -> None:
    path = write_tar(tmp_path / "0.tar", [])
    kind = {"gif": "gif", "avif": "avif", "jp2": "jpeg2000"}.get(name[-3:], "jpeg")
    kind = "avif" if name.endswith("avif") else kind
    add(path, name, encoded(20, 20, (200, 40, 40), kind, "RGB"))
    images = open_images([path])
    assert (len(images), images.name(0)) == (1, f"{path}: {name}")
    assert not images.left_out.counts
    assert abs(images[0][0].float().mean(dim=(1, 2)) - torch.tensor([200, 40, 40])).max() < 12


@pytest.mark.parametrize(
    ("names", "fields"),
    [
        (["1.jpg", "1.mask.png"], ["1.mask.png"]),
        (["1.2.jpg", "1.2.mask.png", "1.3.jpg"], ["1.2.mask.png"]),
        (["1.jpg", "1.a.b.png"], ["1.a.b.png"]),
        (["1.photo.png", "1.mask.png", "2.jpg"], ["1.photo.png", "1.mask.png"]),
        (["n01.tench.jpg", "n02.shark.jpg"], []),
        (["photo.v2.0001.jpg", "photo.v2.0002.jpg", "22.05.jpg", "22.06.jpg"], []),
        (["a/1.jpg", "b/1.mask.png", "a.mask/2.jpg", "a/3.jpg"], []),
    ],
)
def test_other_fields_of_a_sample_are_no_images(
    tmp_path: Path, names: list[str], fields: list[str]
) -> None:
    path = write_tar(tmp_path / "0.tar", [])
    for name in names:
        add(path, name, IMAGES[0][2])
    images = open_images([path])
    assert len(images) == len(names) - len(fields)
    expected = {OTHER_FIELD: [f"{path}: {name}" for name in fields]} if fields else {}
    assert images.left_out.examples == expected


def test_joined_tars_are_read(paths: list[Path], tmp_path: Path) -> None:
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(path.read_bytes() for path in paths))
    assert torch.equal(
        open_images([joined]).batch(range(5))[0],
        open_images(paths).batch(range(5))[0],
    )


def special(path: Path, name: str, kind: bytes, headers: dict[str, str] | None = None) -> None:
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "000000000.jpg"
        member.pax_headers = headers or {}
        tar.addfile(member)


def test_every_other_member_is_counted_with_its_reason(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "0.tar", [sample(*IMAGES[0][:3])])  # one image, .json and .txt
    for name in (
        "000000000.1.png",
        "7.mask.png",
        "7.photo.png",
        "__MACOSX/1.jpg",
        "a/._1.jpg",
        "1.cls",
        "none",
    ):
        add(path, name, IMAGES[0][2])
    for name, kind in {
        "folder.jpg": tarfile.DIRTYPE,
        "symbolic.jpg": tarfile.SYMTYPE,
        "hard.jpg": tarfile.LNKTYPE,
        "pipe.jpg": tarfile.FIFOTYPE,
    }.items():
        special(path, name, kind)
    sparse = {"GNU.sparse.map": "0,0", "GNU.sparse.size": "0"}
    special(path, "sparse.jpg", tarfile.REGTYPE, sparse)
    images = open_images([path])
    assert len(images) == 1
    assert images.left_out.counts == {
        OTHER_FIELD: 3,
        FOREIGN: 2,
        OTHER_ENDING: 4,
        "folder": 1,
        "link to another file": 2,
        "neither file nor folder": 1,
        "sparse file": 1,
    }
    assert images.left_out.examples["folder"] == [f"{path}: folder.jpg"]


def test_a_tar_of_skipped_images_only_is_told(paths: list[Path]) -> None:
    skip = {f"{paths[1]}: {key}.{kind}" for key, kind, *_ in IMAGES if key.startswith("00001")}
    with pytest.raises(UserError, match="runtime.skip_images lists all of its images"):
        open_images(paths, frozenset(skip))


def test_skipped_images_are_replaced_by_the_next_and_others_keep_their_numbers(
    paths: list[Path],
) -> None:
    whole = open_images(paths)
    skip = {f"{paths[0]}: 000000004.png", f"{paths[1]}: 000010001.jpg", "no such image"}
    images = open_images(paths, frozenset(skip))
    assert images.skipped.tolist() == [False, False, True, False, True]
    assert images.matched == skip - {"no such image"}
    assert torch.equal(images.batch(range(5))[0], whole.batch([0, 1, 3, 3, 0])[0])
    names = {whole.name(index) for index in (0, 1, 2)}
    with pytest.raises(UserError, match=str(paths[0])):
        open_images(paths, frozenset(names))


def test_identity_follows_names_and_not_contents(paths: list[Path]) -> None:
    before = open_images(paths).identity
    samples = [sample(*image[:3]) for image in IMAGES[3:]]
    write_tar(paths[1], [{**s, "webp": IMAGES[3][2] + b"more"} for s in samples[:1]] + samples[1:])
    assert open_images(paths).identity == before
    write_tar(paths[1], samples[:1])
    fewer = open_images(paths).identity
    write_tar(paths[1], [samples[0], {**samples[1], "__key__": "another"}])
    renamed = open_images(paths).identity
    assert len({before, fewer, renamed, open_images(paths[:1]).identity}) == 4


@pytest.mark.parametrize("size", [0, 20, 200])
def test_a_damaged_image_is_named_with_its_tar(tmp_path: Path, size: int) -> None:
    samples = [sample(*image[:3]) for image in IMAGES]
    samples[1]["jpeg"] = IMAGES[1][2][:size]
    path = write_tar(tmp_path / "00000.tar", samples)
    images = open_images([path])
    images.batch([0, 2, 3, 4])
    with pytest.raises(UserError, match=f"{path}: 000000003.jpeg"):
        images.batch([0, 1])


def test_a_tar_without_images_is_named(tmp_path: Path, paths: list[Path]) -> None:
    empty = write_tar(tmp_path / "00002.tar", [{"__key__": "0", "txt": b"a caption"}])
    with pytest.raises(UserError, match=f"{empty}: .*jpg.*webp"):
        open_images([*paths, empty])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: 512 * 7])


def compress(path: Path) -> None:
    import gzip

    path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize("damage", [truncate, compress, Path.unlink])
def test_a_damaged_tar_is_named(paths: list[Path], damage: Callable[[Path], None]) -> None:
    damage(paths[1])
    with pytest.raises(UserError, match=f"{paths[1]}: .*uncompressed"):
        open_images(paths)


def test_the_given_crop_is_used(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (19, 24, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    path = write_tar(tmp_path / "0.tar", [sample("0", "png", stream.getvalue())])
    for crop in ("adm", "lanczos"):
        expected = crop_to_square(Image.fromarray(pixels), 8, crop).transpose(2, 0, 1)
        images = open_images([path], crop=crop)
        np.testing.assert_array_equal(images[0][0], expected)
        augmented = images.augmented_batch([0], [np.random.default_rng(0)], 1.0, 0.0)
        np.testing.assert_array_equal(augmented[0], expected)


def test_pixels_are_unchanged_at_the_stored_resolution(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "png")
    path = write_tar(tmp_path / "0.tar", [sample("0", "png", stream.getvalue())])
    image, _ = open_images([path])[0]
    np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))
