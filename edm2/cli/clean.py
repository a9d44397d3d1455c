"""`edm2 clean`: what `.state` no longer needs to keep."""

from pathlib import Path

import click

from edm2.cli.amount import Amount
from edm2.cli.project import ProjectContext


@click.command()
@click.option(
    "--older-than",
    "days",
    type=Amount(0, 36500, "14 (days)"),
    default=14,
    show_default=True,
    metavar="DAYS",
    help="Unfinished work of other params, inputs or code goes if it has not changed for so long.",
)
@click.option("--yes", is_flag=True, help="Remove it; without this option it is only listed.")
@click.pass_obj
def clean(project: ProjectContext, days: float, yes: bool) -> None:
    """List what can be removed from .state, with sizes; --yes removes it.

    Finished work goes if DVC's cache has its results, abandoned work after some days, and incomplete files
    beside results if nobody writes them any more. Nothing is removed that a process has open, that the
    current params continue, or whose results are nowhere else. Results of DVC's cache stay there: `dvc gc`
    removes those.
    """
    from tqdm import tqdm

    from edm2.params import load
    from edm2.pipeline.cleaning import clean
    from edm2.pipeline.dvc_cache import DvcCache

    def size(count: int) -> str:
        return tqdm.format_sizeof(count, "B", 1000)

    root = project.enter()
    cache = DvcCache(root)
    freed = shared = 0
    for entry in clean(load(Path("params.yaml")), cache, days, yes):
        action = ("removed" if yes else "remove") if entry.removable else "keep"
        total = size(entry.freed + entry.shared)
        click.echo(f"{action:8} {total:>8}  {entry.path}  {entry.reason}")
        freed += entry.freed * entry.removable
        shared += entry.shared * entry.removable
    click.echo(
        f"{'Freed' if yes else 'Would free'}: {size(freed)}. Of what {'is' if yes else 'would be'} removed, "
        f"{size(shared)} stay on disk, because DVC's cache or the results are links to the same files."
    )
    unused = cache.unused_bytes()
    if unused:
        click.echo(
            f"DVC's cache holds {size(unused)} that no result of the workspace uses. `dvc gc --workspace` "
            "removes that, also where other commits use it; it frees what .state does not hold."
        )
    if freed + shared and not yes:
        click.echo("Nothing is removed yet: run `edm2 clean --yes`.")
