"""`ema` and `sweep`: averages tracked while training, and lengths chosen afterwards."""

from typing import Literal

from pydantic import Field

from edm2.params.number_types import (
    EmaLength,
    EmaLengths,
    Factor,
    Images,
    Times,
    TrackedEmaLengths,
)
from edm2.params.section import Section
from edm2.params.text_types import Names, PathText

PILOT_BLOCKS = 10  # seed blocks after which a search knows how many more it needs
MIN_STRENGTHS = 3  # guidance strengths of a search over these, too


class Ema(Section):
    source: Literal["training", "published"] = Field(
        description="training: snapshots of this project's training; "
        "published: networks of EDM2's authors (config G)"
    )
    path: PathText | None = Field(
        description="source published: folder of their pickles, all of one network; else null"
    )
    ema_lengths: TrackedEmaLengths = Field(
        description="EMA lengths tracked during training; two give near-exact reconstructions"
    )
    halflife_nimg: Images = Field(
        description="half-life of the traditional EMA, in images (config A); paper: 50 million"
    )
    halflife_rampup: Factor = Field(
        description="upper limit of that half-life as a fraction of the training so far; paper: 0.05"
    )
    snapshot_nimg: Images = Field(description="images between two snapshots of the averages")


class SearchRange(Section):
    low: EmaLength = Field(description="shortest EMA length")
    high: EmaLength = Field(description="longest EMA length; at most 0.28")
    tolerance: EmaLength = Field(
        description="the search ends when the 95 % confidence interval of the best EMA length reaches no "
        "further than this on each side"
    )


class Sweep(Section):
    ema_lengths: EmaLengths = Field(
        description="EMA lengths to reconstruct: a list, or a range like 0.02...0.24 by 0.02"
    )
    nimg: Times | None = Field(
        description="training times at which averages end, a list or range; null: the end"
    )
    tensors: Names = Field(
        description="tensors whose EMA length is swept while the others keep tensors_base: "
        "names as in the paper, patterns like *-affine, or paper for its list (Figure 5b)"
    )
    tensors_base: EmaLength | None = Field(
        description="EMA length of all other tensors; null without tensors"
    )
    search: SearchRange | None = Field(
        description="{low, high, tolerance}: find the best EMA length from low to high: few images at many "
        "lengths, more near the minimum, until its 95 % confidence interval reaches no further than the "
        "tolerance on each side, or on evaluation.seed_blocks blocks; null: the grid of ema_lengths"
    )
    normalize_weights: bool = Field(
        description="divide the weights of the snapshots by their sum, as the paper's published code "
        "does; false: as its Algorithm 3 is printed"
    )
    dtype: Literal["float16", "float32"] = Field(description="precision of the networks")
    materialize: bool = Field(
        description="write the networks to models/sweep; false: keep no file, and make each from the "
        "snapshots where it is used"
    )
