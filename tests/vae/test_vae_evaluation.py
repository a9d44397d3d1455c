"""How well a codec brings images back."""

import numpy as np
import pytest
import torch

from edm2.data.images import ImageShards, to_uint8
from edm2.features.classifier import Classifier
from edm2.vae.codec import Rgb
from edm2.vae.evaluation import evaluate
from edm2.vae.losses import perceptual_loss

CPU = torch.device("cpu")


class Faded(Rgb):
    """Loses contrast on the way back."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return to_uint8(0.9 * latents + 0.3)


@pytest.fixture
def faded() -> Faded:
    return Faded("dataset")


def test_evaluation_against_numpy(faded: Faded, images: ImageShards, backbone: Classifier) -> None:
    found = evaluate(faded, images, backbone, CPU)
    pixels = images.batch(range(12))[0].double().numpy()
    x = pixels / 127.5 - 1
    y = np.rint(np.clip(127.5 * (0.9 * x + 0.3) + 127.5, 0, 255)) / 127.5 - 1
    psnr = 10 * np.log10(2**2 / ((x - y) ** 2).mean(axis=(1, 2, 3)))
    assert found["psnr"] == pytest.approx(psnr.mean(), rel=1e-3)
    assert found["latent/std"] == pytest.approx(x.std(), rel=1e-4)
    x, y = (torch.from_numpy(value).float() for value in (x, y))
    assert found["perceptual_classifier"] == pytest.approx(
        float(perceptual_loss(backbone)(x, y)), rel=1e-2
    )


def test_parts_of_large_images_are_averaged_by_their_size(
    faded, images: ImageShards, backbone: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(faded, images, backbone, CPU)
    monkeypatch.setattr("edm2.data.images.PIXELS", 5 * 8**2)  # parts of 5, 5 and 2
    parts = evaluate(faded, images, backbone, CPU)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_perfect_reconstruction(images: ImageShards, backbone: Classifier) -> None:
    found = evaluate(Rgb("dataset"), images, backbone, CPU)
    assert found["psnr"] == np.inf
    assert found["perceptual_classifier"] == 0
