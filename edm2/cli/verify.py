"""`edm2 verify`: checksums of all results."""

from collections.abc import Iterator
from pathlib import Path

import click

from edm2.cli.project import ProjectContext
from edm2.params.errors import UserError

FOLDERS = ("data", "models", "reports")


@click.command()
@click.argument(
    "folders",
    nargs=-1,
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
)
@click.pass_obj
def verify(project: ProjectContext, folders: tuple[Path, ...]) -> int:
    """Read every file of the project's results and compare it with its checksum.

    FOLDERS: only results in these; default: data, models and reports. All damaged files are listed;
    exit status 1 if there are any.
    """
    from edm2.runtime.checksums import ENDING
    from edm2.runtime.manifest import MANIFEST

    if not folders:
        root = project.enter()
        folders = tuple(root / name for name in FOLDERS)
    manifests = sorted(path for folder in folders for path in folder.rglob(MANIFEST))
    checksums = sorted(path for folder in folders for path in folder.rglob(f"*{ENDING}"))
    if not manifests and not checksums:
        names = ", ".join(map(str, folders))
        raise UserError(f"{names}: no results ({MANIFEST}) there. Run `dvc repro` first.")
    problems = [problem for path in manifests for problem in _in_folder(path.parent)]
    problems += [problem for path in checksums for problem in _of_table(path)]
    for problem in problems:
        click.echo(problem)
    click.echo(
        f"{len(manifests)} folders of results and {len(checksums)} tables checked, {len(problems)} "
        "damaged files."
    )
    return int(bool(problems))


def _in_folder(folder: Path) -> Iterator[str]:
    """Damaged files in a folder of results, including the manifest."""
    from edm2.runtime.manifest import damaged_files

    try:
        yield from damaged_files(folder)
    except UserError as error:
        yield str(error)


def _of_table(checksum: Path) -> Iterator[str]:
    from edm2.runtime.checksums import checksum_problem

    problem = checksum_problem(checksum.with_suffix(""))
    if problem:
        yield problem
