"""Fixtures of the campaign of faults."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import small_stage
from corrupted_params import SMALLER
from tiny import PER_CONFIG, STAGES, entered, make_project, run_stage

if TYPE_CHECKING:
    from commands import Command
    from deliveries import Attempts

    from edm2.features.weights import PublishedWeights

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


@pytest.fixture
def impatient(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of MLflow may take seconds, in an empty project."""
    from edm2.runtime.delivery import deadline
    from edm2.runtime.delivery.store import import_mlflow

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(deadline, "SECONDS_OF_SILENCE", 3.0)
    import_mlflow()


@pytest.fixture
def attempts(impatient: None, root: Path, monkeypatch: pytest.MonkeyPatch) -> "Attempts":
    from deliveries import Attempts

    return Attempts(root, monkeypatch)


@pytest.fixture
def command(
    made_once: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], "Command"]]:
    """command(name): in a folder with other results of the user, and older ones if it replaces them."""
    from color_images import color_detectors
    from commands import COMMANDS, Command, train_vae, write_inputs

    def make(name: str) -> Command:
        start = tmp_path / "start"
        (start / "out").mkdir(parents=True)
        (start / "out/mine.txt").write_text("mine")
        arguments = COMMANDS[name].split()
        inputs = [made_once("commands", write_inputs)]
        if "vae" in arguments:
            inputs.append(made_once("vae", train_vae))
        for path in (path for folder in inputs for path in folder.iterdir()):
            (start / path.name).symlink_to(path)
        if "--force" in arguments:
            folder = tmp_path / "older"
            folder.mkdir()
            start = Command(start, folder, [*arguments, "--dtype", "float32"]).project
        return Command(start, tmp_path, arguments)

    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    with color_detectors():
        yield make


@pytest.fixture
def published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> "Callable[[str], PublishedWeights]":
    """published(uri): the file of `downloads` as a server offers it."""
    from downloads import CONTENT, KEY

    from edm2.features import weights
    from edm2.features.weights import PublishedWeights

    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(weights, "TIMEOUT", 0.5)
    digest = hashlib.sha256(CONTENT).hexdigest()
    return lambda uri: PublishedWeights("net.pth", f"{uri}/net.pth", digest, "MIT", KEY)
