"""Files that are far larger than any params.yaml, or that stand for more than they hold."""

import os
from pathlib import Path
from typing import Any

import pytest

from edm2.params import UserError
from edm2.params.tree_size import MAX_BYTES, require_bounded
from edm2.params.yaml_file import parse_yaml, read_yaml

LAUGHS = "\n".join(
    [
        "a0: &a0 [lol, lol]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)),
    ]
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "aliases"),
        ("a: &a [*a]", "alias"),
        ("&a {a: *a}", "alias"),
        ("a: {b: " + "[" * 100 + "]" * 100 + "}", "file.yaml: a.b.0.0"),
        ("a: {b: 0x" + "f" * 5000 + "}", "file.yaml: a.b: a whole number of 20,000 bits"),
        ("a:\n  b: " + "x" * 20_000, "file.yaml: a.b: a text of 20,000 characters"),
        ("a:\n  ? " + "x" * 20_000 + "\n  : 1", "characters"),
        ("a: [" + "1, " * 30_000 + "]", "20,000 values"),
    ],
    ids=["laughs", "itself", "itself in a mapping", "deep", "digits", "text", "key", "values"],
)
def test_what_no_params_hold_is_refused_in_one_sentence(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        parse_yaml(text, "file.yaml")
    assert str(error.value).startswith("file.yaml")
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "tree", [{"a": [1] * 10_000}, {"a": 2**64}, {"a": "x" * 4096}, None, [], {1: {None: 2.5}}]
)
def test_what_params_may_hold_stays_as_it_is(tree: Any) -> None:
    assert require_bounded(tree, "file.yaml") is tree


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="a pipe"):
        read_yaml(tmp_path / "params.yaml")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(UserError, match=f"{2**40:,} bytes.*{MAX_BYTES:,}"):
        read_yaml(path)
