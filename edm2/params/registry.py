"""Seams: registries of what can be named in params.yaml, and plug-ins that add to them.

A member is a class or function, or its import path "module:attribute" as in entry points. So the names
are known before anything heavy is imported, and `params` imports no package above it.
"""

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from edm2.params.errors import Problem

T = TypeVar("T")
NAME = r"[A-Za-z0-9][\w.-]*"
GROUP = "edm2.plugins"  # entry points of installed packages
FILE_PREFIX = "edm2_plugin_"  # of the names of modules


class Registry(Mapping[str, T], Generic[T]):
    """The members of one seam by name, in the order in which they were registered."""

    def __init__(self, seam: str, members: Mapping[str, T | str]) -> None:
        self.seam = seam
        self._members: dict[str, Any] = dict(members)

    def register(self, name: str, member: T | str) -> None:
        """Add a member; for plug-ins.

        Raises:
            ValueError: the name is taken, or could not be part of the name of a file.
        """
        if not re.fullmatch(NAME, name):
            raise ValueError(
                f"{self.seam} {name!r}: expected a name of letters, digits, '_', '-' and '.', which "
                "begins with a letter or digit: results are stored under it"
            )
        if name in self._members:
            raise ValueError(f"{self.seam} {name!r} is already registered; choose another name")
        self._members[name] = member

    def __getitem__(self, name: str) -> T:
        member: T = implementation(self._members[name])
        return member

    def __contains__(self, name: object) -> bool:
        return name in self._members

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def remove(self, name: str) -> None:
        """Remove a member; for tests of plug-ins."""
        del self._members[name]


def implementation(member: Any) -> Any:
    """The object at "module:attribute"; anything but a string is returned as it is."""
    if not isinstance(member, str):
        return member
    module, _, attribute = member.partition(":")
    return getattr(importlib.import_module(module), attribute)


def one_of(registry: Registry[Any]) -> AfterValidator:
    """Validator of a field whose value is the name of a member."""

    def check(name: str) -> str:
        if name not in registry:
            *others, last = (repr(known) for known in registry)
            known = f"{', '.join(others)} or {last}" if others else last
            raise PydanticCustomError("literal_member", "{known}", {"known": known})
        return name

    return AfterValidator(check)


def load_plugins(names: object, root: Path) -> Iterator[Problem]:
    """Import the plug-ins that params name, and those of installed packages; once each.

    Args:
        names: modules, or Python files relative to `root`.

    Returns:
        a problem for each one that cannot be imported.
    """
    for point in entry_points(group=GROUP):
        yield from _import(f"entry point {point.name}", point.value, root)
    if isinstance(names, list):
        for name in (name for name in names if isinstance(name, str)):
            yield from _import("plugins", name, root)


def plugin_files(names: Iterable[str], root: Path) -> Iterator[tuple[str, Path]]:
    """The plug-ins that are Python files below `root`; modules belong to installed packages."""
    for name in names:
        if name.endswith(".py"):
            yield name, root / name


def _import(key: str, name: str, root: Path) -> Iterator[Problem]:
    try:
        if name.endswith(".py"):
            import_file((root / name).resolve())
        else:
            importlib.import_module(name.partition(":")[0])
    except Exception as error:  # a plug-in may raise anything
        reason = f"{type(error).__name__}: {error}"
        yield Problem(
            key,
            name,
            "a Python file below the project root, or a module, that can be imported",
            f"It raised {reason}. Correct it, or remove it from `plugins`.",
        )


def loaded_files() -> list[Path]:
    """The Python files that were imported as plug-ins, for other processes to import them."""
    modules = (module for name, module in sys.modules.items() if name.startswith(FILE_PREFIX))
    return [Path(module.__file__) for module in modules if module.__file__]


def import_file(path: Path) -> None:
    """Import a Python file as a plug-in, once."""
    module_name = f"{FILE_PREFIX}{path.stem}"
    loaded = sys.modules.get(module_name)
    if loaded is not None and loaded.__file__ == str(path):
        return
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
