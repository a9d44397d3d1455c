"""Which configs of which experiments are compared."""

from itertools import product

import pandas as pd
import pytest

from edm2.params import UserError
from edm2.reporting.changes import Changes, Experiment


def experiment(configs, seeds=(0,), revision="", **params):
    trainings = list(product(configs, seeds))
    networks = pd.DataFrame(
        trainings, columns=["config", "training_seed"]
    )  # the values are not read
    written = {"configs": list(configs), "seeds": list(seeds), **params}
    used = {config: {**written, "is": config} for config in configs}
    return Experiment(networks, written, used, revision)


def names(**experiments):
    """Names of base and change, and their numbers of trainings."""
    return [
        (pair.base.name, pair.change.name, len(pair.base.trainings), len(pair.change.trainings))
        for pair in Changes.between(experiments).pairs
    ]


def test_configs_of_one_experiment_are_compared_in_their_order():
    assert names(a=experiment("CAG", (0, 1))) == [("C", "A", 2, 2), ("A", "G", 2, 2)]


def test_each_experiment_is_compared_with_the_first():
    """Config by config, and those of the first with each other no more."""
    assert names(a=experiment("FG"), b=experiment("FG", rate=2), c=experiment("FG", rate=3)) == [
        ("F", "F (rate=2)", 1, 1),
        ("G", "G (rate=2)", 1, 1),
        ("F", "F (rate=3)", 1, 1),
        ("G", "G (rate=3)", 1, 1),
    ]


def test_experiments_that_differ_in_seeds_are_trainings_of_the_same():
    found = names(
        a=experiment("FG", (0, 1)),
        b=experiment("FG", (2,)),
        c=experiment("FG", (0,), rate=2),
        d=experiment("FG", (5,), rate=2),
    )
    assert found == [("F", "F (rate=2)", 3, 2), ("G", "G (rate=2)", 3, 2)]


def test_the_same_seeds_with_the_same_params_are_of_other_code():
    assert names(a=experiment("G"), b=experiment("G")) == [("G", "G (b)", 1, 1)]
    assert names(
        a=experiment("G", rate=1), b=experiment("G", rate=2), c=experiment("G", rate=2)
    ) == [
        ("G", "G (rate=2)", 1, 1),
        ("G", "G (c)", 1, 1),
    ]


def test_two_configs_of_one_revision():
    """Also against more than one, and without the step between those."""
    f, g, e = (experiment(config, revision="HEAD") for config in "FGE")
    assert names(f=f, g=g, e=e) == [("F", "G", 1, 1), ("F", "E", 1, 1)]


def test_one_config_each_of_different_revisions():
    f, g = experiment("F", revision="HEAD"), experiment("G", revision="other")
    assert names(f=f, g=g) == [("F", "G (other)", 1, 1)]
    g = experiment("G", revision="other", rate=2)
    assert names(f=f, g=g) == [("F", "G (rate=2)", 1, 1)]


def test_a_config_against_a_revision_of_several():
    assert names(a=experiment("F", revision="x"), b=experiment("EFG")) == [("F", "F (b)", 1, 1)]
    assert Changes.between({"a": experiment("F"), "b": experiment("EFG", rate=1)}).notes == []


def test_many_params_are_named_by_their_experiment():
    many = experiment("G", a=1, b=2, c=3, d=4)
    assert names(a=experiment("G"), b=many) == [("G", "G (b)", 1, 1)]


def test_params_are_named_with_the_values_that_the_config_uses():
    """Of config G they are overridden: by what is written for it, or by what stays the same."""
    own = "diffusion.per_config.G.lr_ref"
    base = experiment("FG", **{"diffusion.lr_ref": 1})

    def changed(used, **written):
        of_f = {"diffusion.lr_ref": written["diffusion.lr_ref"]}
        return Experiment(base.networks, {**base.params, **written}, {"F": of_f, "G": used})

    same = changed(base.used["G"], **{"diffusion.lr_ref": 2})
    assert names(a=base, b=same)[1][:2] == ("G", "G (b)")
    both = changed({"diffusion.lr_ref": 3}, **{"diffusion.lr_ref": 2, own: 3})
    assert [change for _, change, _, _ in names(a=base, b=both)] == [
        "F (diffusion.lr_ref=2)",
        "G (diffusion.lr_ref=3)",
    ]


def test_changes_of_the_same_name_are_named_by_their_experiments():
    """One of them changes a param, too, which the config does not use."""
    base, b, c = experiment("G"), experiment("G", rate=2), experiment("G", rate=2, unused=1)
    c.used["G"].pop("unused")
    assert [change for _, change, _, _ in names(a=base, b=b, c=c)] == ["G (b)", "G (c)"]


def test_configs_that_only_one_has_are_named():
    changes = Changes.between({"a": experiment("CDG"), "b": experiment("DGH", rate=2)})
    assert len(changes.pairs) == 2
    first, second = changes.notes
    assert "C, which only a has" in first
    assert "H, which only b has" in second


def test_experiments_without_a_common_config_are_refused():
    with pytest.raises(UserError, match=r"a has the configs C, D, b has F, G: .*like a:C"):
        Changes.between({"a": experiment("CD"), "b": experiment("FG")})


def test_one_config_is_nothing_to_compare():
    changes = Changes.between({"a": experiment("G"), "b": experiment("G", (1,))})
    assert changes.pairs == []
    assert "a, b are one config" in changes.notes[0]
    assert [len(variant.trainings) for variant in changes.variants] == [2]


def test_the_params_that_differ_have_both_values():
    (pair,) = Changes.between({"a": experiment("FG", (0, 1))}).pairs
    assert pair.params == {"is": ("F", "G")}  # not the lists of configs and seeds
