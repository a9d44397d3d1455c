"""Several launches share the evaluation of a sweep; its items are kept, checked and resumed."""

import shutil
import threading
from collections import Counter

import pytest
from tiny import run_stage

from edm2.cli.main import edm2
from edm2.params import UserError
from edm2.pipeline.evaluator import Evaluator

ITEMS = 4  # three networks, and the best one on fresh seeds
TABLE = "reports/fid/G.csv"


def evaluate():
    edm2.main(["evaluate", "G"], prog_name="edm2", standalone_mode=False)


@pytest.fixture
def unevaluated(project):
    folder = project()
    (folder / TABLE).unlink()
    shutil.rmtree(folder / "reports/samples")
    return folder


@pytest.fixture
def made(monkeypatch):
    """The items that images are made for, by thread; `first` is called in each thread before its first."""
    made, generate = {}, Evaluator.generate

    def generated(self, folder, network, strength, first_seed, progress):
        items = made.setdefault(threading.get_ident(), [])
        items.append((network.file, first_seed))
        if len(items) == 1:
            generated.first()
        return generate(self, folder, network, strength, first_seed, progress)

    generated.first = lambda: None
    monkeypatch.setattr(Evaluator, "generate", generated)
    return made


def test_a_second_launch_of_the_stage_shares_its_items(unevaluated, finished, made, capsys):
    """Neither makes an item before the other has one, too; results are those of a single launch."""
    Evaluator.generate.first = threading.Barrier(2, timeout=120).wait
    threads = [threading.Thread(target=run_stage, args=("fid", "G")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    count = Counter(item for items in made.values() for item in items)
    assert (len(count), set(count.values())) == (ITEMS, {1})
    for name in (TABLE, f"{TABLE}.sha256"):
        assert (unevaluated / name).read_text() == (finished / name).read_text()
    expected = {p.relative_to(finished): p for p in (finished / "reports/samples/G").rglob("*.png")}
    assert len(expected) > 3
    for name, path in expected.items():
        assert (unevaluated / name).read_bytes() == path.read_bytes()
    assert "already complete" in capsys.readouterr().err


def test_the_stage_collects_what_the_command_has_evaluated(unevaluated, finished, made):
    """A damaged item is named, and made again when it is removed."""
    evaluate()
    assert not (unevaluated / TABLE).exists()
    assert sum(map(len, made.values())) == ITEMS
    evaluate()
    damaged = sorted(unevaluated.glob(".state/fid-G/*/items/*.json"))[1:3]
    for path in damaged:
        path.write_text(path.read_text().replace('"value": ', '"value": 1'))
    with pytest.raises(UserError) as error:
        run_stage("fid", "G")
    assert all(f"{path}: SHA-256" in str(error.value) for path in damaged)
    assert sum(map(len, made.values())) == ITEMS
    damaged[0].unlink()
    damaged[1].unlink()
    run_stage("fid", "G")
    assert sum(map(len, made.values())) == ITEMS + 2
    assert (unevaluated / TABLE).read_text() == (finished / TABLE).read_text()


def test_only_configs_of_the_project_are_evaluated(unevaluated):
    with pytest.raises(UserError, match="config F: not one of `configs`"):
        edm2.main(["evaluate", "F"], prog_name="edm2", standalone_mode=False)
