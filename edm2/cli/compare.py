"""`edm2 compare`: experiments side by side."""

from pathlib import Path

import click

from edm2.cli.project import ProjectContext


@click.command()
@click.argument("revisions", nargs=-1, required=True, metavar="REVISION...")
@click.option("--vae", is_flag=True, help="Compare the VAEs instead of the EMA curves.")
@click.option(
    "--out",
    type=click.Path(resolve_path=True, path_type=Path),
    help="Folder; default: reports/compare or reports/compare_vae of the project.",
)
@click.pass_obj
def compare(
    project: ProjectContext, revisions: tuple[str, ...], vae: bool, out: Path | None
) -> None:
    """Say whether a change helps, and show EMA curves side by side.

    A REVISION is a commit, a branch, the name of an experiment in `dvc exp show`, or `workspace`.
    Each is compared with the first one, and the configs of the first with each other. Those that differ only
    in `seeds` are one: with two trainings or more there is a confidence interval.
    """
    project.enter()
    if vae:
        from edm2.pipeline.vae_comparison import write_vae_comparison

        out = out or Path("reports/compare_vae")
        table = write_vae_comparison(revisions, out)
        click.echo(f"{table.to_string(index=False)}\n\nfigure: {out / 'reconstructions.png'}")
    else:
        from edm2.pipeline.comparison import write_comparison

        out = out or Path("reports/compare")
        table, verdicts = write_comparison(revisions, out)
        click.echo(table.to_string(index=False))
        for verdict in verdicts:
            click.echo(f"\nat {verdict.where}: {verdict.sentence}")
        click.echo(f"\nfigure: {out / 'compare.png'}")
