"""Image sources: digits and folders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edm2.data.cropping import crop_to_square
from edm2.data.sources import Digits, FileSource, FolderImages, open_source
from edm2.params import Params, UserError

RED, GREEN = (255, 0, 0), (0, 255, 0)


def Folder(root: Path, resolution: int, crop: str) -> FileSource:
    return FileSource(FolderImages(root), resolution, crop)


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_digits_are_rgb_at_the_given_resolution(resolution: int) -> None:
    image = Digits(resolution).image(0)
    assert image.shape == (resolution, resolution, 3)
    assert image.dtype == np.uint8
    assert np.ptp(image, axis=2).max() == 0  # gray


def test_digits_are_complete() -> None:
    digits = Digits(16)
    assert len(digits.labels) == 1797
    assert list(digits.classes) == list("0123456789")
    np.testing.assert_array_equal(digits.labels, load_digits().target)


def test_digits_keep_their_full_range() -> None:
    digits, original = Digits(8), load_digits().images  # 8×8: nothing to resize
    images = np.stack([digits.image(i)[:, :, 0] for i in range(50)])
    assert (images[original[:50] == 0] == 0).all()
    assert (images[original[:50] == 16] == 255).all()
    assert np.abs(images / 255 * 16 - original[:50]).max() <= 16 / 255 / 2 + 1e-9


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def constant(color: tuple[int, int, int], height: int = 6, width: int = 6) -> np.ndarray:
    return np.broadcast_to(np.array(color), (height, width, 3))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Classes `cat` (two images, one of them in a deeper folder) and `dog` (two images)."""
    save(tmp_path / "images/dog/2.png", constant(GREEN))
    save(tmp_path / "images/dog/1.JPG", constant(GREEN))
    save(tmp_path / "images/cat/1.png", constant(RED))
    save(tmp_path / "images/cat/more/2.bmp", constant(RED))
    (tmp_path / "images/cat/notes.txt").write_text("not an image")
    (tmp_path / "images/readme.md").write_text("not a class")
    return tmp_path / "images"


def test_classes_are_subfolders(root: Path) -> None:
    folder = Folder(root, 4, "lanczos")
    assert list(folder.classes) == ["cat", "dog"]
    assert folder.labels.tolist() == [0, 0, 1, 1]
    assert folder.image(0).tolist() == constant(RED, 4, 4).tolist()
    assert folder.image(3).tolist() == constant(GREEN, 4, 4).tolist()


def test_path_is_relative_to_the_project_root(
    root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(root.parent))
    update = {"source": "folder", "path": "images", "resolution": 4}
    source = open_source(params.dataset.model_copy(update=update))
    assert len(source.labels) == 4


@pytest.mark.parametrize("portrait", [False, True])
def test_images_are_cropped_to_their_center(root: Path, portrait: bool) -> None:
    pixels = constant(RED, 6, 10).copy()
    pixels[:, 2:8] = GREEN
    save(root / "cat/0.png", pixels.transpose(1, 0, 2) if portrait else pixels)
    assert Folder(root, 6, "lanczos").image(0).tolist() == constant(GREEN).tolist()


def test_the_crop_of_params_is_used(root: Path, params: Params) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (19, 24, 3)).astype(np.uint8)
    save(root / "cat/0.png", pixels)
    for crop in ("adm", "lanczos"):
        update = {"source": "folder", "path": str(root), "resolution": 8, "crop": crop}
        image = open_source(params.dataset.model_copy(update=update)).image(0)
        np.testing.assert_array_equal(image, crop_to_square(Image.fromarray(pixels), 8, crop))


def test_downsampling_averages(root: Path) -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2 * 255
    save(root / "cat/0.png", np.repeat(board[:, :, None], 3, axis=2))
    image = Folder(root, 8, "lanczos").image(0)[1:-1, 1:-1].astype(float)
    assert np.abs(image - 127.5).max() < 3  # nearest-neighbor sampling would give 0 and 255


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_all_color_modes_become_rgb(root: Path, mode: str) -> None:
    name = "cat/0.tif"
    Image.fromarray(constant((255, 255, 255)).astype(np.uint8)).convert(mode).save(root / name)
    image = Folder(root, 4, "lanczos").image(0)
    assert image.shape == (4, 4, 3)
    assert image.min() == 255


def noise_png(path: Path) -> bytes:
    save(path, np.random.default_rng(0).integers(0, 256, (8, 8, 3)))
    return path.read_bytes()


@pytest.mark.parametrize("size", [0, 10, 60, 150])
def test_a_truncated_image_is_named(root: Path, size: int) -> None:
    path = root / "cat/0.png"
    path.write_bytes(noise_png(path)[:size])
    with pytest.raises(UserError, match=str(path)):
        Folder(root, 4, "lanczos").image(0)


def test_an_image_with_a_damaged_header_is_named(root: Path) -> None:
    path = root / "cat/0.png"
    content = bytearray(noise_png(path))
    content[11] = 12  # the length of the IHDR chunk, which is 13
    path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        Folder(root, 4, "lanczos").image(0)


def test_exif_orientation_is_applied(root: Path) -> None:
    pixels = constant(RED).copy()
    pixels[3:] = GREEN  # lower half; orientation 3 rotates by 180°
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels.astype(np.uint8)).save(root / "cat/0.png", exif=exif)
    assert Folder(root, 6, "lanczos").image(0)[0, 0].tolist() == list(GREEN)


def test_a_class_with_one_image_is_named(root: Path) -> None:
    (root / "dog/2.png").unlink()
    with pytest.raises(UserError, match=f"dataset.path: {root / 'dog'}: "):
        Folder(root, 4, "lanczos")


def test_a_folder_without_subfolders_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=f"dataset.path: {root / 'dog'}: .*subfolder"):
        Folder(root / "dog", 4, "lanczos")


def test_identity_changes_with_the_images(root: Path) -> None:
    before = Folder(root, 4, "lanczos").identity()
    assert Folder(root, 4, "lanczos").identity() == before
    save(root / "dog/3.png", constant(GREEN))
    more = Folder(root, 4, "lanczos").identity()
    save(root / "dog/3.png", constant(RED, 20, 20))
    changed = Folder(root, 4, "lanczos").identity()
    assert len({before, more, changed}) == 3
    moved = root.rename(root.with_name("moved"))
    assert Folder(moved, 4, "lanczos").identity() == changed
