"""The entry point of `edm2`: its commands, and the exit status of each kind of error."""

import os
import signal
import sys
from collections.abc import Sequence
from itertools import pairwise

import click

from edm2 import __version__
from edm2.cli.clean import clean
from edm2.cli.compare import compare
from edm2.cli.doctor import doctor
from edm2.cli.ema import ema
from edm2.cli.evaluate import evaluate
from edm2.cli.export import export
from edm2.cli.measure import measure
from edm2.cli.model import model
from edm2.cli.params import params
from edm2.cli.plan import plan
from edm2.cli.project import ProjectContext
from edm2.cli.sample import sample
from edm2.cli.track import track
from edm2.cli.vae import vae
from edm2.cli.verify import verify
from edm2.params.errors import UserError
from edm2.runtime import peers
from edm2.runtime.failures import prepare_streams, report
from edm2.runtime.interruption import SIGNALS, Interrupted, exit_at_once
from edm2.runtime.messages import QUIET

COMPLETION = "_EDM2_COMPLETE"  # set by shells for completion


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="edm2")
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Folder of the project; default: the nearest one above the current folder.",
)
@click.option("--quiet", is_flag=True, help="Show no progress; warnings and errors stay.")
@click.pass_context
def edm2(context: click.Context, project: str | None, quiet: bool) -> None:
    """Does a change to the training of a diffusion model really help, and at which EMA length?

    The pipeline itself is run with `dvc repro` and `dvc exp run`. These commands look at its params
    and results, and make samples and averages from them.

    Exit status: 0 for success; 1 for a negative result; 2 for wrong input; 130 after Ctrl-C.
    """
    context.obj = ProjectContext(project)
    if quiet:
        os.environ[QUIET] = "1"  # also for the processes that this one starts


for command in (
    params,
    plan,
    ema,
    evaluate,
    sample,
    measure,
    compare,
    export,
    model,
    verify,
    clean,
    doctor,
    track,
    vae,
):
    edm2.add_command(command)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; errors that a user can fix are printed without a traceback.

    EDM2_TRACEBACK=1 prints it, too.
    """
    for signum in SIGNALS:
        signal.signal(signum, signal.default_int_handler)  # like Ctrl-C: no half-written files
    if COMPLETION in os.environ:
        edm2.main(prog_name="edm2")  # answers the shell and exits
    prepare_streams()
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        _refuse_empty(arguments)
        # not edm2.main, which exits with 1 at a broken pipe and treats an EOFError as Ctrl-C
        with edm2.make_context("edm2", arguments) as context:
            status = edm2.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:  # --help and --version
        status = end.exit_code
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (KeyboardInterrupt, Interrupted) as error:
        status = report("edm2", error)
    except BrokenPipeError:  # the reader, like `head`, has stopped
        _end_output()
        status = 0
    except Exception as error:
        _end_output()
        status = report("edm2", error)
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_DFL)  # Ctrl-C while Python ends would be a traceback
    if peers.current() is not None:
        exit_at_once(status)  # with the group as it is
    sys.exit(status if isinstance(status, int) else 0)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Raises UserError if one is empty: as a path it would be the current folder."""
    for before, argument in pairwise(("edm2", *arguments)):
        option, separator, value = argument.partition("=")
        if not argument or (option.startswith("--") and separator and not value):
            place = f"after {before}" if not argument else f"of {option}"
            raise UserError(
                f"the value {place} is empty. Write one; a variable of the shell may be unset."
            )


def _end_output() -> None:
    """Write what is buffered, or forget it: writing it at exit would fail again."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
