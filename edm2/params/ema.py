"""`ema` and `sweep`: averages tracked while training, and lengths chosen afterwards."""

from typing import Literal

from pydantic import Field

from edm2.params.section import Count, EmaLengths, Positive, Section


class Ema(Section):
    sigma_rels: EmaLengths = Field(
        description="EMA lengths tracked during training; two give near-exact reconstructions"
    )
    halflife_nimg: Count = Field(
        description="half-life of the traditional EMA, in images (config A); paper: 50 million"
    )
    halflife_rampup: Positive = Field(
        description="that half-life over training time so far, at most; paper: 0.05"
    )
    snapshot_nimg: Count = Field(description="images between two snapshots of the averages")


class Sweep(Section):
    sigma_rel: EmaLengths = Field(
        description="EMA lengths to reconstruct: a list, or a range like 0.02...0.24 by 0.02"
    )
    nimg: Count | None = Field(
        description="training time at which the averages end; null: the end of training"
    )
    dtype: Literal["float16", "float32"] = Field(description="precision of the written networks")
