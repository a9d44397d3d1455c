"""`ema` and `sweep`: averages tracked while training, and lengths chosen afterwards."""

from typing import Literal

from pydantic import Field

from edm2.params.section import Count, EmaLengths, Section


class Ema(Section):
    sigma_rels: EmaLengths = Field(
        description="EMA lengths tracked during training; two give near-exact reconstructions"
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
