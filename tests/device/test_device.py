"""Device code without a device: mixed devices, waits of the host, kernels; see `report.py`.

All paths run once, in a process of their own, in which PyTorch finds the libraries of `stub`.
"""

from collections import Counter

import pytest
from device import evaluation_paths, training_paths, vae_paths  # noqa: F401  (they register paths)
from device.path import PATHS, Record
from device.report import run_paths
from device.stub import Unavailable

from edm2.params.configs import CONFIGS

pytestmark = pytest.mark.slow
MAX_SYNCS = 12  # of steps that are rare: log rows, checkpoints
MAX_LAUNCHES = 5000  # of a step of G at size S


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    try:
        trees = run_paths([], tmp_path_factory.mktemp("device"))
    except Unavailable as reason:
        pytest.skip(str(reason))
    return {name: Record.of(tree) for name, tree in trees.items()}


@pytest.mark.parametrize("name", list(PATHS))
def test_a_path_mixes_no_devices_and_seldom_waits(records: dict[str, Record], name: str) -> None:
    record = records[name]
    assert record.error is None, record.error
    assert record.steps
    assert PATHS[name].syncs.keys() <= {step.name for step in record.steps} | {"probabilities"}
    for step in record.steps:
        allowed = PATHS[name].syncs.get(step.name, MAX_SYNCS)
        assert step.syncs.total() <= allowed, (step.name, step.syncs)


def test_a_training_step_waits_at_most_once(records: dict[str, Record]) -> None:
    """Also in microbatches and with measured magnitudes; of denoisers, the VAE and the classifier."""
    steps = {
        (name, step.name): step.syncs
        for name, record in records.items()
        for step in record.steps
        if name.startswith("train ") and step.name.startswith("step")
    }
    trained = {name.removeprefix("train ").removeprefix("the ").split()[0] for name, _ in steps}
    assert trained == {*CONFIGS, "VAE", "classifier"}
    assert all(syncs.total() <= 1 for syncs in steps.values()), steps


def test_a_step_starts_few_kernels(records: dict[str, Record]) -> None:
    """Of the 162 layers with forced norms each takes two at most; gradients need no more than a few."""
    step = records["train G at size S"].step("step")
    assert step.launches.total() <= MAX_LAUNCHES, step.operations.most_common(10)
    by_function = Counter[str]()
    for place, count in step.launches.items():
        by_function[place.partition(" ")[2]] += count
    assert by_function["force_norms"] <= 2 * 162 + 20
    assert by_function["_zero_nonfinite"] <= 100
