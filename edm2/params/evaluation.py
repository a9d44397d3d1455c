"""`sampling` and `evaluation`: from networks to images to numbers."""

from typing import Literal

from pydantic import Field

from edm2.params.section import Count, Interval, NonNegative, Positive, Section


class Sampling(Section):
    solver: Literal["heun", "euler"] = Field(
        description="heun: EDM's second-order sampler; euler: first order, one evaluation a step"
    )
    steps: int = Field(ge=2, description="noise levels; heun evaluates 2·steps−1 times")
    sigma_min: Positive = Field(description="lowest noise level")
    sigma_max: Positive = Field(description="highest noise level, where sampling starts")
    rho: Positive = Field(description="spacing of the noise levels (EDM eq. 5)")
    churn: NonNegative = Field(
        description="S_churn of EDM alg. 2: fresh noise added and removed, over all steps together; "
        "0: none, the deterministic sampler"
    )
    churn_interval: Interval | None = Field(
        description="noise levels [S_tmin, S_tmax] at which noise is added; null: all"
    )
    churn_noise: Positive = Field(
        description="S_noise: standard deviation of the fresh noise; 1 is exact"
    )
    dtype: Literal["float32", "float64"] = Field(
        description="of the solver's state; the network sees float32 either way"
    )
    batch: Count = Field(description="images sampled at once on a rank; changes no image")


class Evaluation(Section):
    detector: Literal["classifier"] = Field(
        description="which features the Fréchet distance compares; classifier: the data set's own"
    )
    samples: Count = Field(description="generated images per network; part of the metric's name")
    first_seed: int = Field(ge=0, description="images are made from this seed and those after it")
    confirm: bool = Field(
        description="measure the best network again, on as many fresh seeds as samples"
    )
    grid_columns: Count = Field(description="images per class in the sample grids")
