"""Pictures of held-out images and their reconstructions while a VAE trains."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import ROOT

from edm2.data.images import to_uint8
from edm2.params import load
from edm2.pipeline.vae_pictures import MAX_GRID_PIXELS, MAX_PIXELS, ProgressPictures
from edm2.vae.codec import Rgb

CPU = torch.device("cpu")


class Brighter(Rgb):
    """Adds 10 of 255, and 100 to the first image of a batch."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        shift = torch.full((len(latents), 1, 1, 1), 10 / 127.5)
        shift[0] = 100 / 127.5
        return to_uint8(latents + shift)


def held_out(count: int = 3, resolution: int = 64):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 200, (1, 3, resolution, resolution), generator=generator)
    pixels = pixels.to(torch.uint8).expand(count, -1, -1, -1)

    class Images:
        def __len__(self) -> int:
            return count

    images = Images()
    images.resolution = resolution
    images.batch = lambda indices: (pixels[list(indices)], None)
    return images


def progress(folder: Path, images, low_pass: float = 0.0, evaluations: int = 4) -> ProgressPictures:
    vae = load(ROOT / "params.yaml").vae
    update = {
        "evaluate_nimg": 100,
        "duration_nimg": 100 * evaluations + 50,
        "losses": vae.losses.model_copy(update={"low_pass": low_pass}),
    }
    return ProgressPictures(folder, vae.model_copy(update=update), images, CPU)


def test_rows_are_images_reconstructions_and_four_times_the_difference(tmp_path: Path) -> None:
    images = held_out()
    path = progress(tmp_path, images).draw(Brighter("dataset"), 200)
    assert path == tmp_path / "000000000200.png"
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape[0] == 3 * 66 + 2
    left = pixels.shape[1] - 3 * 66
    cells = [
        [pixels[66 * r + 2 : 66 * r + 66, left + 66 * c : left + 66 * c + 64] for c in range(3)]
        for r in range(3)
    ]
    for column, (shift, shown) in enumerate(((100, 255), (10, 40), (10, 40))):
        image = images.batch([column])[0][0].permute(1, 2, 0).numpy()
        assert np.array_equal(cells[0][column], image)
        expected = np.minimum(image.astype(int) + shift, 255)
        assert np.array_equal(cells[1][column], expected)
        assert np.array_equal(cells[2][column], np.minimum(4 * (expected - image), 255))
        assert cells[2][column].max() == shown


def test_the_mask_of_the_low_pass_loss_is_a_row(tmp_path: Path) -> None:
    path = progress(tmp_path, held_out(), low_pass=0.1).draw(Rgb("dataset"), 100)
    with Image.open(path) as picture:
        assert picture.height == 4 * 66 + 2


@pytest.mark.parametrize("resolution", [16, 64, 256, 512, 2048])
@pytest.mark.parametrize("evaluations", [1, 4, 10, 1000])
def test_pictures_are_bounded_and_end_with_the_last_evaluation(
    tmp_path: Path, monkeypatch, resolution: int, evaluations: int
) -> None:
    """Of small images each evaluation has a picture of 24; of very large ones some have one of 4."""
    drawn = []
    monkeypatch.setattr(
        "edm2.pipeline.vae_pictures.draw_reconstructions",
        lambda path, codec, images, device, mask: drawn.append((int(path.stem), len(images))),
    )
    images = held_out(500, resolution=1)
    images.resolution = resolution
    pictures = progress(tmp_path, images, evaluations=evaluations)
    for k in range(1, evaluations + 1):
        pictures.draw(Rgb("dataset"), 100 * k)
    times, (count,) = [time for time, _ in drawn], {count for _, count in drawn}
    pixels = 3 * resolution**2
    assert times[-1] == 100 * evaluations
    assert len(times) == 1 or len(times) * count * pixels <= MAX_PIXELS
    assert len(set(np.diff(times))) <= 1
    assert 4 <= count <= 24
    assert count == 4 or count * pixels <= MAX_GRID_PIXELS
    if max(evaluations * 24 * pixels / MAX_PIXELS, 24 * pixels / MAX_GRID_PIXELS) <= 1:
        assert (count, len(times)) == (24, evaluations)
    elif count > 4:
        assert len(times) == evaluations


def test_later_pictures_are_removed_where_a_training_continues(tmp_path: Path) -> None:
    pictures = progress(tmp_path / "progress", held_out())
    pictures.rollback(0)
    for nimg in (100, 200, 300):
        pictures.draw(Brighter("dataset"), nimg)
    before = (tmp_path / "progress/000000000300.png").read_bytes()
    pictures.rollback(250)
    assert sorted(path.stem for path in (tmp_path / "progress").iterdir()) == [
        "000000000100",
        "000000000200",
    ]
    pictures.draw(Brighter("dataset"), 300)
    assert (tmp_path / "progress/000000000300.png").read_bytes() == before
