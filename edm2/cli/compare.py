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
    """Compare experiments in a table and a figure.

    A REVISION is a commit, a branch, the name of an experiment in `dvc exp show`, or `workspace`.
    With --vae, experiments that differ only in `seed` are one variant.
    """
    project.enter()
    if vae:
        from edm2.pipeline.vae_comparison import write_vae_comparison

        out, figure = out or Path("reports/compare_vae"), "reconstructions.png"
        table = write_vae_comparison(revisions, out)
    else:
        from edm2.pipeline.comparison import write_comparison

        out, figure = out or Path("reports/compare"), "compare.png"
        table = write_comparison(revisions, out)
    click.echo(table.to_string(index=False))
    click.echo(f"\nfigure: {out / figure}")
