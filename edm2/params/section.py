"""The types of the fields of params.yaml.

Files list every value, so that DVC sees it (`Section.complete`): a default is only for sections that are
made in Python. Values are not converted (strict): "8" is not 8, and true is not 1.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edm2.params.number_types import Batch, Images


class Section(BaseModel):
    """One mapping of params.yaml; unknown keys are errors, values cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def complete(cls, tree: Any) -> Self:
        """The section of a tree that lists every value; `model_validate` fills in defaults.

        Raises:
            pydantic.ValidationError: a value is impossible, or a key is unknown or missing.
        """
        section = cls.model_validate(tree)
        omitted = [("missing", loc) for loc in omitted_keys(cls, tree)]
        if omitted:
            raise ValidationError.from_exception_data(
                cls.__name__, [{"type": kind, "loc": loc, "input": tree} for kind, loc in omitted]
            )
        return section

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some values changed, which are validated.

        Raises:
            pydantic.ValidationError: a key is unknown, or a value is impossible.
        """
        copy = super().model_copy(deep=deep)
        return type(self).model_validate({**dict(copy), **update}) if update else copy

    def copy(self, **changes: Any) -> Self:
        """`model_copy`; pydantic's own, which is deprecated, validates nothing."""
        return self.model_copy(**changes)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field with this type is, or may be; None if it is none."""
    kinds = (annotation, *get_args(annotation))
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)


def omitted_keys(
    model: type[BaseModel], tree: Any, location: tuple[int | str, ...] = ()
) -> Iterator[tuple[int | str, ...]]:
    """Key paths of the fields that have a default and that a tree does not list."""
    if not isinstance(tree, Mapping):
        return
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if name not in tree and not field.is_required():
            yield (*location, name)
        elif name in tree and section is not None:
            yield from omitted_keys(section, tree[name], (*location, name))


BatchField = Annotated[Batch, Field(description="images per update, over all ranks")]
Duration = Annotated[Images, Field(description="length of the training; a multiple of batch")]
LogInterval = Annotated[
    Images, Field(description="images between two log rows; a multiple of batch")
]


class Training(Section):
    """Fields of every training; time is counted in images, never in steps."""

    batch: BatchField
    duration_nimg: Duration
    log_nimg: LogInterval
