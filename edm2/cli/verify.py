"""`edm2 verify`: checksums of all results."""

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
    exit status 1 if there are any. Processes share the files:
    python -m edm2.runtime.torchrun --nproc_per_node=8 --no-python edm2 verify
    """
    import torch

    from edm2.runtime.checksums import CHECKSUM_ENDING, checksum_problem
    from edm2.runtime.distributed import is_main_process, process_group
    from edm2.runtime.manifest import MANIFEST
    from edm2.runtime.verification import damaged_files

    if not folders:
        root = project.enter()
        folders = tuple(root / name for name in FOLDERS)
    manifests = sorted(path for folder in folders for path in folder.rglob(MANIFEST))
    checksums = sorted(path for folder in folders for path in folder.rglob(f"*{CHECKSUM_ENDING}"))
    if not manifests and not checksums:
        names = ", ".join(map(str, folders))
        raise UserError(f"{names}: no results ({MANIFEST}) there. Run `dvc repro` first.")
    with process_group(torch.device("cpu")):
        problems = damaged_files(path.parent for path in manifests)
    if not is_main_process():
        return 0
    tables = (checksum_problem(path.with_suffix("")) for path in checksums)
    problems += [problem for problem in tables if problem]
    for problem in problems:
        click.echo(problem)
    click.echo(
        f"{len(manifests)} folders of results and {len(checksums)} tables checked, {len(problems)} "
        "damaged files."
    )
    return int(bool(problems))
