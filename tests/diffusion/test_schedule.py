"""The learning rate, compared with values calculated by hand."""

from math import inf, sqrt

import pytest

from edm2.diffusion.schedule import learning_rate


@pytest.mark.parametrize(
    ("nimg", "decay_batches", "rampup_nimg", "expected"),
    [
        (0, inf, 10_000, 0.0),
        (1_000, inf, 10_000, 0.001),  # a tenth of the ramp
        (5_000, inf, 10_000, 0.005),
        (10_000, inf, 10_000, 0.01),
        (10**9, inf, 10_000, 0.01),  # always constant
        (70_000, 700, 10_000, 0.01),  # t = 700 batches of 100: the last constant rate
        (280_000, 700, 10_000, 0.005),  # 4·t_ref: half
        (140_000, 700, 10_000, 0.01 / sqrt(2)),
        (630_000, 700, 10_000, 0.01 / 3),
        (40_000, 100, 80_000, 0.0025),  # ramp and decay multiply: half of half
    ],
)
def test_learning_rate(nimg, decay_batches, rampup_nimg, expected):
    rate = learning_rate(nimg, 100, 0.01, decay_batches, rampup_nimg)
    assert rate == pytest.approx(expected, rel=1e-12)
