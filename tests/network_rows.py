"""Rows of the table of networks (reports/fid), for tests of the report."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

LENGTHS = (0.05, 0.1, 0.2)


def network_rows(
    values: Sequence[float], lengths: Sequence[float] = LENGTHS, **columns: Any
) -> pd.DataFrame:
    """One EMA curve of config G with two metrics: of 1000 samples, and of 200 with ten times the value.

    Args:
        columns: other values for some columns.
    """
    common = {
        "config": "G",
        "training_seed": 0,
        "nimg": 1000,
        "tensors": "all",
        "seeds": "sweep",
        "guidance": 1.0,
        "average": "power",
        "error": 0.01,
        "weight_sum": 1.0,
        "snapshots": 8,
        "singular": False,
        "standard_error": None,
        "reference": 1500,
        "detector": "classifier",
        "at_chance": False,
        "first_seed": 0,
        **columns,
    }
    rows = [
        {
            **common,
            "network": f"{common['nimg']}-{common['tensors']}-{length}",
            "ema_length": length,
            "metric": f"fd_classifier_{name}",
            "value": value * scale,
            "samples": samples,
        }
        for length, value in zip(lengths, values, strict=True)
        for name, samples, scale in (("1k", 1000, 1), ("200", 200, 10))
    ]
    return pd.DataFrame(rows)


def concatenated(*tables: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)
