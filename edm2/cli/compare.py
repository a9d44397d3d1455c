"""`edm2 compare`: configs and experiments side by side."""

from pathlib import Path

import click

from edm2.cli.project import ProjectContext


@click.command()
@click.argument("targets", nargs=-1, required=True, metavar="BASE [CHANGE]...")
@click.option(
    "--vae", is_flag=True, help="Compare the VAEs of revisions instead of the EMA curves."
)
@click.option(
    "--out",
    type=click.Path(resolve_path=True, path_type=Path),
    help="Folder; default: reports/compare or reports/compare_vae of the project.",
)
@click.pass_obj
def compare(project: ProjectContext, targets: tuple[str, ...], vae: bool, out: Path | None) -> None:
    """Say whether a change helps, and show EMA curves side by side.

    BASE and each CHANGE is a revision (a commit, a branch, the name of an experiment in `dvc exp show`,
    or `workspace`), a config of the workspace, like G, or a config of a revision, like HEAD:G. A name
    that is both a revision and a config is an error: write workspace:G, or refs/heads/G.

    Of revisions the same configs are compared. A revision alone: each config with the one before it.
    Those that differ only in `seeds` are one: with two trainings or more there is a confidence interval.

    Writes a page, index.html, that opens without network, with its tables and figures.
    """
    project.enter()
    if vae:
        from edm2.pipeline.vae_comparison import write_vae_comparison

        out = out or Path("reports/compare_vae")
        table = write_vae_comparison(targets, out)
        click.echo(f"{table.to_string(index=False)}\n\nfigure: {out / 'reconstructions.png'}")
        return
    from edm2.pipeline.comparison import write_comparison

    out = out or Path("reports/compare")
    comparison = write_comparison(targets, out)
    click.echo(comparison.configs.to_string(index=False, na_rep=""))
    for verdict in comparison.verdicts:
        click.echo(f"\nat {verdict.where}: {verdict.sentence}")
    for note in comparison.changes.notes:
        click.echo(f"\n{note}")
    click.echo(f"\npage: {out / 'index.html'}")
