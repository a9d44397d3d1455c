"""Every number of params.yaml has limits."""

from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from edm2.params import Params
from edm2.params.number_types import ChannelMult, Channels, Range, Rho, numbers_in
from edm2.params.section import section_of
from edm2.params.vae import Vae


def numbers(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type, Range | None]]:
    """Key path, type and range of each number below a section."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            yield from numbers(section, f"{prefix}{name}.")
        for kind, limits in numbers_in(field.annotation, field.metadata):
            yield prefix + name, kind, limits


def test_every_number_has_a_lowest_and_a_highest_value() -> None:
    for key, kind, limits in numbers(Params):
        assert limits is not None, f"{key}: give it a type of edm2/params/number_types.py"
        assert -1e12 < limits.low < limits.high <= 1e30, key
        assert kind is float or all(isinstance(end, int) for end in (limits.low, limits.high)), key


def test_numbers_are_found_wherever_they_are() -> None:
    class Unlimited(BaseModel):
        whole: int
        optional: Annotated[float | None, Field(ge=0)]
        listed: tuple[float, ...]
        limited: tuple[Channels, ...] | None

    keys = [key for key, _, limits in numbers(Unlimited) if limits is None]
    assert keys == ["whole", "optional", "listed"]
    assert {"vae.losses.kl", "sweep.search.low", "seeds"} <= {key for key, *_ in numbers(Params)}


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        (Channels, (1, 16_384), (0, 16_385, 2**64, -1)),
        (Rho, (0.1, 1000, 7), (0.001, 1e300, 0)),
        (ChannelMult, ([1], [1024] * 12), ([], [1] * 13, [0], [1025])),
    ],
)
def test_both_ends_of_a_range_are_in_it(
    kind: Any, inside: tuple[Any, ...], outside: tuple[Any, ...]
) -> None:
    adapter = TypeAdapter(kind)
    for value in inside:
        adapter.validate_python(value)
    for value in outside:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_errors_name_both_ends() -> None:
    with pytest.raises(ValidationError, match="a whole number from 1 to 16,384"):
        Vae(channels=100_000)


@pytest.mark.parametrize("microbatch", [8, 3])
def test_a_microbatch_divides_the_batch(microbatch: int) -> None:
    with pytest.raises(ValidationError) as error:
        Vae(batch=4, microbatch=microbatch)
    assert [details["loc"] for details in error.value.errors()] == [("microbatch",)]
    assert Vae(batch=4, microbatch=2).microbatch == 2
