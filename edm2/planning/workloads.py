"""What the stages compute for each image, to be costed on fake tensors or timed on real ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from edm2.data.images import max_batch_size
from edm2.diffusion.inference import prepare_for_inference
from edm2.diffusion.setup import denoiser_for, prepare_training
from edm2.diffusion.training import DenoiserTask
from edm2.ema.tracker import PowerEMA, build_tracker
from edm2.ema.training import AveragedTask
from edm2.features.classifier import Classifier
from edm2.features.dinov2 import IMAGE_SIZE, Dinov2
from edm2.features.efficientnet import EfficientNetLite
from edm2.features.training import ClassifierTask
from edm2.params import Params
from edm2.params.configs import ConfigName
from edm2.params.registry import implementation
from edm2.params.seams import VAE_BACKBONES
from edm2.planning.cost import Build, Run
from edm2.planning.dataset import DatasetSize
from edm2.runtime.device import activation_dtype
from edm2.vae.codec import TrainedVae
from edm2.vae.encoding import BATCH
from edm2.vae.network import Autoencoder
from edm2.vae.training import VaeTask

NEVER = 10**12  # images: the longest training
INCEPTION_FLOPS = 2 * 5_700_000_000  # of an image of 299×299; 5.71 GFLOPS in torchvision's table


@dataclass(frozen=True)
class Workload:
    """A computation on a batch of images.

    Attributes:
        build: see `Build`; None: there is nothing to compute.
        images: of one forward pass.
        passes: forward passes of one step on a rank, over which gradients accumulate.
        precision: of its convolutions and matrix products.
        shards: ranks over which FSDP2 divides what is alive between steps.
        flops: of one image, where `build` is None.
        key: the field of params that sets `images`, if one does.
        resized: the same workload with another number of images in a forward pass.
    """

    build: Build | None
    images: int = 1
    passes: int = 1
    precision: str = "fp32"
    shards: int = 1
    flops: int = 0
    key: str = ""
    resized: Callable[[int], "Workload"] | None = None


NOTHING = Workload(None)


def denoiser_training(
    config: ConfigName, params: Params, size: DatasetSize, ranks: int, images: int | None = None
) -> Workload:
    """A training step of a denoiser, with its averages, without the measurement of magnitudes.

    Args:
        ranks: processes that share the batch.
        images: of one forward pass; None: `diffusion.microbatch`.
    """
    share = params.diffusion.batch // ranks
    images = images or params.diffusion.microbatch or share
    diffusion = params.diffusion.of(config).changed(
        {"microbatch": images, "magnitudes_nimg": NEVER}
    )
    sharded = params.runtime.data_parallel == "fsdp"
    whole = params.runtime.model_copy(update={"data_parallel": "ddp"})  # one process has all

    def build(device: torch.device) -> Run:
        with device:
            denoiser = denoiser_for(config, params, size.latent_shape, size.classes)
            prepare_training(denoiser, whole, device)
            average = build_tracker(denoiser.unet, denoiser.config.average, params.ema)
            task = DenoiserTask(denoiser, average, diffusion, 0, device, False)
            data = _normal(images * (share // images), *size.latent_shape)
            labels = torch.zeros(len(data), dtype=torch.int64)
            batch = data, data, _normal(len(data)), labels
        times = iter(range(diffusion.batch, NEVER, diffusion.batch))
        return lambda passes: task.step(_first(batch, passes * images), next(times))

    return Workload(
        build,
        images,
        share // images,
        params.runtime.precision,
        shards=ranks if sharded else 1,
        key="diffusion.microbatch",
        resized=lambda count: denoiser_training(config, params, size, ranks, count),
    )


def denoising(config: ConfigName, params: Params, size: DatasetSize, images: int) -> Workload:
    """One evaluation of a denoiser without gradients, as sampling does it."""

    def build(device: torch.device) -> Run:
        with device:
            denoiser = denoiser_for(config, params, size.latent_shape, size.classes)
            denoiser.eval().requires_grad_(False)
            prepared = prepare_for_inference(denoiser)
            x = _normal(images, *size.latent_shape)
            sigma = torch.ones(images)
            labels = torch.zeros(images, dtype=torch.int64)
        # the sampler keeps the denoiser, for weights of other networks
        return _without_gradients(lambda: (denoiser, prepared(x, sigma, labels)))

    return Workload(
        build,
        images,
        precision=params.runtime.precision,
        key="sampling.batch",
        resized=lambda count: denoising(config, params, size, count),
    )


def classifier_training(params: Params, size: DatasetSize, ranks: int) -> Workload:
    """A training step of the dataset's classifier."""
    images = params.features.batch // ranks

    def build(device: torch.device) -> Run:
        with device:
            task = ClassifierTask(_classifier(params, size), params.features, device)
            pixels = _pixels(images, size.resolution)
            labels = torch.zeros(images, dtype=torch.int64)
        return lambda passes: task.step((pixels, labels), params.features.batch)

    return Workload(build, images)


