"""Paths of the VAE and of the classifier: training, codecs, held-out metrics."""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from device.fake_cuda import CUDA, Recorder
from device.path import path
from tiny_autoencoder import BATCH, FULL_VAE, make_backbone, make_batch, vae_params

from edm2.features.backbone import Backbone
from edm2.features.classifier import Classifier
from edm2.features.training import ClassifierTask
from edm2.features.vgg import Vgg16
from edm2.params import load
from edm2.runtime.metrics import MetricAccumulator
from edm2.vae.codec import Rgb, TrainedVae
from edm2.vae.evaluation import evaluate
from edm2.vae.network import Autoencoder
from edm2.vae.training import VaeTask

RESOLUTION = 16
IN_FP16 = {"losses__gradient_normalization": False, "equivariance__crop": 0.0, "wavelet": True}
IN_FP32 = {"microbatch": BATCH // 2, "high_resolution": True, "variance": 0.1}


def make_network(changes: dict[str, Any]) -> tuple[Autoencoder, Any]:
    params = vae_params(FULL_VAE, **changes)
    network = Autoencoder(params).to(CUDA)
    return network.to(memory_format=torch.channels_last), params


def train(
    dtype: torch.dtype, changes: dict[str, Any], make: Callable[[], Backbone], recorder: Recorder
) -> Iterator[str]:
    """All losses, transforms and the discriminator."""
    network, params = make_network(changes)
    task = VaeTask(network, params, make().to(CUDA), 0, CUDA, dtype)
    accumulator = MetricAccumulator()

    batch = [tensor.to(CUDA) for tensor in make_batch(params, 2)]
    recorder.clear()
    accumulator.add(task.step(batch, 2 * BATCH))
    yield "step"
    if dtype != torch.float32:
        return
    accumulator.compute_and_reset()
    yield "log row"
    task.load_state_dict(task.state_dict())
    yield "state"


path("train the VAE in microbatches", step=0)(partial(train, torch.float32, IN_FP32, make_backbone))
path("train the VAE in fp16 without normalization", step=1)(  # norms, which are the scale of fp16
    partial(train, torch.float16, IN_FP16, lambda: Vgg16(torch.ones(1472)))
)


@path("train the classifier", step=0)
def classifier(recorder: Recorder) -> Iterator[str]:
    params = load("params.yaml").features
    task = ClassifierTask(Classifier(8, 2, 8, 3, RESOLUTION).to(CUDA), params, CUDA)
    images = torch.zeros(BATCH, 3, RESOLUTION, RESOLUTION, dtype=torch.uint8, device=CUDA)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=CUDA)
    recorder.clear()
    task.step((images, labels), BATCH)
    yield "step"


def codec(codec: Any, channels: int, recorder: Recorder) -> Iterator[str]:
    """Several parts of a batch; each waits once, for the check of its values."""
    side = RESOLUTION // codec.downscale
    images = codec.decode(torch.randn(BATCH, channels, side, side, device=CUDA))
    assert (images.device, images.dtype) == (CUDA, torch.uint8)
    assert images.shape == (BATCH, 3, RESOLUTION, RESOLUTION)
    yield "decode"
    mean, std = codec.encode(images)
    assert mean.device == std.device == CUDA
    yield "encode"


@path("codec: trained VAE", decode=1, encode=0)
def trained(recorder: Recorder) -> Iterator[str]:
    network, params = make_network({})
    recorder.clear()
    yield from codec(TrainedVae(network.eval(), params), params.latent_channels, recorder)


@path("codec: RGB", decode=1, encode=0)
def rgb(recorder: Recorder) -> Iterator[str]:
    yield from codec(Rgb("paper"), 3, recorder)


@path("codec: Stable Diffusion", decode=1, encode=1)
def stable_diffusion(recorder: Recorder) -> Iterator[str]:
    from diffusers import AutoencoderKL

    from edm2.vae.stable_diffusion import StableDiffusionVae

    parts = {"down_block_types": ("DownEncoderBlock2D",) * 4}
    parts["up_block_types"] = ("UpDecoderBlock2D",) * 4
    network = AutoencoderKL(**parts, block_out_channels=(32,) * 4, latent_channels=4)
    network = network.to(CUDA).eval().requires_grad_(False)
    recorder.clear()
    yield from codec(StableDiffusionVae(network, "paper", "nearest"), 4, recorder)


@path("held-out metrics of a VAE")
def held_out(recorder: Recorder) -> Iterator[str]:
    network, params = make_network({})

    def batch(indices: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.zeros(len(indices), 3, RESOLUTION, RESOLUTION, dtype=torch.uint8)
        return pixels, torch.zeros(len(indices), dtype=torch.int64)

    class Images(SimpleNamespace):
        def __len__(self) -> int:
            return BATCH

    images = Images(resolution=RESOLUTION, batch=batch, after_repair="")
    backbone = make_backbone().to(CUDA)
    recorder.clear()
    values = evaluate(TrainedVae(network.eval(), params), images, backbone, CUDA)
    assert values["ssim"] == 1 / BATCH  # one batch, whose sum is read as one
    yield "evaluate"
