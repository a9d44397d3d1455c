"""The memory that is certain is less than what fake tensors find, and not much less."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import FULL_VAE, TINY, write_params

from edm2.params import Params, UserError, load
from edm2.params.memory import Need, min_memory
from edm2.planning import workloads
from edm2.planning.cost import cost_of
from edm2.planning.dataset import DatasetSize
from edm2.runtime.memory import require_memory, total_memory

pytestmark = pytest.mark.slow

ROOT = Path()
CPU = torch.device("cpu")
SIZE = DatasetSize(1000, 100, 10, 32, (4, 8, 8), 500.0, False)
LARGER = {**TINY, "dataset.resolution": 32, "diffusion.channels": 64, "vae.channels": 32}
WORKLOADS = {
    "train_features": lambda params, size: workloads.classifier_training(params, size, 1),
    "train_vae": lambda params, size: workloads.vae_training(params, size, 1),
    "train_diffusion": lambda params, size: workloads.denoiser_training("G", params, size, 1),
    "fid": lambda params, size: workloads.denoising("G", params, size, params.sampling.batch),
}


@pytest.fixture
def params_with(tmp_path: Path) -> Any:
    return lambda changes: load(write_params(tmp_path / "params.yaml", {**LARGER, **changes}))


def needed(stage: str, params: Params) -> int:
    return sum(need.bytes for need in min_memory(stage, params, 1, ROOT))


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("train_features", {"features.channels": 64}),
        ("train_vae", {"vae.res_blocks": 2}),
        ("train_vae", {**FULL_VAE, "vae.channels": 32, "vae.losses.adversarial": 0.0}),
        ("train_diffusion", {"diffusion.batch": 4, "diffusion.res_blocks": 3}),
        ("train_diffusion", {"diffusion.channel_mult": [4, 1, 2], "diffusion.batch": 256}),
        ("train_diffusion", {"runtime.activation_checkpointing": True}),
        ("train_diffusion", {"runtime.precision": "bf16"}),
        ("fid", {"sampling.batch": 300}),
    ],
)
def test_what_is_certain_is_less_than_all_and_most_of_it(
    params_with: Any, stage: str, changes: dict[str, Any]
) -> None:
    params = params_with(changes)
    side = params.dataset.resolution // params.vae.downscale
    size = replace(SIZE, latent_shape=(4, side, side))
    workload = WORKLOADS[stage](params, size)
    peak = cost_of(workload.build, min(2, workload.passes)).peak_bytes
    assert peak / 10 < needed(stage, params) < peak


def test_sizes_that_pass_alone_are_refused_together(params_with: Any) -> None:
    params = params_with({"diffusion.channels": 16_384, "diffusion.res_blocks": 100})
    with pytest.raises(UserError) as error:
        require_memory("train_diffusion G-0", min_memory("train_diffusion", params, 1, ROOT), CPU)
    for text in ("train_diffusion G-0", "GiB", "cpu", "diffusion.channels, diffusion.channel_mult"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("stage", "changes", "key"),
    [
        (
            "train_features",
            {"features.batch": 10**6, "features.duration_nimg": 10**6},
            "features.batch",
        ),
        ("train_vae", {"vae.channels": 16_384}, "vae.channels"),
        ("train_diffusion", {"diffusion.microbatch": None}, "diffusion.microbatch"),
        (
            "fid",
            {"evaluation.samples": 10**7, "evaluation.metrics": ["fd", "kid"]},
            "evaluation.samples",
        ),
        ("fid", {"sampling.batch": 10**6, "evaluation.samples": 10**6}, "sampling.batch"),
    ],
)
def test_the_params_of_the_largest_part_are_named(
    params_with: Any, stage: str, changes: dict[str, Any], key: str
) -> None:
    params = params_with(
        {"features.log_nimg": 10**6, **changes} if "features" in stage else changes
    )
    needs = min_memory(stage, params, 1, ROOT)
    assert key in max(needs, key=lambda need: need.bytes).keys


def test_what_there_is_may_be_used_up() -> None:
    whole = total_memory(CPU)
    assert whole > 2**30
    require_memory("work", [Need("weights", whole - 1, "a"), Need("images", 1, "b")], CPU)
    with pytest.raises(UserError, match=r"weights.*images.*Make a smaller"):
        require_memory("work", [Need("weights", whole, "a"), Need("images", 1, "b")], CPU)
    require_memory("work", [], CPU)