def vae_training(
    params: Params, size: DatasetSize, ranks: int, images: int | None = None
) -> Workload:
    """A training step of the VAE with all its losses; the discriminator takes part.

    Args:
        images: of one forward pass; None: `vae.microbatch`.
    """
    share = params.vae.batch // ranks
    images = images or params.vae.microbatch or share
    vae = params.vae.model_copy(update={"microbatch": images})

    def build(device: torch.device) -> Run:
        with device:
            network = Autoencoder(vae)
            untrained = VAE_BACKBONES[vae.backbone].untrained
            backbone = implementation(untrained)() if untrained else _classifier(params, size)
            backbone.eval().requires_grad_(False)
            task = AveragedTask(
                VaeTask(network, vae, backbone, 0, device, activation_dtype(params.runtime)),
                PowerEMA(network, vae.ema.ema_lengths),
                vae.batch,
            )
            side = size.resolution // vae.downscale
            pixels = _pixels(share, size.resolution)
            noise = _normal(share, vae.latent_channels, side, side)
            last = vae.duration_nimg
        return lambda passes: task.step(_first((pixels, noise), passes * images), last)

    return Workload(
        build,
        images,
        share // images,
        params.runtime.precision,
        key="vae.microbatch",
        resized=lambda count: vae_training(params, size, ranks, count),
    )


def encoding(params: Params, size: DatasetSize) -> Workload:
    """Images to latents."""
    images = min(max_batch_size(size.resolution), BATCH)
    return _codec(params, images, lambda codec: codec.encode(_pixels(images, size.resolution)))


def decoding(params: Params, size: DatasetSize) -> Workload:
    """Latents to images."""
    images = min(max_batch_size(size.resolution), params.sampling.batch)
    return _codec(params, images, lambda codec: codec.decode(_normal(images, *size.latent_shape)))


def _codec(params: Params, images: int, compute: Callable[[Any], object]) -> Workload:
    """A computation of the codec; free for pixels, and unknown for codecs of plug-ins."""
    kind = params.codec.kind
    if kind not in ("trained", "stable_diffusion"):
        return NOTHING

    def build(device: torch.device) -> Run:
        with device:
            if kind == "trained":
                codec: Any = TrainedVae(Autoencoder(params.vae).eval(), params.vae)
            else:
                codec = _stable_diffusion()

        def run() -> object:
            with device:
                return compute(codec)

        return _without_gradients(run)

    return Workload(build, images)


def _stable_diffusion() -> Any:
    """Stable Diffusion's VAE with random weights."""
    from diffusers import AutoencoderKL

    from edm2.vae.stable_diffusion import StableDiffusionVae

    network = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )
    return StableDiffusionVae(network.eval().requires_grad_(False), "paper", "nearest")


def detection(params: Params, size: DatasetSize) -> Workload:
    """Images to features of the detector; unknown for detectors of plug-ins."""
    name = params.evaluation.detector
    if name == "inception":
        return Workload(None, flops=INCEPTION_FLOPS)
    if name not in ("classifier", "dinov2", "efficientnet"):
        return NOTHING
    images = min(64, params.evaluation.samples)

    def build(device: torch.device) -> Run:
        with device:
            if name == "dinov2":
                network, x = Dinov2(), _normal(images, 3, IMAGE_SIZE, IMAGE_SIZE)
                return _without_gradients(lambda: network(x))
            pixels = _pixels(images, size.resolution)
            detector = EfficientNetLite() if name == "efficientnet" else _classifier(params, size)
        return _without_gradients(lambda: detector.features(pixels))

    return Workload(build, images)


def _classifier(params: Params, size: DatasetSize) -> Classifier:
    features = params.features
    return Classifier(
        features.channels, features.slices, features.dims, size.classes, size.resolution
    )


def _without_gradients(compute: Callable[[], object]) -> Run:
    @torch.no_grad()
    def run(passes: int) -> object:
        return compute()

    return run


def _first(batch: tuple[torch.Tensor, ...], images: int) -> Any:
    return tuple(tensor[:images] for tensor in batch)


def _normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


def _pixels(images: int, resolution: int) -> torch.Tensor:
    return torch.zeros(images, 3, resolution, resolution, dtype=torch.uint8)
