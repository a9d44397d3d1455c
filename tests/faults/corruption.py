"""Files that are corrupted: bits that flipped, ends that are lost, files of other runs."""

import io
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from artifacts import Artifact

WAY_OUT = re.compile(r"\b([Rr]emove|[Rr]estore|[Rr]un|Use|Download|[Ee]xport|[Mm]ake)\b")
SWAPS = 3  # of each file


@dataclass
class Corrupted:
    """How the corrupted files of one kind were read.

    Attributes:
        other: a project with the results of another run, for swaps.
        files: how many of an artifact are corrupted, at most.
        same: read as if they were intact.
        explained: refused with a sentence that names the file, or its folder, and the way out.
        failed: descriptions of those that were read as something else, or ended in a traceback, or that
            `edm2 verify` did not find.
    """

    other: Path | None = None
    files: int = 3
    tried: int = 0
    same: int = 0
    explained: int = 0
    failed: list[str] = field(default_factory=list)

    def row(self, kind: str) -> str:
        return f"| {kind} | {self.tried} | {self.same} | {self.explained} | {len(self.failed)} |"

    def corrupt(self, artifact: Artifact, flips: int) -> None:
        """Corrupt files of a kind in the current project, read each, and restore it.

        Args:
            flips: how many bits, one at a time.
        """
        files = artifact.files
        assert files, artifact.pattern
        chosen = files[:: max(1, len(files) // self.files)][: self.files]
        for number, file in enumerate(chosen):
            intact, content = artifact.read(file), file.read_bytes()
            own = len(range(number, flips, len(chosen)))
            swaps = list(_others(artifact, file, self.other))[:SWAPS]
            for what, changed in _changes(str(file), content, own, artifact.ends, swaps):
                file.unlink()  # it may be a hard link
                file.write_bytes(changed)
                try:
                    self._read(artifact, file, f"{file}, {what}", intact)
                finally:
                    file.unlink(missing_ok=True)
                    file.write_bytes(content)

    def _read(self, artifact: Artifact, file: Path, name: str, intact: Any) -> None:
        from edm2.runtime.failures import report

        self.tried += 1
        printed = io.StringIO()
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                read = artifact.read(file)
        except Exception as error:
            text = io.StringIO()
            with redirect_stderr(text):
                status = report("read", error)
            if status != 2 or not _is_explained(file, text.getvalue()):
                self.failed.append(f"{name}: {text.getvalue()[-600:]}")
            elif not _found_by_verify(file):
                self.failed.append(f"{name}: not found by edm2 verify")
            else:
                self.explained += 1
        else:
            if read == intact:
                self.same += 1
            else:
                self.failed.append(f"{name}: read as something else")


def _is_explained(file: Path, text: str) -> bool:
    names = (file.name, file.name.removesuffix(".record.json"), file.parent.as_posix())
    return any(name in text for name in names) and WAY_OUT.search(text) is not None


def _found_by_verify(file: Path) -> bool:
    """Whether `edm2 verify` finds it, if it is among the results that it reads."""
    from edm2.runtime.checksums import CHECKSUM_ENDING, checksum_file, checksum_problem
    from edm2.runtime.manifest import MANIFEST
    from edm2.runtime.verification import damaged_files

    table = file.with_suffix("") if file.suffix == CHECKSUM_ENDING else file
    if file.parts[0] not in ("data", "models", "reports"):
        return True
    if checksum_file(table).exists():
        return bool(checksum_problem(table))
    with redirect_stderr(io.StringIO()):
        folders = {path.parent for path in Path().glob(f"{file.parts[0]}/**/{MANIFEST}")}
        return bool(damaged_files(sorted(folders)))


def _changes(
    name: str, content: bytes, flips: int, ends: bool, swaps: Sequence[Path]
) -> Iterator[tuple[str, bytes]]:
    """What happens to a file, and its content then; always the same for a name."""
    draw = random.Random(name)
    for _ in range(flips):
        position, bit = draw.randrange(len(content)), draw.randrange(8)
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        yield f"bit {bit} of byte {position} of {len(content)}", bytes(changed)
    sizes = {0, len(content) // 2, len(content) - 1, draw.randrange(len(content))}
    for size in sorted(sizes) if ends else ():
        yield f"{size} of {len(content)} bytes", content[:size]
    for path in swaps:
        yield f"content of {path}", path.read_bytes()


def _others(artifact: Artifact, file: Path, other: Path | None) -> Iterator[Path]:
    """Files with which this one is swapped: of another run, of the same kind, of another kind."""
    content = file.read_bytes()
    if other is not None and artifact.runs:
        name = re.sub(r"^(\.state/[^/]+)/[0-9a-f]{16}/", r"\1/*/", file.as_posix())
        yield from (path for path in sorted(other.glob(name)) if path.read_bytes() != content)
    siblings = [path for path in artifact.files if path != file and path.suffix == file.suffix]
    yield from [path for path in siblings if path.read_bytes() != content][:1]
    yield Path("params.yaml")
