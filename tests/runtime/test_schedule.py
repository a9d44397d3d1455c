"""Learning-rate schedules."""

import pytest

from edm2.runtime.schedule import warmup_cosine


@pytest.mark.parametrize(
    ("nimg", "expected"),
    [(0, 0), (25, 0.25), (100, 1), (300, 0.5), (200, (2 + 2**0.5) / 4), (500, 0), (600, 0)],
)
def test_the_factor_warms_up_and_decays(nimg: int, expected: float) -> None:
    assert warmup_cosine(nimg, 100, 500) == pytest.approx(expected, abs=1e-12)
