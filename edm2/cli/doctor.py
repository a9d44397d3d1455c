"""`edm2 doctor`: what was left half done, and its repair."""

from typing import TYPE_CHECKING

import click

from edm2.cli.project import ProjectContext

if TYPE_CHECKING:
    from edm2.pipeline.doctor.finding import Finding


@click.command()
@click.option(
    "--fix",
    is_flag=True,
    help="Repair what can be made again; without this option it is only listed.",
)
@click.pass_obj
def doctor(project: ProjectContext, fix: bool) -> int:
    """Find what kills, full disks and power cuts have left half done, and say what to do.

    Looks at the packages, git, params, DVC's files, locks and cache, MLflow's store, .state, and the cache of
    weights. All checkpoints, and DVC's cache, are read and compared with their checksums: that is last, and
    Ctrl-C harms nothing.

    --fix moves what is broken to .dvc/tmp/doctor, takes dvc.lock from the last commit if it cannot be read,
    and removes incomplete files and empty folders. It repairs nothing that would need a decision, or that a
    process uses. The exit status is 1 if something is wrong, or with --fix: still is.
    """
    from edm2.pipeline.doctor.examination import examine

    project.enter()
    total = repairable = left = 0
    for finding in list(examine()) if fix else examine():
        total += 1
        repairable += finding.repair is not None
        line, is_left = _repair(finding) if fix else (str(finding), True)
        left += is_left
        click.echo(line)
    if not total:
        click.echo("Nothing is wrong.")
    elif fix:
        click.echo(f"{total - left} of {total} repaired. Then run `dvc repro`.")
    else:
        advice = f"; `edm2 doctor --fix` repairs {repairable}" if repairable else ""
        click.echo(f"Problems: {total}{advice}.")
    return int(left > 0)


def _repair(finding: "Finding") -> tuple[str, bool]:
    """What was done, or is to be done; and whether the finding is left."""
    if finding.repair is None:
        return str(finding), True
    try:
        return f"repaired: {finding.place}: {finding.problem}: {finding.repair()}.", False
    except Exception as error:  # the others may work
        return f"not repaired: {finding.place}: {finding.problem}: {error}", True
