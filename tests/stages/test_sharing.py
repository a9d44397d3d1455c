"""Several launches share the evaluation of a sweep; its items are kept, checked and resumed."""

import shutil
import threading
from collections import Counter

import pytest
from tiny import TINY, entered, make_project, run_stage

from edm2.cli.main import edm2
from edm2.params import UserError
from edm2.pipeline.evaluator import Evaluator

ITEMS = 4  # three networks, and the best one on fresh seeds
TABLE, PICTURES = "reports/fid/G-0.csv", "reports/samples/G-0"


def evaluate():
    edm2.main(["evaluate", "G"], prog_name="edm2", standalone_mode=False)


def counted(patch, first):
    """The items that images are made for, by thread; `first` is called in each thread before its first."""
    made, generate = {}, Evaluator.generate

    def generated(self, folder, network, strength, first_seed, progress):
        items = made.setdefault(threading.get_ident(), [])
        items.append((network.file, first_seed))
        if len(items) == 1:
            first()
        return generate(self, folder, network, strength, first_seed, progress)

    patch.setattr(Evaluator, "generate", generated)
    return made


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    """A project without networks, evaluated by the stage and the command, and the items of each.

    Neither makes an item before the other has one, too.
    """
    changes = {**TINY, "sweep.materialize": False}
    folder = make_project(tmp_path_factory.mktemp("shared"), changes, finished)
    (folder / TABLE).unlink()
    shutil.rmtree(folder / PICTURES)
    with entered(folder), pytest.MonkeyPatch.context() as patch:
        run_stage("sweep_ema", "G")
        made = counted(patch, threading.Barrier(2, timeout=300).wait)
        command = threading.Thread(target=evaluate)
        command.start()
        run_stage("fid", "G")
        command.join()
    return folder, list(made.values())


def test_launches_share_the_items_and_results_are_those_of_one(shared, finished):
    folder, made = shared
    assert len(made) == 2
    count = Counter(item for items in made for item in items)
    assert (len(count), set(count.values())) == (ITEMS, {1})
    for name in (TABLE, f"{TABLE}.sha256"):
        assert (folder / name).read_text() == (finished / name).read_text()
    pictures = [path.relative_to(finished) for path in (finished / PICTURES).rglob("*.png")]
    assert len(pictures) > 3
    for name in pictures:
        assert (folder / name).read_bytes() == (finished / name).read_bytes()


def test_damaged_items_are_named_and_made_again_when_they_are_removed(shared, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(shared[0], folder, symlinks=True)
    damaged = sorted(folder.glob(".state/fid-G-0/*/items/*.json"))[1:3]
    content = [path.read_text() for path in damaged]
    damaged[0].write_text(content[0].replace('"value": ', '"value": 1'))
    damaged[1].write_text(content[0])  # as it was, but of another item
    with entered(folder), pytest.MonkeyPatch.context() as patch:
        made = counted(patch, lambda: None)
        with pytest.raises(UserError) as error:
            evaluate()
        assert all(f"{path}: SHA-256" in str(error.value) for path in damaged)
        assert not made
        damaged[0].unlink()
        damaged[1].write_text(content[1])
        evaluate()
    assert sum(map(len, made.values())) == 1
    assert [path.read_text() for path in damaged] == content


def test_only_configs_of_the_project_are_evaluated(project):
    project()
    with pytest.raises(UserError, match="training F: .*`configs`"):
        edm2.main(["evaluate", "F"], prog_name="edm2", standalone_mode=False)
