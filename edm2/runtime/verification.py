"""Comparison of results with their checksums: everything is read once, shared by the ranks."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from edm2.params import UserError
from edm2.runtime.distributed import gather_object, on_main_process, ranks
from edm2.runtime.files import sha256
from edm2.runtime.manifest import MANIFEST, load_manifest, size_problem
from edm2.runtime.progress import Progress
from edm2.runtime.records import Entry
from edm2.runtime.system_errors import DAMAGE


@dataclass(frozen=True)
class _Listed:
    """A file that a manifest lists."""

    folder: Path
    name: str
    entry: Entry
    optional: bool

    @property
    def path(self) -> Path:
        return self.folder / self.name

    def problem(self, progress: Progress, strict: bool) -> str:
        """What is wrong with the file; empty if nothing is."""
        try:
            if self.optional and not self.path.is_file():
                return ""
            if problem := size_problem(self.folder, self.name, self.entry):
                return problem
            if sha256(self.path, progress.advance) != self.entry["sha256"]:
                return f"{self.path}: SHA-256 differs from that in {MANIFEST}: corrupted."
        except OSError as error:
            if strict and error.errno not in DAMAGE:
                raise
            return f"{self.path}: cannot be read ({error.strerror})."
        return ""


def damaged_files(folders: Iterable[Path], optional: str = "", strict: bool = False) -> list[str]:
    """Read every file that the manifests of `folders` list, each rank some of them.

    Args:
        optional: pattern of files that may be missing.
        strict: raise errors that do not say what a file holds, like a missing right.

    Returns:
        on the main process one message per missing or corrupted file, or manifest; on other ranks
        those of their files.
    """
    problems, listed = on_main_process(lambda: _list(list(folders), optional, strict))
    order = sorted(range(len(listed)), key=lambda k: listed[k].entry["bytes"])
    ours = order[ranks().rank :: ranks().world_size]
    progress = Progress("verify", sum(listed[k].entry["bytes"] for k in ours), "B")
    results = {k: listed[k].problem(progress, strict) for k in ours}
    progress.close()
    gathered = {k: problem for part in gather_object(results) for k, problem in part.items()}
    return problems + [gathered[k] for k in sorted(gathered) if gathered[k]]


def _list(folders: Iterable[Path], optional: str, strict: bool) -> tuple[list[str], list[_Listed]]:
    """Damaged manifests, and the files that the others list; a file of two manifests once."""
    problems: list[str] = []
    listed: dict[tuple[Path, str], _Listed] = {}
    for folder in folders:
        try:
            files = load_manifest(folder)["files"]
        except UserError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            if strict and error.errno not in DAMAGE:
                raise
            problems.append(f"{folder / MANIFEST}: cannot be read ({error.strerror}).")
            continue
        for name, entry in files.items():
            file = _Listed(folder, name, entry, fnmatch(name, optional))
            listed.setdefault((file.path, entry["sha256"]), file)
    return problems, list(listed.values())
