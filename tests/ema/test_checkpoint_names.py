"""Times and averages of checkpoints, from their names and from what is given beside them."""

import math
from pathlib import Path

import pytest

from edm2.ema import Snapshot, sigma_rel_to_gamma
from edm2.ema.checkpoint_files import find_checkpoints
from edm2.ema.checkpoint_names import POST_HOC_EMA, Averages, NamePattern, identify
from edm2.params import UserError

OUT = Path("store")


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("ckpt-{nimg}-{length}.pt", "x/ckpt-0064-0.05.pt", {"nimg": 64, "length": 0.05}),
        ("{kimg}-{halflife}.pt", "1.5-1e6.pt", {"kimg": 1.5, "halflife": 1e6}),
        ("*-{step}/ema.*", "runs/checkpoint-30/ema.pt", {"step": 30}),
        ("ema_{decay}_{step}.pt", "ema_.9999_12.pt", {"decay": 0.9999, "step": 12}),
        ("a+{step}.pt", "a+3.pt", {"step": 3}),
        ("ckpt-{nimg}.pt", "my-ckpt-3.pt", None),
        ("ckpt-{nimg}.pt", "ckpt-3.pth", None),
        ("a+{step}.pt", "aa3.pt", None),
        ("{halflife}.{step}.pt", "1e999.3.pt", None),
        ("*-{step}/ema.pt", "checkpoint-3/other/ema.pt", None),
        (POST_HOC_EMA, "1.2000.pt", {"index": 1, "step": 2000}),
    ],
)
def test_patterns(pattern, path, fields):
    assert NamePattern(pattern).match(Path(path)) == fields


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ("{images}.pt", "{images}"),
        ("{nimg}-{nimg}.pt", "{nimg}"),
        ("{nimg}-{step}.pt", "kimg"),
        ("{step}-{length}-{decay}.pt", "halflife"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(pattern, part):
    with pytest.raises(UserError, match=rf".*{pattern}.*{part}"):
        NamePattern(pattern)


def snapshot(fields, **given):
    return identify(Path("ckpt.pt"), fields, Averages(**given))


def test_times_are_images_thousands_of_images_or_steps():
    expected = Snapshot.power(6000, 0.1)
    assert snapshot({"nimg": 6000.0, "length": 0.1}) == expected
    assert snapshot({"kimg": 6.0}, lengths=[0.1]) == expected
    assert snapshot({"kimg": 1.001}, lengths=[0.1]).nimg == 1001
    assert snapshot({"step": 6000.0}, lengths=[0.1]) == expected
    assert snapshot({"step": 750.0}, lengths=[0.1], batch=8) == expected
    assert snapshot({}, nimg=6000, lengths=[0.1]) == expected


def test_one_of_several_averages_is_chosen_by_its_index():
    fields = {"step": 100.0, "index": 1.0}
    assert snapshot(fields, lengths=[0.05, 0.28]).sigma_rel == 0.28
    assert snapshot(fields, lengths=[0.05]).sigma_rel == 0.05
    for fields, part in (({"index": 2.0}, "index 2"), ({}, r"no \{index\}")):
        with pytest.raises(UserError, match=rf"{part}.* below 2"):
            snapshot(fields | {"step": 1.0}, lengths=[0.05, 0.28])


@pytest.mark.parametrize(("batch", "every"), [(1, None), (64, None), (64, 10)])
def test_a_decay_is_a_half_life(batch, every):
    """After one half-life of updates a share of one half is left."""
    fields = {"step": 100_000.0}
    average = snapshot(fields, decays=[0.999], batch=batch, update_every=every)
    updates = average.halflife_nimg / batch / (every or 1)
    assert 0.999**updates == pytest.approx(0.5)
    assert average.average == "traditional"
    assert (average.nimg, average.rampup) == (100_000 * batch, 1)


def test_averages_of_several_decays_have_files_of_their_own():
    fields = {"step": 100_000.0, "index": 1.0}
    files = {snapshot(fields | {"index": i}, decays=[0.99, 0.999]).file for i in (0, 1)}
    assert len(files) == 2


def test_without_a_rampup_the_initial_parameters_may_have_no_share():
    with pytest.raises(UserError, match=r"0\.5 in the initial parameters.*--rampup"):
        snapshot({"nimg": 1000.0, "halflife": 1000.0})
    assert snapshot({"nimg": 1000.0, "halflife": 1000.0}, rampup=0.05).rampup == 0.05
    assert snapshot({"nimg": 10_000.0, "halflife": 1000.0}).halflife_nimg == 1000


@pytest.mark.parametrize(
    ("fields", "given", "part"),
    [
        ({}, {"lengths": [0.1]}, "one time"),
        ({"nimg": 3.0}, {"nimg": 3, "lengths": [0.1]}, None),
        ({"kimg": 0.0005}, {"lengths": [0.1]}, "whole number"),
        ({"step": 3.0}, {"nimg": 3, "lengths": [0.1]}, "one time"),
        ({"nimg": 3.0}, {}, "no average"),
        ({"nimg": 3.0, "length": 0.1}, {"decays": [0.9]}, "several averages"),
        ({"nimg": 3.0}, {"lengths": [0.1], "decays": [0.9]}, "several averages"),
        ({"nimg": 3.0, "length": 0.3}, {}, "0.3"),
        ({"nimg": 3.0}, {"decays": [1.0]}, "decay 1"),
        ({"nimg": 3.0, "halflife": 0.0}, {}, "half-life 0"),
        ({"nimg": 3.0, "halflife": 1.0}, {"rampup": math.nan}, "ramp-up nan"),
        ({"nimg": 3.0, "halflife": 1.0}, {"rampup": 2.0}, "ramp-up 2"),
        ({"nimg": 3.0, "length": 0.1}, {"rampup": 0.1}, "--rampup"),
        ({"nimg": 3.0, "length": 0.1}, {"update_every": 2}, "--update-every"),
        ({"nimg": 3.0, "halflife": 0.1}, {"update_every": 2}, "--update-every"),
    ],
)
def test_what_is_not_clear_or_impossible_is_refused(fields, given, part):
    if part is None:  # the name has it, and what is given is a default
        assert snapshot(fields, **given).nimg == 3
        return
    with pytest.raises(UserError, match=rf"ckpt\.pt: .*{part}"):
        snapshot(fields, **given)


def post_hoc(step, index=0, **given):
    fields = {"index": float(index), "step": float(step)}
    return identify(Path("0.5.pt"), fields, Averages(post_hoc_ema=True, **given))


def test_averages_of_post_hoc_ema_end_one_step_later():
    average = post_hoc(1000, 1, lengths=[0.05, 0.28], update_every=1)
    assert average == Snapshot.power(1001, 0.28)
    assert post_hoc(1000, lengths=[0.05], update_every=1, batch=8).nimg == 8008
    assert post_hoc(0, lengths=[0.05], update_every=1).nimg == 0


def test_averages_with_fewer_updates_are_longer():
    average = post_hoc(1000, lengths=[0.05], update_every=10)
    gamma = sigma_rel_to_gamma(average.sigma_rel)
    assert gamma + 1 == pytest.approx((sigma_rel_to_gamma(0.05) + 1) / 10)
    assert average.nimg == math.floor(991 + 5.5)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"lengths": [0.05]}, "--update-every"),
        ({"update_every": 1}, "--lengths"),
        ({"lengths": [0.28], "update_every": 10}, r"exponent -0\.8"),
        ({"lengths": [0.05], "update_every": 1, "decays": [0.9]}, "--decays"),
        ({"lengths": [0.05], "update_every": 1, "nimg": 3}, "--nimg"),
    ],
)
def test_post_hoc_ema_needs_what_its_files_do_not_have(given, part):
    with pytest.raises(UserError, match=rf"0\.5\.pt: .*{part}"):
        post_hoc(1000, **given)


