"""Types of numbers: each has a lowest and a highest value, beyond which a number is a mistake.

The limits are wide; what is too large for a machine within them is found by an estimate of memory.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from edm2.params.grid import MAX_POINTS, parse_grid


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`, both included. `Annotated[int, Range(1, 8)]` allows no others."""

    low: float
    high: float

    def __contains__(self, number: float) -> bool:
        return self.low <= number <= self.high

    def __str__(self) -> str:
        return f"{_text(self.low)} to {_text(self.high)}"

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        kind = "a whole number" if source is int else "a number"

        def check(number: float) -> float:
            if number not in self:
                expected = f"{kind} from {self}"
                raise PydanticCustomError(
                    "range", "Input should be {expected}", {"expected": expected}
                )
            return number

        return core_schema.no_info_after_validator_function(check, handler(source))


def _text(number: float) -> str:
    return f"{int(number):,}" if number == int(number) else f"{number:g}"


def numbers_in(
    annotation: Any, metadata: Iterable[Any] = ()
) -> Iterator[tuple[type, Range | None]]:
    """Each int and float within the type of a field, with its range."""
    if hasattr(annotation, "__metadata__"):  # Annotated
        yield from numbers_in(annotation.__origin__, (*annotation.__metadata__, *metadata))
    elif annotation in (int, float):
        yield annotation, next((item for item in metadata if isinstance(item, Range)), None)
    else:
        for part in get_args(annotation):
            yield from numbers_in(part)


VARIANCES = Range(0.0, 1e4)


def _number_or_learned(value: object) -> object:
    """Makes a value of neither type one problem, not two."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value in VARIANCES
    if not number and value != "learned":
        raise ValueError(f"a number from {VARIANCES}, or 'learned'")
    return value


# counts
Count = Annotated[int, Range(1, 1_000_000)]
Batch = Annotated[int, Range(1, 1_000_000)]  # images of an update
Samples = Annotated[int, Range(1, 10_000_000)]  # images that are kept or generated
Images = Annotated[int, Range(1, 10**12)]  # images seen: the time of trainings
ImagesOrNone = Annotated[int, Range(0, 10**12)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
ImageSeed = Annotated[int, Range(0, 2**62 - 1)]
Steps = Annotated[int, Range(2, 10_000)]  # of a sampler
SeedBlocks = Annotated[int, Range(1, 100_000)]
GridSide = Annotated[int, Range(1, 1000)]  # images along a side of a grid
Neighbors = Annotated[int, Range(1, 1000)]
Processes = Annotated[int, Range(1, 1024)]  # no machine has more cores
ProcessesOrNone = Annotated[int, Range(0, 1024)]

# sizes of images and networks
Side = Annotated[int, Range(1, 4096)]  # pixels
Shift = Annotated[int, Range(0, 4096)]
Channels = Annotated[int, Range(1, 16_384)]
ChannelsOrNone = Annotated[int, Range(0, 16_384)]
Classes = Annotated[int, Range(0, 1_000_000)]  # 0: unconditional
Blocks = Annotated[int, Range(1, 100)]  # residual blocks of a level
Levels = Annotated[int, Range(1, 12)]
Multiplier = Annotated[int, Range(1, 1024)]  # of the width of a level

# factors
Probability = Annotated[float, Range(0.0, 1.0)]
Fraction = Annotated[float, Range(1e-6, 0.999999)]
Dropout = Annotated[float, Range(0.0, 0.999)]
Area = Annotated[float, Range(0.001, 1.0)]
Scale = Annotated[float, Range(0.001, 0.999)]
Weight = Annotated[float, Range(0.0, 1e6)]  # of a loss
Factor = Annotated[float, Range(1e-6, 1e6)]

# latents
Variance = Annotated[
    Annotated[float, VARIANCES] | Literal["learned"], BeforeValidator(_number_or_learned)
]

# optimization; a rate that diverges is found in the training, which names it
LearningRate = Annotated[float, Range(1e-12, 1e15)]
LossScaling = Annotated[float, Range(1e-15, 1e30)]
WeightDecay = Annotated[float, Range(0.0, 1e3)]
Beta = Annotated[float, Range(0.001, 0.999999)]
Batches = Annotated[float, Range(0.001, 1e12)]

# noise
NoiseLevel = Annotated[float, Range(1e-6, 1e6)]
NoiseLevelOrNone = Annotated[float, Range(0.0, 1e6)]
LogNoiseMean = Annotated[float, Range(-10.0, 10.0)]
LogNoiseStd = Annotated[float, Range(0.01, 5.0)]
Rho = Annotated[float, Range(0.1, 1000.0)]
Churn = Annotated[float, Range(0.0, 10_000.0)]
ChurnNoise = Annotated[float, Range(0.01, 100.0)]
Strength = Annotated[float, Range(0.0, 1000.0)]  # of guidance

# time
Seconds = Annotated[float, Range(0.0, 31_536_000.0)]
Minutes = Annotated[float, Range(0.001, 525_600.0)]

# EMA lengths: the power-function profile exists for 0 < σ_rel < 1/√12 (EDM2 eq. 123)
EmaLength = Annotated[float, Range(0.0001, 0.2886)]

# lists
ChannelMult = Annotated[tuple[Multiplier, ...], Field(strict=False, min_length=1, max_length=12)]
Sides = Annotated[tuple[Side, ...], Field(strict=False, min_length=1, max_length=12)]
Seeds = Annotated[tuple[Seed, ...], Field(strict=False, min_length=1, max_length=1000)]
Interval = Annotated[tuple[NoiseLevelOrNone, NoiseLevelOrNone], Field(strict=False)]
Strengths = Annotated[
    tuple[Strength, ...],
    BeforeValidator(parse_grid),
    Field(strict=False, min_length=1, max_length=1000),
]
Times = Annotated[
    tuple[Images, ...],
    BeforeValidator(parse_grid),
    Field(strict=False, min_length=1, max_length=MAX_POINTS),
]
AnyEmaLengths = Annotated[
    tuple[EmaLength, ...], BeforeValidator(parse_grid), Field(strict=False, max_length=MAX_POINTS)
]
EmaLengths = Annotated[AnyEmaLengths, Field(min_length=1)]
TrackedEmaLengths = Annotated[EmaLengths, Field(max_length=32)]  # each is a copy of the weights
AnyTrackedEmaLengths = Annotated[AnyEmaLengths, Field(max_length=32)]
