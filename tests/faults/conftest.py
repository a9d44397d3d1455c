"""Fixtures of the campaign of faults."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import small_stage
from corrupted_params import SMALLER
from tiny import PER_CONFIG, STAGES, entered, make_project, run_stage

TABLE = "EDM2_FAULTS_TABLE"  # a file that gets the rows of the table in docs/reliability.md


@pytest.fixture(scope="session")
def small(made_once: Callable[..., Path]) -> Path:
    """The project of `small_stage`, with its results."""
    from edm2.params import load
    from edm2.pipeline import runner

    def make(folder: Path) -> None:
        with entered(small_stage.make_pipeline(folder)):
            runner.run_stage(small_stage.NAME, small_stage.run, load("params.yaml"))

    return made_once("small", make)


@pytest.fixture(scope="session")
def tiny(made_once: Callable[..., Path]) -> Path:
    """A project with the results of all stages and their state."""
    return made_once("tiny-with-state", lambda folder: run_all(folder, SMALLER, STAGES))


@pytest.fixture(scope="session")
def other(made_once: Callable[..., Path]) -> Path:
    """The same of a run with other images, without a report."""
    changes = {**SMALLER, "dataset.seed": 1}
    return made_once("other-with-state", lambda folder: run_all(folder, changes, STAGES[:-1]))


def run_all(folder: Path, changes: dict[str, Any], stages: Sequence[str]) -> None:
    with entered(make_project(folder, changes)):
        for name in stages:
            run_stage(name, "G" if name in PER_CONFIG else "")


@pytest.fixture(scope="session")
def record() -> Callable[[str], None]:
    """Prints a row of the table, and appends it to the file that the environment names."""

    def add(row: str) -> None:
        print(row)
        if path := os.environ.get(TABLE):
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{row}\n")

    return add
