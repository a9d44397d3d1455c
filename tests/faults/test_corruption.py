"""No corrupted file is read as something else: flipped bits, lost ends, files of other runs and kinds.

`make faults` tries all kinds, `make test` a sample; the table is that of docs/reliability.md.
"""

import shutil
from itertools import groupby

import pytest
from artifacts import artifacts
from corruption import Corrupted
from kept_files import add_kept_files
from tiny import entered

pytestmark = pytest.mark.slow

FLIPS = 60  # of each pattern of files
SAMPLE = (
    "records of shards",
    "tables and metrics",
    "log.jsonl",
    "notes.json",
    "evaluation rows",
    "MLflow's run",
    "averages.json",
)


@pytest.fixture
def kinds(tmp_path):
    """kinds(finished): kinds of artifacts and the artifacts of each, in a copy of a finished project."""

    def enter(finished):
        shutil.copytree(finished, tmp_path / "project", symlinks=True)
        with entered(tmp_path / "project"):
            yield from groupby(artifacts(add_kept_files()), lambda artifact: artifact.kind)

    return enter


@pytest.mark.faults
def test_every_kind(kinds, tiny, other, record):
    failed = []
    for kind, several in kinds(tiny):
        corrupted = Corrupted(other=other)
        for artifact in several:
            corrupted.corrupt(artifact, FLIPS)
        record(corrupted.row(kind))
        failed += corrupted.failed
    assert failed == []


def test_a_sample_of_them(kinds, finished):
    tried = set()
    for kind, several in kinds(finished):
        if kind in SAMPLE:
            tried.add(kind)
            corrupted = Corrupted(files=1)
            for artifact in several:
                corrupted.corrupt(artifact, flips=2)
            assert corrupted.failed == []
            assert corrupted.explained
    assert tried == set(SAMPLE)
