"""`edm2 clean`: wrong options."""

import pytest


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "2d"])
def test_days_are_a_number(empty_project, run, days):
    empty_project({})
    result = run("clean", "--older-than", days)
    assert (result.status, result.out) == (2, "")
    assert repr(days) in result.err
    assert "14 (days)" in result.err
