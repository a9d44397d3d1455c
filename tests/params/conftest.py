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
    """Why such a file is refused."""

    def find(changes: Changes) -> tuple[Problem, ...]:
        with pytest.raises(ParamsError) as error:
            params(changes)
        return error.value.problems

    return find


@pytest.fixture
def problem(problems: Callable[[Changes], tuple[Problem, ...]]) -> Callable[[Changes], Problem]:
    """The only reason why it is refused."""

    def find(changes: Changes) -> Problem:
        (only,) = problems(changes)
        return only

    return find
