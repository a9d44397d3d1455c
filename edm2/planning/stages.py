"""What each stage of the pipeline computes and writes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from edm2.diffusion.setup import denoiser_for
from edm2.params import Params
from edm2.params.configs import ConfigName
from edm2.params.launch import launched_ranks, launcher_of
from edm2.params.replicates import Replicate
from edm2.params.seams import CODECS
from edm2.params.vae import Vae
from edm2.planning import workloads
from edm2.planning.dataset import STORED_BYTES, DatasetSize
from edm2.planning.sampling import evaluations, sweep_of
from edm2.planning.workloads import Workload
from edm2.vae import robustness
from edm2.vae.network import Autoencoder

CHECKPOINTS = 3  # two are kept while the next is written


@dataclass(frozen=True)
class Part:
    """A computation of a stage.

    Attributes:
        images: that pass through it, as often as they do.
    """

    name: str
    workload: Workload
    images: int


@dataclass(frozen=True)
class Stage:
    """What a stage does.

    Attributes:
        name: as DVC has it, with its training, like fid@G-0.
        images: that it trains on, reads or generates.
        parts: its computations.
        ranks: processes that share them.
        disk_bytes: of its results.
        scratch_bytes: of the checkpoints while it runs.
        training: that it is of; None: the stage runs once.
    """

    name: str
    images: int
    parts: tuple[Part, ...] = ()
    ranks: int = 1
    disk_bytes: int = 0
    scratch_bytes: int = 0
    training: Replicate | None = None

    @property
    def group(self) -> str:
        """What all trainings of a config have in common, like fid@G."""
        return self.name if self.training is None else self.name.rpartition("-")[0]


@dataclass(frozen=True)
class Images:
    """What is computed with images, in several stages."""

    encode: Workload
    decode: Workload
    detect: Workload


def stages_of(params: Params, size: DatasetSize) -> Iterator[Stage]:
    """All stages in their order; those of all trainings."""
    images = Images(
        workloads.encoding(params, size),
        workloads.decoding(params, size),
        workloads.detection(params, size),
    )
    yield from _of_the_dataset(params, size, images)
    for config in params.configs:
        stages = list(_of_a_config(config, params.of(config), size, images))
        for training in (Replicate(config, seed) for seed in params.seeds):
            for stage in stages:
                name = f"{stage.name}@{training}"
                yield replace(stage, name=name, training=training)
    yield Stage("report", 0)


def ranks_of(stage: str, params: Params) -> int:
    """Processes that share a stage."""
    return launched_ranks(launcher_of(params.launch, stage))


def _of_the_dataset(params: Params, size: DatasetSize, images: Images) -> Iterator[Stage]:
    if not params.dataset.has_images:
        yield from _of_latents(params, size)
        return
    duration, held_out = params.features.duration_nimg, size.held_out
    stored = size.images_on_disk if params.dataset.stored else 0
    yield Stage("prepare", size.train + held_out, (), ranks_of("prepare", params), stored)
    ranks = ranks_of("train_features", params)
    classify = workloads.classifier_training(params, size, ranks)
    yield Stage("train_features", duration, (Part("training", classify, duration),), ranks)
    read = 0 if params.evaluation.reference else size.train
    features = (Part("features", images.detect, read),)
    yield Stage("reference", read, features, ranks_of("reference", params))
    yield _codec(params, size, images)
    parts = (*_reconstruction(images, held_out), Part("features", images.detect, 2 * held_out))
    yield Stage("baselines", held_out, parts, ranks_of("baselines", params))
    noisy = min(held_out, robustness.IMAGES)
    parts = (
        Part("encoding", images.encode, size.train + noisy),
        Part("decoding", images.decode, noisy * len(robustness.SIGMAS)),
    )
    ranks = ranks_of("encode_latents", params)
    yield Stage("encode_latents", size.train, parts, ranks, size.latents_on_disk)


def _of_latents(params: Params, size: DatasetSize) -> Iterator[Stage]:
    """Latents without images are imported, and nothing else is computed."""
    for name in ("prepare", "train_features", "reference", "train_vae", "baselines"):
        yield Stage(name, 0, ranks=ranks_of(name, params))
    ranks = ranks_of("encode_latents", params)
    yield Stage("encode_latents", size.train, (), ranks, size.latents_on_disk)


def _codec(params: Params, size: DatasetSize, images: Images) -> Stage:
    """The training of the VAE, if it is trained, and the evaluations of its reconstructions."""
    vae, ranks = params.vae, ranks_of("train_vae", params)
    evaluated = min(size.held_out, vae.evaluate_images or size.held_out)
    if CODECS[params.codec.kind].save is not None:
        return Stage("train_vae", 0, _reconstruction(images, evaluated), ranks)
    averages = vae.ema.evaluate_lengths if vae.ema.ema_lengths else ()
    evaluations = 1 + vae.duration_nimg // vae.evaluate_nimg + len(averages)
    step = workloads.vae_training(params, size, ranks)
    training = Part("training", step, vae.duration_nimg)
    parts = (training, *_reconstruction(images, evaluations * evaluated))
    return Stage("train_vae", vae.duration_nimg, parts, ranks, disk_bytes=_vae_snapshots(vae))


def _vae_snapshots(vae: Vae) -> int:
    """Bytes of the snapshots of its averages, in 16 bits."""
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in Autoencoder(vae).parameters())
    return 2 * count * len(vae.ema.ema_lengths) * (vae.duration_nimg // vae.ema.snapshot_nimg)


def _reconstruction(images: Images, count: int) -> tuple[Part, ...]:
    return Part("encoding", images.encode, count), Part("decoding", images.decode, count)


def _of_a_config(
    config: ConfigName, params: Params, size: DatasetSize, images: Images
) -> Iterator[Stage]:
    guide, count = params.guide_of(config), parameters(config, params, size)
    separate = params.guidance.guide in ("trained", "published")
    guide_count = parameters(config, guide, size) if separate else count
    nothing = Stage("train_diffusion", 0)
    own = params.ema.source == "training"
    yield _training("train_diffusion", config, params, size, count) if own else nothing
    if params.guidance.guide == "trained":
        yield _training("train_guide", config, guide, size, guide_count)
    else:
        yield Stage("train_guide", 0)
    yield Stage("snapshot_emas", 0)
    sweep, number = sweep_of(config, params), STORED_BYTES[params.sweep.dtype]
    stored = sweep.networks * count + sweep.guides * guide_count if params.sweep.materialize else 0
    yield Stage("sweep_ema", 0, disk_bytes=number * stored)
    yield _evaluation(config, params, guide if separate else params, size, images)


def _training(
    stage: str, config: ConfigName, params: Params, size: DatasetSize, count: int
) -> Stage:
    """The training of a denoiser of `count` parameters: snapshots in 16 bits, the last network in 32."""
    ranks, duration = ranks_of(stage, params), params.diffusion.duration_nimg
    step = workloads.denoiser_training(config, params, size, ranks)
    traditional = params.resolved(config).average == "traditional"
    averages = 1 if traditional else len(params.ema.ema_lengths)
    snapshots = duration // params.ema.snapshot_nimg * averages
    return Stage(
        stage,
        duration,
        (Part("training", step, duration),),
        ranks,
        disk_bytes=count * (2 * snapshots + 4),
        scratch_bytes=CHECKPOINTS * count * 4 * (1 + 2 + averages),  # with Adam's moments
    )


def _evaluation(
    config: ConfigName, params: Params, guide: Params, size: DatasetSize, images: Images
) -> Stage:
    """Sampling with all networks at all strengths, and the features of what they generate."""
    sweep, batch = sweep_of(config, params), params.sampling.batch
    doubled = params.guidance.guide == "unlabeled" and params.guidance.strength != (1.0,)
    main = workloads.denoising(config, params, size, batch * (2 if doubled else 1))
    generated, calls = sum(sweep.images.values()), Counter[str]()
    for strength, count in sweep.images.items():
        by_main, by_guide = evaluations(params, strength)
        calls += Counter(main=by_main * count, guide=by_guide * count)
    parts = [Part("denoising", main, calls["main"])]
    if calls["guide"]:
        other = workloads.denoising(config, guide, size, batch)
        parts.append(Part("guiding", other, calls["guide"]))
    parts.append(Part("decoding", images.decode, generated))
    parts.append(Part("features", images.detect, generated))
    return Stage("fid", generated, tuple(parts), ranks_of("fid", params))


def parameters(config: ConfigName, params: Params, size: DatasetSize) -> int:
    """Parameters of the raw network."""
    with torch.device("meta"):
        denoiser = denoiser_for(config, params, size.latent_shape, size.classes)
    return sum(parameter.numel() for parameter in denoiser.unet.parameters())
