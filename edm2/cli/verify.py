"""`edm2 verify`: checksums of all results."""

from collections.abc import Iterable
from pathlib import Path

import click

from edm2.cli.project import ProjectContext
from edm2.params.errors import UserError

FOLDERS = ("data", "models", "reports")
WITH_MANIFEST = ("data/", "models/")
TIMEOUT_MINUTES = 10.0  # of a rank that does not respond; there may be no params
AGAIN = (
    "Run `edm2 doctor --fix` first: DVC would restore what is damaged in its cache, too. Remove those of "
    "these that are left, and run `dvc repro`: only the stages that make them run again."
)


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
)
@click.pass_obj
def verify(project: ProjectContext, folders: tuple[Path, ...]) -> int:
    """Read the project's results and compare them with their checksums.

    FOLDERS: only results in these; default: data, models and reports. All damaged files are listed, and
    missing checksums; exit status 1 if there are any. Pictures, and what the stage report writes, have no
    checksum. Processes share the files:
    python -m edm2.runtime.torchrun --nproc_per_node=8 --no-python edm2 verify
    """
    import torch

    from edm2.runtime.checksums import checksum_problem
    from edm2.runtime.distributed import is_main_process, process_group
    from edm2.runtime.manifest import MANIFEST
    from edm2.runtime.verification import damaged_files

    if not folders:
        root = project.enter()
        folders = tuple(root / name for name in FOLDERS)
    results, tables = _to_check(folders, project.root)
    if not results and not tables:
        names = ", ".join(map(str, folders))
        raise UserError(f"{names}: no results ({MANIFEST}) there. Run `dvc repro` first.")
    with process_group(torch.device("cpu"), TIMEOUT_MINUTES):
        problems = damaged_files(results)
    if not is_main_process():
        return 0
    problems += [problem for table in tables if (problem := checksum_problem(table))]
    for problem in problems:
        click.echo(problem)
    if problems:
        click.echo(AGAIN)
    click.echo(
        f"{len(results)} folders of results and {len(tables)} tables checked, {len(problems)} "
        "damaged files."
    )
    return int(bool(problems))


def _to_check(folders: Iterable[Path], root: Path | None) -> tuple[list[Path], list[Path]]:
    """Folders of results and tables in `folders`: those with checksums, and outs of stages that lack them."""
    from edm2.pipeline.declaration import PIPELINE, all_outs
    from edm2.runtime.checksums import CHECKSUM_ENDING
    from edm2.runtime.manifest import MANIFEST

    folders = list(folders)
    results = {path.parent for folder in folders for path in folder.rglob(MANIFEST)}
    tables = {
        path.with_suffix("") for folder in folders for path in folder.rglob(f"*{CHECKSUM_ENDING}")
    }
    for out in [] if root is None else all_outs(root / PIPELINE):
        which = tables if out.endswith(CHECKSUM_ENDING) else results
        if which is tables or out.startswith(WITH_MANIFEST):
            which |= {
                path
                for path in (root or Path()).glob(out.removesuffix(CHECKSUM_ENDING))
                if {path, *path.parents} & set(folders)
            }
    return sorted(results), sorted(tables)
