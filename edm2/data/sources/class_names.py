"""Class names from a file."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from edm2.data.tally import listed, printable
from edm2.runtime.limits import require_file

FORMS = {
    False: "a line for each class: its folder or label, a space (or tab), its name",
    True: "a line with a name for each label number, from 0",
}


def read_class_names(
    path: Path, classes: Sequence[str], numbered: bool
) -> tuple[list[str], list[str]]:
    """The names of classes.

    Lines are `n01440764 tench` with the name of a folder or a label in front, which a tab ends if it has
    spaces; for labels that are numbers, line k (from 0) is the name of label k. A name that several
    classes have gets its folder or number in parentheses.

    Returns:
        the names in the order of `classes`, and errors: one that lists all lines that do not fit, all
        classes without a line, and all lines without a class.
    """
    try:
        require_file(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        return list(classes), [
            f"dataset.classes: {path}: cannot be read ({error.strerror or error}). Correct the path."
        ]
    except UnicodeDecodeError as error:
        return list(classes), [
            f"dataset.classes: {path}: byte {error.start} is not UTF-8. Save it as UTF-8."
        ]
    while lines and not lines[-1].strip():
        lines.pop()
    names, wrong = _numbered(lines) if numbered else _by_id(lines)
    wrong += [f"no name for: {printable(name)}" for name in classes if name not in names]
    known = set(classes)
    wrong += [f"no class of that name: {printable(name)}" for name in names if name not in known]
    if wrong:
        return list(classes), [
            f"dataset.classes: {path}: expected {FORMS[numbered]}; there are {len(classes)} classes. "
            f"Correct these:{listed(wrong)}"
        ]
    counts = Counter(names.values())
    unique = {key: name if counts[name] == 1 else f"{name} ({key})" for key, name in names.items()}
    return [unique[name] for name in classes], []


def _numbered(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    names = {str(number): line.strip() for number, line in enumerate(lines)}
    return names, [f"line {int(number) + 1} is empty" for number, name in names.items() if not name]


def _by_id(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    names: dict[str, str] = {}
    wrong = []
    for number, line in enumerate(lines, 1):
        key, *name = line.split("\t" if "\t" in line else None, maxsplit=1) or [""]
        if not name:
            wrong.append(f"line {number} has no name: {printable(line)}")
        elif key in names:
            wrong.append(f"line {number} repeats {printable(key)}")
        names.setdefault(key, "".join(name).strip())
    return names, wrong
