"""Sections of params that are made and changed in Python."""

import copy
import pickle
from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from pydantic import ValidationError

from edm2.params.loading import fields
from edm2.params.vae import Losses, Vae

WAYS: dict[str, Callable[[Vae, dict[str, Any]], Vae]] = {
    "constructor": lambda vae, changes: Vae(**changes),
    "model_copy": lambda vae, changes: vae.model_copy(update=changes),
    "deep model_copy": lambda vae, changes: vae.model_copy(update=changes, deep=True),
    "copy": lambda vae, changes: vae.copy(update=changes),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", -1),
        ("channels", 32.0),
        ("channel_mult", ()),
        ("lr", nan),
        ("variance", inf),
        ("losses", {"mse": -1.0}),
        ("losses", None),
        ("chanels", 32),
    ],
)
def test_values_are_validated_however_they_are_set(way: str, key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as error:
        WAYS[way](Vae(), {key: value})
    assert {details["loc"][0] for details in error.value.errors()} == {key}


@pytest.mark.parametrize("way", WAYS)
def test_values_that_fit_are_set(way: str) -> None:
    losses = Losses(mse=1.0)
    vae = WAYS[way](Vae(), {"channels": 32, "losses": losses})
    assert (vae.channels, vae.losses.mse, vae.losses.kl) == (32, 1.0, Losses().kl)
    assert vae.model_copy(update={"channels": Vae().channels, "losses": Losses()}) == Vae()


def test_values_cannot_be_assigned() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Vae().channels = 32


def test_copies_are_equal() -> None:
    vae = Vae(channels=32)
    copies = [vae.model_copy(), vae.copy(), copy.deepcopy(vae), pickle.loads(pickle.dumps(vae))]
    assert copies == [vae] * 4


def test_defaults_are_valid_and_complete() -> None:
    """Defaults themselves are not validated by pydantic."""
    assert Vae.complete(Vae().model_dump()) == Vae()


def test_a_complete_tree_lists_values_with_a_default() -> None:
    for key, _ in fields(Vae):
        tree = Vae().model_dump()
        *sections, name = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        del node[name]
        with pytest.raises(ValidationError) as error:
            Vae.complete(tree)
        (details,) = error.value.errors()
        assert (details["type"], details["loc"]) == ("missing", tuple(key.split(".")))
