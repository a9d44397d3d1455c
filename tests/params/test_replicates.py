"""Trainings by name: a config and a seed."""

import pytest
from tiny import ROOT

from edm2.params import Params, UserError, load
from edm2.params.replicates import Replicate, find_replicate


def project(configs: tuple[str, ...], seeds: tuple[int, ...]) -> Params:
    return load(ROOT / "params.yaml").model_copy(update={"configs": configs, "seeds": seeds})


@pytest.fixture
def several() -> Params:
    return project(("F", "G"), (0, 12))


def test_each_config_is_trained_with_each_seed(several: Params) -> None:
    assert [str(replicate) for replicate in several.replicates] == ["F-0", "F-12", "G-0", "G-12"]


def test_a_training_is_found_by_its_name(several: Params) -> None:
    assert several.replicate("F-12", "training F-12", "params.yaml") == Replicate("F", 12)


def test_the_config_suffices_where_there_is_one_seed() -> None:
    assert project(("F", "G"), (0,)).replicate("G", "training G", "params.yaml") == Replicate(
        "G", 0
    )


@pytest.mark.parametrize("name", ["E", "F-1", "F-012", "-0", "", "F-0-0"])
def test_a_training_that_params_do_not_name_is_refused(several: Params, name: str) -> None:
    with pytest.raises(UserError, match=rf"^training {name}: .*\(F, G\).*\(0, 12\).*like F-0"):
        several.replicate(name, f"training {name}", "params.yaml")


def test_of_several_trainings_of_a_config_one_must_be_named(several: Params) -> None:
    with pytest.raises(UserError, match=r"^training G: .*G-0, G-12"):
        several.replicate("G", "training G", "params.yaml")


def test_a_config_whose_name_is_like_a_training_has_its_own_trainings() -> None:
    both = tuple(Replicate(config, seed) for config in ("G", "G-1") for seed in (0, 1))
    assert find_replicate(both, "G-1", "", "") == Replicate("G", 1)
    assert find_replicate(both, "G-1-1", "", "") == Replicate("G-1", 1)
