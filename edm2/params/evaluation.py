"""`sampling` and `evaluation`: from networks to images to numbers."""

from typing import Literal

from pydantic import Field

from edm2.params.section import Count, Positive, Section


class Sampling(Section):
    steps: int = Field(
        ge=2, description="noise levels; the Heun solver takes 2·steps−1 evaluations"
    )
    sigma_min: Positive = Field(description="lowest noise level")
    sigma_max: Positive = Field(description="highest noise level, where sampling starts")
    rho: Positive = Field(description="spacing of the noise levels (EDM eq. 5)")
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
