"""The problems of params.yaml with some values changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import write_params

from edm2.params import Params, ParamsError, load
from edm2.params.errors import Problem

Changes = dict[str, Any]


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Changes], Params]:
    """params.yaml with changes, loaded in an empty project."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return lambda changes: load(write_params(tmp_path / "params.yaml", changes))


@pytest.fixture
def problems(params: Callable[[Changes], Params]) -> Callable[[Changes], tuple[Problem, ...]]:
    """The problems of params.yaml with changes."""

    def get(changes: Changes) -> tuple[Problem, ...]:
        with pytest.raises(ParamsError) as error:
            params(changes)
        return error.value.problems

    return get


@pytest.fixture
def only_problem(
    problems: Callable[[Changes], tuple[Problem, ...]],
) -> Callable[[Changes], Problem]:
    """The only problem of params.yaml with changes."""

    def get(changes: Changes) -> Problem:
        (problem,) = problems(changes)
        return problem

    return get
