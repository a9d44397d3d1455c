"""What all stages share: params are checked before anything heavy is imported, then the work is
done in its state folder, and what it made is published.
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from edm2.params import Params, UserError, load
from edm2.params.diffusion import Letter
from edm2.runtime.interruption import Interrupted
from stages.declaration import declaration, per_config

if TYPE_CHECKING:
    import torch

    from edm2.runtime.state import State
    from edm2.runtime.tracking import Run


@dataclass(frozen=True)
class Place:
    """Where a stage works."""

    title: str
    params: Params
    config: Any  # a letter of `configs`, or empty
    device: "torch.device"
    state: "State"
    run: "Run"

    def out(self, path: str) -> Path:
        """Where to make the out `path`; it is published there when the stage is done."""
        target = self.state.results / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


Work = Callable[[Place], None]


def main(work: Work, outside: Callable[[Params], str] | None = None) -> None:
    """Run a stage from the command line: `python -m stages.<name> [CONFIG] [--params FILE]`.

    Args:
        work: makes the stage's outs.
        outside: describes inputs that dvc.yaml does not name, if there are any.
    """
    name = Path(sys.argv[0]).stem
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}", description=work.__doc__)
    if per_config(name):
        parser.add_argument("config", choices=get_args(Letter), help="training configuration")
    parser.add_argument("--params", default="params.yaml", help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        params, config = load(arguments.params), getattr(arguments, "config", "")
        _check(params, config)
        perform(name, work, params, config, outside(params) if outside else "")
    except UserError as error:
        _leave(f"{name}: {error}", 2)
    except KeyboardInterrupt:
        _leave(f"{name}: interrupted; run the same again to continue.", 130)
    except Interrupted as error:
        _leave(f"{name}: {error}; run the same again to continue.", error.status)


def perform(name: str, work: Work, params: Params, config: str = "", outside: str = "") -> None:
    """Do the work of one stage, unless it is done already, and publish its outs."""
    from edm2.runtime.device import pick_device
    from edm2.runtime.distributed import process_group
    from edm2.runtime.state import fingerprint, open_state
    from edm2.runtime.tracking import open_run

    params = params.of(cast(Letter, config)) if config else params
    title = f"{name} {config}".strip()
    declared = declaration(name, config)
    key = fingerprint(declared.values(params) | {"outside": outside}, declared.deps)
    device = pick_device(params.runtime)
    with process_group(device), open_state(title.replace(" ", "-"), key) as state:
        if state.finished():
            print(
                f"{title}: this very work was finished before; its results are reused "
                f"({state.folder}; remove it to compute anew).",
                file=sys.stderr,
            )
        else:
            with open_run(title, params, state, stage=name, config=config) as run:
                work(Place(title, params, config, device, state, run))
        state.publish(declared.outs)


def _check(params: Params, config: str) -> None:
    """What `load` cannot tell: the config asked for, and what only the ladder knows of params."""
    from edm2.diffusion.configuration import check_configs

    if config and config not in params.configs:
        raise UserError(
            f"config {config}: not among configs of params.yaml "
            f"({', '.join(params.configs)}). Add it there."
        )
    check_configs(params)


def _leave(message: str, status: int) -> None:
    """Exit at once: threads that read ahead need not finish."""
    print(message, file=sys.stderr, flush=True)
    os._exit(status)
