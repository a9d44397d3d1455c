"""File names with braces and globs."""

from pathlib import Path

import pytest

from edm2.params.patterns import alternatives, matching


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
