"""The seams: what can be added without changing this code. See docs/guides/extending.md.

Each registry lists its members by name; the protocol that a member follows is next to the code
that uses it. Training configs are in `edm2.params.configs`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from edm2.params.registry import Registry

OF_FILES = frozenset({"held_out_path", "classes"})  # fields of sources whose images are files
SPLITS = 10  # of the images, for the Inception score and its standard error
GROUPS = 10  # of the images, for the Fréchet distance at infinitely many and its standard error


@dataclass(frozen=True)
class SourceKind:
    """A source of images.

    Attributes:
        open: "module:attribute" or function (dataset, root) → `edm2.data.sources.Source`.
        path: what `dataset.path` names; "files" are a pattern. None: no path.
        options: the fields of `dataset` that it takes, of those that not every source takes:
            held_out_path, classes, label_field, image_field.
        max_resolution: largest `dataset.resolution`, if there is a limit.
        extra: extra of edm2 that it needs, and a package of it, if it needs one.
        latents: whether it has latents of images and no images; `open` returns a
            `edm2.data.sources.LatentSource` then.
    """

    open: str | Callable[..., Any]
    path: Literal["folder", "file", "files", "folder or file", "folder or files"] | None = None
    options: frozenset[str] = frozenset()
    max_resolution: int | None = None
    extra: tuple[str, str] | None = None
    latents: bool = False


@dataclass(frozen=True)
class CodecKind:
    """A kind of codec.

    Attributes:
        load: "module:attribute" or function (folder, device) → `edm2.vae.codec.Codec`.
        save: the same for (codec params, folder, root), which writes all that `load` needs except
            the manifest; None: the stage `train_vae` trains it.
        layout: image pixels per latent pixel along each side, and latent channels; None: see
            `edm2.params.codec_checks.latent_layout`.
    """

    load: str | Callable[..., Any]
    save: str | Callable[..., Any] | None
    layout: tuple[int, int] | None = None


@dataclass(frozen=True)
class VaeBackboneKind:
    """A network whose feature maps the losses of the VAE use.

    Attributes:
        load: "module:attribute" or function (weights path or None, classifier folder, device) →
            `edm2.features.backbone.Backbone`.
        untrained: the same of a function without arguments that builds it with random weights, for
            `edm2 plan`; None: the classifier of the dataset.
        min_resolution: smallest side of its images; None: 2 for each slice of the classifier but the first.
        published: whether there are published weights (`vae.backbone_path`).
    """

    load: str | Callable[..., Any]
    untrained: str | Callable[..., Any] | None
    min_resolution: int | None = None
    published: bool = False


@dataclass(frozen=True)
class DetectorKind:
    """A detector.

    Attributes:
        load: "module:attribute" or function (weights path or None, classifier folder, device) →
            `edm2.features.backbone.Detector`.
        dims: width of its features; None: `features.dims`.
        published: whether there are published weights (`detector_path`) and published
            statistics of its features (`evaluation.reference`).
        predicts_classes: whether it predicts p(y|x), for the Inception score.
    """

    load: str | Callable[..., Any]
    dims: int | None
    published: bool = False
    predicts_classes: bool = False


@dataclass(frozen=True)
class MetricKind:
    """A metric.

    Attributes:
        compute: "module:attribute" or function (`edm2.metrics.registry.MetricInputs`) →
            `edm2.metrics.registry.MetricValue`.
        min_samples: (evaluation params, feature dimensions) → the fewest images it needs.
        uses_features: whether it uses single features, which are then kept in memory, and not only
            their mean and covariance.
        compares: whether it compares with features of real images.
        uses_reference: whether it uses the real images at all, be it their mean and covariance.
        predicts_classes: whether it needs a detector that predicts classes.
    """

    compute: str | Callable[..., Any]
    min_samples: Callable[[Any, int], int]
    uses_features: bool = True
    compares: bool = True
    uses_reference: bool = True
    predicts_classes: bool = False


def _fd_samples(evaluation: Any, dims: int) -> int:
    return 2 if evaluation.allow_singular else dims + 1


def _fd_inf_samples(evaluation: Any, dims: int) -> int:
    """So many that all but the largest group are enough for `fd`."""
    return -(-_fd_samples(evaluation, dims) * GROUPS // (GROUPS - 1)) + 1


def _neighbor_samples(evaluation: Any, dims: int) -> int:
    return int(evaluation.neighbors) + 1


SOURCES: Registry[SourceKind] = Registry(
    "source",
    {
        "digits": SourceKind("edm2.data.sources:open_digits"),
        "photos": SourceKind("edm2.data.sources:open_photos", max_resolution=128),
        "folder": SourceKind("edm2.data.sources:open_folder", "folder", OF_FILES),
        "webdataset": SourceKind(
            "edm2.data.sources:open_webdataset", "files", OF_FILES | {"label_field"}
        ),
        "zip": SourceKind("edm2.data.sources:open_zip", "file", OF_FILES),
        "huggingface": SourceKind(
            "edm2.data.sources:open_huggingface",
            "folder or files",
            OF_FILES | {"label_field", "image_field"},
            extra=("hf", "datasets"),
        ),
        "latents": SourceKind(
            "edm2.data.sources:open_latents",
            "folder or file",
            frozenset({"classes"}),
            latents=True,
        ),
    },
)
CODECS: Registry[CodecKind] = Registry(
    "codec",
    {
        "trained": CodecKind("edm2.vae.codec:load_trained", None),
        "stable_diffusion": CodecKind(
            "edm2.vae.codec:load_stable_diffusion", "edm2.vae.published:save_stable_diffusion"
        ),
        "rgb": CodecKind("edm2.vae.codec:load_rgb", "edm2.vae.published:save_nothing", (1, 3)),
    },
)
BACKBONES: Registry[Callable[..., Any]] = Registry("backbone", {"unet": "edm2.diffusion.unet:Unet"})
OBJECTIVES: Registry[Callable[..., Any]] = Registry(
    "objective", {"edm": "edm2.diffusion.objective:EdmObjective"}
)
SAMPLERS: Registry[Callable[..., Any]] = Registry(
    "sampler", {"heun": "edm2.sampling.solver:heun", "euler": "edm2.sampling.solver:euler"}
)
VAE_BACKBONES: Registry[VaeBackboneKind] = Registry(
    "VAE backbone",
    {
        "classifier": VaeBackboneKind("edm2.features.backbones:classifier", None),
        "efficientnet": VaeBackboneKind(
            "edm2.features.backbones:efficientnet",
            "edm2.features.efficientnet:EfficientNetLite",
            min_resolution=32,
        ),
        "vgg16": VaeBackboneKind(
            "edm2.features.backbones:vgg16",
            "edm2.features.backbones:untrained_vgg16",
            16,
            published=True,
        ),
    },
)
DETECTORS: Registry[DetectorKind] = Registry(
    "detector",
    {
        "classifier": DetectorKind("edm2.features.detectors:classifier", None),
        "efficientnet": DetectorKind("edm2.features.detectors:efficientnet", 320),
        "inception": DetectorKind(
            "edm2.features.detectors:inception", 2048, published=True, predicts_classes=True
        ),
        "dinov2": DetectorKind("edm2.features.detectors:dinov2", 1024, published=True),
    },
)
METRICS: Registry[MetricKind] = Registry(
    "metric",
    {
        "fd": MetricKind("edm2.metrics.registry:fd", _fd_samples, uses_features=False),
        "fd_inf": MetricKind("edm2.metrics.registry:fd_inf", _fd_inf_samples, compares=False),
        "kid": MetricKind("edm2.metrics.registry:kid", lambda evaluation, dims: 3),
        "precision": MetricKind("edm2.metrics.registry:precision_of", _neighbor_samples),
        "recall": MetricKind("edm2.metrics.registry:recall_of", _neighbor_samples),
        "is": MetricKind(
            "edm2.metrics.registry:inception_score_of",
            lambda evaluation, dims: SPLITS,
            compares=False,
            uses_reference=False,
            predicts_classes=True,
        ),
    },
)
