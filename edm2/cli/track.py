"""`edm2 track`: what runs have logged, and MLflow."""

from typing import TYPE_CHECKING

import click

from edm2.cli.project import ProjectContext
from edm2.params.errors import UserError

if TYPE_CHECKING:
    from edm2.runtime.delivery.deliver import Deliverer
    from edm2.runtime.delivery.outbox import Outbox


@click.group()
def track() -> None:
    """MLflow's view of the runs."""


@track.command()
@click.pass_obj
def sync(project: ProjectContext) -> int:
    """Deliver to MLflow what it has not taken yet, of all runs of the project.

    A run that goes on delivers its own values. The exit status is 1 if something cannot be delivered.
    """
    from edm2.runtime.delivery.deadline import allow
    from edm2.runtime.delivery.deliver import Deliverer, describe, is_unreachable
    from edm2.runtime.delivery.destination import without_password
    from edm2.runtime.delivery.outbox import outboxes

    root = project.enter()
    deliverer = Deliverer(root, click.echo, allow)
    pending = [outbox for outbox in outboxes(root) if outbox.is_pending and not outbox.is_running]
    problems: dict[str | None, str] = {}  # by store
    failures = 0
    for outbox in pending:
        folder, store = outbox.folder.relative_to(root), None
        try:
            store = outbox.description["tracking"]["uri"]
            if store in problems:  # it would be waited for again
                raise ConnectionError(problems[store])
            count = _deliver(deliverer, outbox)
        except ModuleNotFoundError:
            raise  # MLflow is not installed
        except Exception as error:  # whatever MLflow raises
            failures += 1
            if is_unreachable(error):
                problems[store] = "it does not answer"
            name = ".mlflow" if store is None else without_password(store)
            place = "" if isinstance(error, UserError) else f"{name}: "  # that names a file
            click.echo(f"{folder}: cannot be delivered now ({place}{describe(error)}).")
        else:
            click.echo(f"{folder}: {count} values and files delivered.")
    if problems:
        click.echo(
            "If a server is gone for good: remove run.json, outbox.jsonl and delivered.json of its folders. "
            "Values stay in log.jsonl."
        )
    if not pending:
        click.echo("Everything is delivered.")
    return int(failures > 0)


def _deliver(deliverer: "Deliverer", outbox: "Outbox") -> int:
    """How many values and files MLflow has taken."""
    from edm2.runtime.delivery.deadline import allow, deadline
    from edm2.runtime.delivery.store import import_mlflow

    count = 0
    import_mlflow()
    with deadline():
        for sent in deliverer.deliver(outbox):
            count += sent
            allow()
    return count
