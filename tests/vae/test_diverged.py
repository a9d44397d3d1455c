"""A VAE that diverged has no metrics: neither of NaN and infinities, nor of clipped images."""

from collections.abc import Callable

import pytest
import torch
from tiny_autoencoder import BATCH, TINY, make_batch, make_network, make_task, vae_params

from edm2.data.images import ImageShards
from edm2.features.classifier import Classifier
from edm2.params.errors import NotFiniteError, OutOfRangeError
from edm2.params.vae import Vae
from edm2.pipeline.vae_trainer import quality
from edm2.vae.boundary import require_range
from edm2.vae.codec import TrainedVae
from edm2.vae.evaluation import evaluate
from edm2.vae.network import Autoencoder

CPU = torch.device("cpu")


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_any_weight_that_is_not_finite_leaves_no_image(tiny: Callable[..., Vae], value) -> None:
    """Wherever it is: encoder or decoder, convolution, norm or attention."""
    params = tiny(clamp=8.0, attention=True, variance="learned")
    network, pixels = make_network(params), make_batch(params, resolution=8)[0][:1]
    codec = TrainedVae(network, params)
    codec.decode(codec.encode(pixels)[0])
    for parameter in network.parameters():
        before = parameter.detach().clone()
        parameter.data.fill_(value)
        mean, std = codec.encode(pixels)
        if mean.isfinite().all() and std.isfinite().all():  # it is in the decoder
            with pytest.raises(NotFiniteError):
                codec.decode(mean)
        parameter.data.copy_(before)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_network_that_is_not_finite_has_no_metrics(
    tiny: Callable[..., Vae], images: ImageShards, backbone: Classifier, part: str
) -> None:
    params = tiny(clamp=8.0)
    network = make_network(params)
    getattr(network, part)[-1].bias.data.fill_(torch.inf)
    with pytest.raises(NotFiniteError):
        evaluate(TrainedVae(network, params), images, backbone, CPU)


@pytest.mark.parametrize("scale", [100.0, 1e30])
def test_clipped_reconstructions_leave_no_metrics(
    tiny: Callable[..., Vae], images: ImageShards, backbone: Classifier, scale: float
) -> None:
    """Clipping would bound their error: 5 to 8 dB for random black and white pixels."""
    params = tiny()
    network = make_network(params)
    network.decoder[-1].weight.data.mul_(scale)
    with pytest.raises(OutOfRangeError, match=r"outside \[-2, 2\]"):
        evaluate(TrainedVae(network, params), images, backbone, CPU)


def test_a_range_is_exceeded_by_more_than_half_of_the_values() -> None:
    images = torch.tensor([-1e30, 3.0, 2.0, -0.5]).reshape(1, 1, 2, 2)
    require_range(images)
    with pytest.raises(OutOfRangeError, match="3 of 4"):
        require_range(images.where(images != -0.5, 2.1))


def test_clipped_values_are_counted_beside_the_metrics(
    tiny: Callable[..., Vae], images: ImageShards, backbone: Classifier
) -> None:
    """Latents at the clamp, and decoded values far outside of the range of images: here all red ones."""
    params = tiny()
    network, pixels = make_network(params), images.batch(range(len(images)))[0]
    codec = TrainedVae(network, params)
    before = evaluate(codec, images, backbone, CPU)
    assert not [name for name in before if name.startswith("clipped/")]
    means = codec.encode(pixels)[0]
    network.clamp = float(means.abs().quantile(0.9))
    network.decoder[-1].bias.data[0] = 5.0
    metrics = evaluate(codec, images, backbone, CPU)
    expected = float((means.abs() > network.clamp).double().mean())
    assert 0.05 < expected < 0.15
    assert metrics["clipped/latents"] == pytest.approx(expected, rel=1e-6)
    assert metrics["clipped/images"] == pytest.approx(1 / 3)
    text = quality(metrics)
    assert f"{expected:.2%} of the latents" in text
    assert "33.33% of the decoded values" in text


def test_an_untrained_network_has_metrics(tiny, images, backbone: Classifier) -> None:
    torch.manual_seed(0)
    codec = TrainedVae(Autoencoder(tiny()), tiny())
    assert evaluate(codec, images, backbone, CPU)["psnr"] > 3


def test_a_step_refuses_batches_of_another_shape_or_type() -> None:
    params = vae_params(TINY, microbatch=4)
    task, (pixels, noise) = make_task(params), make_batch(params)
    for batch, part in (
        ((pixels[:6], noise[:6]), "in microbatches of 4"),
        ((pixels[:, :, :8], noise[:, :, :4]), "expected square images"),
        ((pixels / 255, noise), "expected torch.uint8"),
        ((pixels, noise[:, :, :4]), "expected that of the latents"),
    ):
        with pytest.raises(ValueError, match=part):
            task.step(batch, BATCH)
    gray = task.step((pixels[:, :1], noise), BATCH)
    assert all(torch.as_tensor(value).isfinite() for value in gray.values())
