"""DVC's own files: its configuration, dvc.lock, the run cache, and the links that are outs."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from edm2.params import UserError
from edm2.params.yaml_file import CONFLICT, parse_yaml, read_text
from edm2.pipeline.declaration import PIPELINE, all_outs
from edm2.pipeline.doctor.dvc_processes import unless_dvc_runs
from edm2.pipeline.doctor.finding import Finding, reason, set_aside
from edm2.pipeline.git import git
from edm2.runtime.files import write_text
from edm2.runtime.limits import require_file
from edm2.runtime.system_errors import first_line

DVC = Path(".dvc")
CONFIG = DVC / "config"
LOCK = Path("dvc.lock")
KEY = re.compile(r"[0-9a-f]{64}")  # SHA-256, the names in the run cache
CUT = "is cut: its last line does not end"
REPRO = "Then run `dvc repro`."


def cache_folder() -> Path:
    """Where DVC keeps its cache; as the project's default if the configuration cannot be read."""
    from dvc.config import ConfigError

    try:
        folder = _config()["cache"].get("dir")
    except (ConfigError, OSError, ValueError):
        folder = None
    path = Path(folder or DVC / "cache").resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _config() -> Any:
    from dvc.config import Config

    if CONFIG.exists():
        require_file(CONFIG)
    return Config(dvc_dir=str(DVC))


def configuration() -> Iterator[Finding]:
    """.dvc and its configuration."""
    from dvc.config import ConfigError

    if not DVC.is_dir():
        meaning = "DVC does not know this project."
        yield Finding(DVC, "does not exist", meaning, "Run `git checkout .dvc`, or `dvc init`.")
        return
    try:
        _config()
    except (ConfigError, OSError, ValueError) as error:
        meaning = "No command of DVC works."
        remedy = "Mend it, or run `git checkout .dvc/config`."
        yield Finding(CONFIG, f"cannot be read ({first_line(error)})", meaning, remedy)


def lock_file() -> Iterator[Finding]:
    """dvc.lock, which DVC does not replace in one step."""
    if not LOCK.exists():
        return
    require_file(LOCK)
    if CONFLICT.search(LOCK.read_text(encoding="utf-8", errors="replace")):
        remedy = "Run `git checkout --ours dvc.lock`, or --theirs: what it lacks, DVC's cache has."
        meaning = "DVC cannot read it."
        yield Finding(LOCK, "holds the marks of a merge conflict", meaning, f"{remedy} {REPRO}")
    elif problem := _lock_problem(LOCK):
        yield Finding(
            LOCK,
            problem,
            "DVC cannot tell which results are up to date, or says only `validation failed`.",
            f"Run `git checkout dvc.lock`: what it lacks, DVC's cache has. {REPRO}",
            unless_dvc_runs(_restore_lock),
        )


def _restore_lock() -> str:
    """Take the version of the last commit, if it can be read; without one, DVC writes a new file."""
    done, committed = set_aside(LOCK), git("show", f"HEAD:./{LOCK}")
    if committed is None or _problem_of(f"{committed}\n", f"HEAD:{LOCK}"):
        return f"{done}; DVC writes a new one"
    write_text(LOCK, f"{committed}\n")
    return f"{done}; that of the last commit is in its place"


def _lock_problem(path: Path) -> str:
    """What is wrong with a dvc.lock; empty if nothing is."""
    try:
        return _problem_of(read_text(path), "")
    except UserError as error:
        return reason(error, path)


def _problem_of(text: str, name: str) -> str:
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from voluptuous import Invalid

    try:
        tree = parse_yaml(text, name)
        COMPILED_LOCKFILE_SCHEMA(tree or {})
    except UserError as error:
        return reason(error, name)
    except Invalid as error:
        return f"is not as DVC writes it ({error})"
    return "" if text.endswith("\n") else CUT


def run_cache() -> Iterator[Finding]:
    """Entries of the run cache, which are named by what they hold, and folders without any."""
    for folder in sorted(path for path in (cache_folder() / "runs").glob("??/*") if path.is_dir()):
        entries = sorted(folder.iterdir())
        if not entries:
            yield Finding(
                folder,
                "is empty",
                "DVC stops with `join() argument must be str, bytes, or os.PathLike object, not 'NoneType'`.",
                f"Remove it. {REPRO}",
                unless_dvc_runs(partial(_remove_folder, folder)),
            )
        for entry in entries:
            if problem := _entry_problem(entry):
                yield Finding(
                    entry,
                    problem,
                    "DVC cannot find the results of a stage that has run, or stops with `'outs'`.",
                    f"Remove it, and its folder if that is empty then. {REPRO}",
                    unless_dvc_runs(partial(_remove_entry, entry)),
                )


def _entry_problem(entry: Path) -> str:
    from dvc.schema import COMPILED_LOCK_FILE_STAGE_SCHEMA
    from dvc.stage.cache import _get_cache_hash
    from voluptuous import Invalid

    if not KEY.fullmatch(entry.name):
        return "is not an entry: left by a process that was killed"
    require_file(entry)
    try:
        text = read_text(entry)
        tree = COMPILED_LOCK_FILE_STAGE_SCHEMA(parse_yaml(text, str(entry)) or {})
    except UserError as error:
        return f"cannot be read ({reason(error, entry)})"
    except Invalid as error:
        return f"is incomplete ({error})"
    names = (_get_cache_hash(tree), _get_cache_hash(tree, key=True))  # the latter changes the tree
    if names != (entry.name, entry.parent.name):
        return "does not hold what its name says"
    return "" if text.endswith("\n") else CUT


def _remove_entry(entry: Path) -> str:
    done = set_aside(entry)
    if entry.parent.is_dir() and not any(entry.parent.iterdir()):
        entry.parent.rmdir()
    return done


def _remove_folder(folder: Path) -> str:
    folder.rmdir()
    return "removed"


def broken_links() -> Iterator[Finding]:
    """Outs that are symbolic links to objects which the cache does not have."""
    cache = cache_folder().resolve()
    for path in _links(PIPELINE):
        target = path.resolve()
        if target.exists() or not target.is_relative_to(cache):
            continue
        meaning = f"It is a result that DVC's cache does not have any more: {target}."
        if not cache.is_dir():
            remedy = "Mount the disk that has the cache."
            yield Finding(path, f"is a link into {cache}, which does not exist", meaning, remedy)
        else:
            remedy = "Remove the link, and run `dvc repro`, or `dvc pull` if a remote has it."
            repair = unless_dvc_runs(partial(_remove_link, path))
            yield Finding(path, "is a link to nothing", meaning, remedy, repair)


def _links(pipeline: Path) -> Iterator[Path]:
    for pattern in all_outs(pipeline):
        # glob leaves links to nothing out where it has nothing to match
        for out in Path().glob(pattern) if "*" in pattern else [Path(pattern)]:
            yield from (path for path in (out, *out.rglob("*")) if path.is_symlink())


def _remove_link(path: Path) -> str:
    path.unlink()
    return "removed"
