"""The checkpoint files among what a user names: files, and folders of files."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from edm2.ema.checkpoint_names import POST_HOC_EMA, NamePattern
from edm2.params import UserError
from edm2.runtime.system_errors import explain

T = TypeVar("T")

PICKLE = ".pkl"
SHOWN = 8  # files in an error
EXAMPLES = "'ckpt-{nimg}-{length}.pt' or 'checkpoint-{step}/ema.safetensors'"


@dataclass(frozen=True)
class Checkpoints:
    """Files of one kind.

    Attributes:
        kind: `published` by EDM2's authors; `post_hoc_ema` of ema-pytorch; or of `any` other program.
        fields: of the name, by file.
        others: number of files in the folders that are not among them.
    """

    kind: Literal["published", "post_hoc_ema", "any"]
    fields: dict[Path, dict[str, float]]
    others: int = 0


def find_checkpoints(sources: Sequence[Path], pattern: str | None, out: Path) -> Checkpoints:
    """The files that match a pattern; without one, those of known names.

    Those in the folder `out`, where the store is made, are none of them.

    Known are EDM2's pickles (*.pkl), ema-pytorch's {index}.{step}.pt, or a single file
    of any name.

    Raises:
        UserError: a source does not exist; no file matches, or a named one does not; there are files of
            two kinds.
    """
    for source in sources:
        if not source.exists():
            raise UserError(f"{source}: no such file or folder.")
    if pattern is not None:
        return _matching(_files(sources, "**/*", out), sources, NamePattern(pattern), "any")
    files = _files(sources, "*", out)
    if any(path.suffix == PICKLE for path in files):
        pickles = {path: dict[str, float]() for path in files if path.suffix == PICKLE}
        _check_named(sources, pickles, f"*{PICKLE}")
        return Checkpoints("published", pickles, len(files) - len(pickles))
    post_hoc = NamePattern(POST_HOC_EMA)
    if any(post_hoc.match(path) is not None for path in files):
        return _matching(files, sources, post_hoc, "post_hoc_ema")
    if len(sources) == 1 and sources[0].is_file():
        return Checkpoints("any", {sources[0]: {}})
    raise UserError(
        f"{sources[0]}: the times and averages of its files are unknown. Give a --pattern of their names, "
        f"like {EXAMPLES}."
    )


def for_each(paths: Iterable[Path], action: Callable[[Path], T]) -> dict[Path, T]:
    """The results of an action by file.

    Raises:
        UserError: has the errors of all files, or of the first of them.
    """
    results, problems = {}, []
    for path in paths:
        try:
            results[path] = action(path)
        except UserError as error:
            if explain(error):
                raise  # of the machine: it says nothing about the file
            problems.append(str(error))
    if problems:
        more = [f"… and {len(problems) - SHOWN} other files."] if len(problems) > SHOWN else []
        raise UserError("\n".join(problems[:SHOWN] + more))
    return results


def _matching(
    files: Sequence[Path],
    sources: Sequence[Path],
    pattern: NamePattern,
    kind: Literal["post_hoc_ema", "any"],
) -> Checkpoints:
    fields = {path: found for path in files if (found := pattern.match(path)) is not None}
    _check_named(sources, fields, pattern.text)
    if not fields:
        raise UserError(
            f"{sources[0]}: none of {len(files)} files has a name like {pattern.text}, for example "
            f"{files[0].name if files else 'none'}. Change --pattern."
        )
    return Checkpoints(kind, fields, len(files) - len(fields))


def _check_named(sources: Sequence[Path], found: Iterable[Path], expected: str) -> None:
    """Raises UserError if a file that was named itself is not among them."""
    for source in sources:
        if source.is_file() and source not in set(found):
            raise UserError(f"{source}: expected a name like {expected}. Import it by itself.")


def _files(sources: Sequence[Path], pattern: str, out: Path) -> list[Path]:
    """Files, and those in folders in the order of their names, each once; not hidden ones, nor in `out`."""
    out = out.absolute()
    found = [
        path
        for source in sources
        for path in (sorted(source.glob(pattern)) if source.is_dir() else [source])
        if path.is_file() and not path.name.startswith(".") and out not in path.absolute().parents
    ]
    return list(dict.fromkeys(found))
