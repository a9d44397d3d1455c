"""File names with braces and globs."""

from pathlib import Path

import pytest
from braceexpand import braceexpand

from edm2.params.patterns import alternatives, alternatives_of, matching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "odd [name]*"
    for name in ("00008", "00009", "00010", "b/00011", "b/notes"):
        (folder / f"{name}.tar").parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.tar").touch()
    (folder / "folder.tar").mkdir()
    return folder


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("00009.tar", ["00009"]),
        ("{00008..00010}.tar", ["00008", "00009", "00010"]),
        ("*.tar", ["00008", "00009", "00010"]),
        ("b/{00011,notes}.tar", ["b/00011", "b/notes"]),
        ("{b/0*,0000[89]}.tar", ["00008", "00009", "b/00011"]),
        ("{0*,00009}.tar", ["00008", "00009", "00010"]),
        ("**/*1.tar", ["b/00011"]),
    ],
)
def test_files_of_a_pattern_are_sorted_and_unique(
    root: Path, pattern: str, expected: list[str]
) -> None:
    paths = [root / f"{name}.tar" for name in expected]
    assert matching(pattern, root) == paths


def test_absolute_patterns_do_not_depend_on_the_root(tmp_path: Path) -> None:
    (tmp_path / "1.tar").touch()
    assert matching(f"{tmp_path}/{{1..1}}.tar", Path("/elsewhere")) == [tmp_path / "1.tar"]


def test_every_alternative_is_listed_with_its_files(root: Path) -> None:
    files = alternatives("{00010..00012}.tar", root)
    assert files == {"00010.tar": [root / "00010.tar"], "00011.tar": [], "00012.tar": []}
    assert alternatives("folder.tar", root) == {"folder.tar": []}


def test_braces_that_are_not_closed_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="braces"):
        alternatives("{00000..00010.tar", root)


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        "{a,b}",
        "{}",
        "{x}",
        "{a,,b}",
        "{0..9}/{a,b}",
        "{a{0..9},b{0..9}}",
        "{train/{00..11},val/{0..5}}.tar",
        "{10..1..3}",
        "{-2..2}",
        "{a..e..2}",
        "a<5>b{1,2}",
    ],
)
def test_alternatives_are_counted_without_making_them(pattern: str) -> None:
    assert alternatives_of(pattern) == len(list(braceexpand(pattern)))


@pytest.mark.parametrize(
    "pattern", ["{0..99999999}", "{0..9999}{0..9999}", "{0..99999999999999999999}", "{a..z}" * 600]
)
def test_too_many_alternatives_are_refused(root: Path, pattern: str) -> None:
    with pytest.raises(ValueError, match="250,000"):
        alternatives(pattern, root)