@pytest.fixture
def folder(tmp_path):
    for name in ("0.5.pt", "1.5.pt", "a/ema.pt", "notes.txt", ".hidden.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_files_of_the_store_itself_are_none_of_its_sources(folder):
    found = find_checkpoints([folder], "*.{index}.pt", folder / "store")
    assert len(found.fields) == 2
    (folder / "store").mkdir()
    (folder / "store/a.3.pt").touch()
    assert find_checkpoints([folder], "*.{index}.pt", folder / "store") == found


def names(checkpoints):
    return [path.name for path in checkpoints.fields]


def test_files_are_found_by_a_pattern_or_by_known_names(folder):
    found = find_checkpoints([folder], None, OUT)
    assert (found.kind, names(found), found.others) == ("post_hoc_ema", ["0.5.pt", "1.5.pt"], 1)
    found = find_checkpoints([folder], "{index}.{step}.pt", OUT)
    assert (found.kind, names(found), found.others) == ("any", ["0.5.pt", "1.5.pt"], 2)
    found = find_checkpoints([folder / "0.5.pt", folder / "1.5.pt", folder / "0.5.pt"], None, OUT)
    assert names(found) == ["0.5.pt", "1.5.pt"]
    assert find_checkpoints([folder / "a/ema.pt"], None, OUT).fields == {folder / "a/ema.pt": {}}
    (folder / "s-1-0.1.pkl").touch()
    found = find_checkpoints([folder], None, OUT)
    assert (found.kind, names(found), found.others) == ("published", ["s-1-0.1.pkl"], 3)


@pytest.mark.parametrize(
    ("sources", "pattern", "part"),
    [
        (["nowhere"], None, "no such file"),
        (["a"], None, "--pattern"),
        (["."], "ckpt-{nimg}.pt", r"none of 4 files.*0\.5\.pt"),
        (["0.5.pt", "notes.txt"], None, r"notes\.txt: .*\{index\}"),
        (["0.5.pt", "a/ema.pt"], "{index}.{step}.pt", r"ema\.pt: .*\{index\}"),
    ],
)
def test_files_that_are_not_found_are_errors(folder, sources, pattern, part):
    with pytest.raises(UserError, match=part):
        find_checkpoints([folder / source for source in sources], pattern, OUT)
