"""The types of the fields of params.yaml.

No field has a default: params.yaml lists every value, so that DVC sees it.
Values are not converted (strict): "8" is not 8, and true is not 1.
"""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from edm2.params.grid import parse_grid


class Section(BaseModel):
    """One mapping of params.yaml; unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Counts = Annotated[tuple[Count, ...], Field(strict=False, min_length=1)]
Interval = Annotated[tuple[NonNegative, NonNegative], Field(strict=False)]

# EMA lengths: the power-function profile exists for 0 < σ_rel < 1/√12 (EDM2 eq. 123).
EmaLength = Annotated[float, Field(gt=0, lt=0.2886)]
AnyEmaLengths = Annotated[tuple[EmaLength, ...], BeforeValidator(parse_grid), Field(strict=False)]
EmaLengths = Annotated[AnyEmaLengths, Field(min_length=1)]
Times = Annotated[tuple[Count, ...], BeforeValidator(parse_grid), Field(strict=False, min_length=1)]


class Training(Section):
    """Fields of every training; time is counted in images, never in steps."""

    batch: Count = Field(description="images per update, over all ranks")
    duration_nimg: Count = Field(description="length of the training; a multiple of batch")
    log_nimg: Count = Field(description="images between two log rows; a multiple of batch")
