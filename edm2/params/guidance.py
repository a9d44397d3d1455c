"""`guidance`: a second network; the sampler is guided away from its prediction."""

from typing import Any, Literal

from pydantic import Field

from edm2.params.number_types import EmaLength, Images, Interval, Strengths
from edm2.params.section import Section
from edm2.params.text_types import PathText


class Guidance(Section):
    """D_w = w·D_main + (1 − w)·D_guide, for every network of the sweep and every strength w."""

    guide: Literal["none", "unlabeled", "snapshot", "trained", "published"] = Field(
        description="unlabeled: the network itself without the class label (needs "
        "diffusion.label_dropout); snapshot: another EMA length or time of the same training; "
        "trained: a separate training, which differs in `changes`; published: a network of EDM2's authors"
    )
    path: PathText | None = Field(
        description="guide published: folder of their pickles, all of one network; else null"
    )
    strength: Strengths = Field(description="w, a list or range; 1: no guidance")
    interval: Interval | None = Field(
        description="noise levels [low, high] between which guidance acts; null: everywhere"
    )
    ema_length: EmaLength | None = Field(
        description="the guide's EMA length; null: that of the network it guides"
    )
    nimg: Images | None = Field(
        description="training time of the guide; null: that of the network it guides (guide "
        "snapshot), or the end of the guide's training"
    )
    changes: dict[str, Any] = Field(
        description="guide trained or published: fields of `diffusion` in which it differs, "
        "like {conditional: false, channels: 32}; else {}"
    )
