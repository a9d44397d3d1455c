"""`sampling` and `evaluation`: from networks to images to metrics."""

from typing import Annotated, Literal

from pydantic import Field

from edm2.params.number_types import (
    Batch,
    Churn,
    ChurnNoise,
    GridSide,
    ImageSeed,
    Interval,
    Neighbors,
    NoiseLevel,
    Rho,
    Samples,
    SeedBlocks,
    Steps,
)
from edm2.params.registry import one_of
from edm2.params.seams import DETECTORS, METRICS, SAMPLERS
from edm2.params.section import Section
from edm2.params.text_types import PathText


class Sampling(Section):
    labels: Literal["balanced", "uniform"] = Field(
        description="balanced: seeds take the classes in turn; uniform: a random class per seed (paper)"
    )
    solver: Annotated[str, one_of(SAMPLERS)] = Field(
        description="heun: EDM's second-order sampler; euler: first order, one evaluation per step"
    )
    steps: Steps = Field(description="noise levels; heun evaluates 2·steps−1 times")
    sigma_min: NoiseLevel = Field(description="lowest noise level")
    sigma_max: NoiseLevel = Field(description="highest noise level, where sampling starts")
    rho: Rho = Field(description="spacing of the noise levels (EDM eq. 5)")
    churn: Churn = Field(
        description="S_churn of EDM alg. 2: fresh noise added and removed, over all steps together; "
        "0: none, the deterministic sampler"
    )
    churn_interval: Interval | None = Field(
        description="noise levels [S_tmin, S_tmax] at which noise is added; null: all"
    )
    churn_noise: ChurnNoise = Field(
        description="S_noise: standard deviation of the fresh noise; 1 is exact"
    )
    dtype: Literal["float32", "float64"] = Field(
        description="of the solver's state; the network gets float32 in both cases"
    )
    batch: Batch = Field(description="images per batch and rank; does not change the images")


MetricName = Annotated[str, one_of(METRICS)]


class Evaluation(Section):
    detector: Annotated[str, one_of(DETECTORS)] = Field(
        description="whose features the metrics compare; classifier: that of `features`; efficientnet: "
        "EfficientNet-Lite0 trained on ImageNet, from an installed package; inception: Inception-v3 of FID; "
        "dinov2: DINOv2 ViT-L/14"
    )
    detector_path: PathText | None = Field(
        description="file of its published weights, for inception and dinov2; null: downloaded once; "
        "others: null"
    )
    reference: PathText | None = Field(
        description="published statistics of the real images, .npz with mu and sigma or EDM2's .pkl, "
        "for inception and dinov2; null: computed from all training images"
    )
    samples: Samples = Field(description="generated images per network; part of the metric's name")
    metrics: Annotated[
        tuple[MetricName, ...], Field(strict=False, min_length=1, max_length=100)
    ] = Field(
        description="fd: Fréchet distance, always needed for the EMA curve; fd_inf: the same at infinitely "
        "many samples, with its standard error; kid: kernel "
        "distance; precision, recall: by nearest neighbors; is: Inception score, with that "
        "detector only. All but fd keep features in memory: 4·dims bytes per image, 400 MB for 50000 of 2048"
    )
    neighbors: Neighbors = Field(
        description="k of precision and recall: distances to the k-th nearest neighbor"
    )
    allow_singular: bool = Field(
        description="true: a Fréchet distance of no more images than feature dimensions is computed, and its "
        "row is marked singular; false: it is an error"
    )
    seed_blocks: SeedBlocks = Field(
        description="disjoint blocks of `samples` seeds, on each of which every network is evaluated; "
        "their mean counts, at lengths chosen on the other blocks; tables also show the lowest (paper: 3); "
        "the most blocks of a network if sweep.search is set"
    )
    first_seed: ImageSeed = Field(description="first of the seeds that images are sampled from")
    confirm: bool = Field(description="evaluate the best network again on as many fresh seeds")
    grid_classes: GridSide = Field(description="classes in the sample grids, from the first on")
    grid_columns: GridSide = Field(description="images per class in the sample grids")

    def min_samples(self, metric: MetricName, dims: int) -> int:
        """The fewest images that a metric can be computed from, with features of `dims` dimensions."""
        return METRICS[metric].min_samples(self, dims)
