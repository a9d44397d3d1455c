"""Paths of the evaluation: samplers, detectors, metrics; and those that show that the record is right."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from device.fake_cuda import CUDA, Recorder
from device.path import path
from device.training_paths import BATCH, RESOLUTION, make_denoiser
from tiny_denoiser import diffusion_params

from edm2.data.normalization import Normalization
from edm2.diffusion.inference import prepare_for_inference
from edm2.features.classifier import Classifier
from edm2.features.dinov2 import Dinov2
from edm2.features.vgg import Vgg16
from edm2.metrics.collection import Collection
from edm2.metrics.kernel import kernel_distance
from edm2.metrics.neighbors import precision, recall
from edm2.metrics.statistics import finite_features
from edm2.params import load
from edm2.runtime.finite import nonfinite_rows
from edm2.sampling.generate import generate, seed_labels
from edm2.sampling.guidance import (
    ConditionalDenoise,
    DenoisePair,
    guided,
    with_guide,
    without_labels,
)

STEPS = 2
SAMPLERS: dict[str, dict[str, Any]] = {
    "heun with churn in float64": {"churn": 40.0, "dtype": "float64"},
    "heun without labels as a guide": {},
    "heun with a guide within an interval": {},
}


def network(config: str = "G") -> ConditionalDenoise:
    """As `edm2.pipeline.sampler` loads it."""
    denoiser = make_denoiser(config, diffusion_params())
    return prepare_for_inference(denoiser.eval().requires_grad_(False))


@path("form for sampling", evaluation=0)
def form(recorder: Recorder) -> Iterator[str]:
    """Of config A; the samplers have that of G."""
    x, sigma = torch.zeros(2, 4, RESOLUTION, RESOLUTION, device=CUDA), torch.ones(2, device=CUDA)
    denoise = network("A")
    recorder.clear()
    result = denoise(x, sigma, torch.zeros(2, dtype=torch.int64, device=CUDA))
    assert (result.device, result.dtype) == (CUDA, torch.float32)
    yield "evaluation"


def sample(name: str, changes: dict[str, Any], recorder: Recorder) -> Iterator[str]:
    main = network()
    pair: DenoisePair = without_labels(main) if "labels" in name else with_guide(main, main)
    interval = (0.3, 5.0) if "interval" in name else None
    denoise = guided(main, pair, 1.5 if "guide" in name else 1.0, interval)
    sampling = load("params.yaml").sampling.model_copy(
        update={"steps": STEPS, "batch": BATCH, "churn": 0.0, **changes}
    )
    recorder.clear()
    labels = seed_labels(range(BATCH), 3, "balanced")
    shape = (4, RESOLUTION, RESOLUTION)
    for batch in generate(denoise, range(BATCH), labels, shape, sampling, CUDA):
        yield "batch"
        assert nonfinite_rows(batch.samples) == []
        latents = Normalization(torch.zeros(4), torch.ones(4)).denormalize(batch.samples)
        assert (latents.device, latents.dtype) == (CUDA, torch.float32)
        yield "check"


for name, changes in SAMPLERS.items():
    # seeds twice and labels go to the device; an interval asks for σ in each evaluation
    waits = 3 + (2 * STEPS - 1 if "interval" in name else 0)
    path(f"sample: {name}", batch=waits, check=3)(partial(sample, name, changes))


def detector(make: Callable[[], Any], recorder: Recorder) -> Iterator[str]:
    network = make().to(CUDA)
    recorder.clear()
    features = finite_features(network, torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=CUDA))
    assert features.shape == (2, network.dims)
    yield "batch"
    if hasattr(network, "probabilities"):
        network.probabilities(torch.zeros(2, network.dims, device=CUDA))
        yield "probabilities"


def inception() -> Any:
    from random_detectors import random_inception

    from edm2.features.inception import Inception

    return Inception(random_inception(), "")


DETECTORS: dict[str, Callable[[], Any]] = {
    "classifier": lambda: Classifier(8, 2, 8, 3, 32).eval().requires_grad_(False),
    "inception": inception,
    "dinov2": lambda: Dinov2(depth=1),
}
for name, make in DETECTORS.items():
    path(f"detector: {name}", batch=1, probabilities=0)(partial(detector, make))


@path("backbone: VGG16", slices=0)
def vgg(recorder: Recorder) -> Iterator[str]:
    network = Vgg16(torch.ones(1472)).to(CUDA)
    recorder.clear()
    maps = network.slices(torch.zeros(2, 3, 32, 32, device=CUDA))
    assert len(maps) == 5
    yield "slices"


@path("streamed statistics", batch=1)
def statistics(recorder: Recorder) -> Iterator[str]:
    network = DETECTORS["classifier"]().to(CUDA)
    collection = Collection(network.dims, counts=(4,), kept=4)
    recorder.clear()
    for start in (0, 2):
        pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=CUDA)
        collection.add(range(start, start + 2), finite_features(network, pixels))
        yield "batch"
    assert collection.moments[4].count == 4


FEATURES = np.random.default_rng(0).normal(size=(2, 10, 4)).astype(np.float32)


@path("kernel distance")
def kernel(recorder: Recorder) -> Iterator[str]:
    kernel_distance(*FEATURES, CUDA)
    yield "distance"


@path("precision and recall")
def neighbors(recorder: Recorder) -> Iterator[str]:
    assert precision(*FEATURES, 3, CUDA) == 0.1  # one of ten: each sum that is read is one
    yield "precision"
    recall(*FEATURES, 3, CUDA)
    yield "recall"


@path("recorder", waits=6, sends=0, launches=0)
def recorder_itself(recorder: Recorder) -> Iterator[str]:
    """What the other paths rely on."""
    x = torch.zeros(3, device=CUDA)
    try:
        x + torch.zeros(3)
    except RuntimeError as error:
        assert "same device" in str(error)  # noqa: PT017  (no pytest in this process)
    else:
        raise AssertionError("mixed devices are not noticed")
    yield "raises"
    float(x[0]), bool(x.any()), x.tolist(), x.cpu()
    torch.tensor([1.0], device=CUDA), torch.zeros(2).to(CUDA)
    assert recorder.syncs.total() == 6
    yield "waits"
    torch.zeros(2).to(CUDA, non_blocking=True)
    torch.zeros(2**20).pin_memory().to(CUDA, non_blocking=True)
    assert recorder.copies.total() == 2
    yield "sends"
    small, large = [torch.zeros(3, device=CUDA)] * 111, [torch.zeros(2**25, device=CUDA)]
    recorder.clear()
    (x + x).view(3, 1).mul_(2)
    assert recorder.launches.total() == 2
    torch._foreach_add_(small, 1)  # 110 at once
    torch._foreach_add_(large, 1)  # 320 blocks of 65536 at once
    assert recorder.launches.total() == 2 + 2 + 2
    torch._foreach_mul_(small, [x[:1]] * 111)  # of different shapes: one by one
    assert recorder.launches.total() == 6 + 111
    yield "launches"
