"""Objects of DVC's cache, which are named by their MD5."""

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from edm2.pipeline.declaration import PIPELINE, all_outs
from edm2.pipeline.doctor.dvc_files import cache_folder
from edm2.pipeline.doctor.dvc_processes import unless_dvc_runs
from edm2.pipeline.doctor.finding import Finding, set_aside
from edm2.runtime.limits import require_file
from edm2.runtime.progress import Progress

# the rest of the MD5, after the two digits of the folder
OBJECT = re.compile(r"[0-9a-f]{30}(\.dir)?")
Inode = tuple[int, int]


def objects() -> Iterator[Finding]:
    """Objects that do not hold what their names say. All are read."""
    paths = sorted(path for path in (cache_folder() / "files/md5").glob("??/*") if path.is_file())
    progress = Progress("DVC's cache", sum(path.stat().st_size for path in paths), "B")
    outs: Mapping[Inode, list[Path]] | None = None
    for path in paths:
        problem = _problem(path)
        progress.advance(path.stat().st_size)
        if not problem:
            continue
        outs = _outs() if outs is None else outs
        links = outs.get(_inode(path), [])
        shown = f", as {', '.join(map(str, links[:3]))}, a link to it, was edited," if links else ""
        yield Finding(
            path,
            problem,
            f"DVC would restore it{shown} as a result.",
            "Remove it and its links, and run `dvc repro`, or `dvc pull` if a remote has it.",
            unless_dvc_runs(partial(_remove, path, links)),
        )
    progress.close()


def _problem(path: Path) -> str:
    if not OBJECT.fullmatch(path.name):
        return "is no object: left by a process that was killed"
    require_file(path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    expected = path.parent.name + path.name.removesuffix(".dir")
    return "" if digest == expected else f"has another MD5, {digest}, than its name says"


def _remove(path: Path, links: list[Path]) -> str:
    """Links share the content, so it is moved aside once."""
    for link in links:
        link.unlink()
    return set_aside(path) + (f"; removed: {', '.join(map(str, links))}" if links else "")


def _outs() -> Mapping[Inode, list[Path]]:
    """The files of all outs, by what they are links to."""
    found = defaultdict(list)
    for pattern in all_outs(PIPELINE):
        for out in Path().glob(pattern):
            inside = [Path(folder, name) for folder, _, names in os.walk(out) for name in names]
            for path in inside if out.is_dir() else [out]:
                if path.exists():
                    found[_inode(path)].append(path)
    return found


def _inode(path: Path) -> Inode:
    status = path.stat()
    return status.st_dev, status.st_ino
