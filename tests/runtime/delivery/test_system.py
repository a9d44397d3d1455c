"""The machine is sampled less and less often, under MLflow's names."""

import pytest

from edm2.runtime.delivery import system
from edm2.runtime.delivery.system import SystemMetrics

DAY = 86400.0


def test_a_day_has_a_bounded_number_of_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(system.time, "monotonic", lambda: clock[0])
    metrics = SystemMetrics()
    while clock[0] + metrics.due < 10 * DAY:
        clock[0] += max(metrics.due, 0.001)
        if metrics.due <= 0:
            metrics.sample()
        if clock[0] <= 60:
            assert metrics.count == clock[0] // 10
    assert 500 < metrics.count < 1000


def test_names_and_units_are_those_of_mlflow() -> None:
    sample = SystemMetrics().sample()
    assert sample.keys() >= {
        "system/cpu_utilization_percentage",
        "system/system_memory_usage_megabytes",
    }
    assert 0 <= sample["system/cpu_utilization_percentage"] <= 100
    assert 0 < sample["system/system_memory_usage_percentage"] <= 100
