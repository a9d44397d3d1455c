"""The runner of stages: check the params, run the stage in its state folder, publish its outs."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edm2.params import Params
from edm2.params.checks import project_root
from edm2.params.loading import check_tree
from edm2.params.memory import min_memory
from edm2.params.registry import plugin_files
from edm2.params.replicates import Replicate
from edm2.params.yaml_file import read_yaml
from edm2.pipeline.declaration import (
    Declaration,
    has_matrix,
    read_declaration,
    replicate_from_dvc,
)
from edm2.pipeline.hidden_values import hidden_changes
from edm2.pipeline.launcher import NO_LAUNCH, launch
from edm2.runtime.failures import is_main_process, prepare_streams, report
from edm2.runtime.interruption import Interrupted, exit_at_once, raise_at_signals
from edm2.runtime.messages import QUIET, say

MAX_OUTS = 4  # that the closing line of a stage names

if TYPE_CHECKING:
    import torch

    from edm2.runtime.state import State
    from edm2.runtime.tracking import Run, RunDescription


@dataclass(frozen=True)
class StageContext:
    """What a stage runs with.

    Attributes:
        title: name of the stage and its training, for logs.
        params: those of the training's config, if the stage runs once per training.
        replicate: the training; None for other stages.
    """

    title: str
    params: Params
    replicate: Any
    device: "torch.device"
    state: "State"
    run: "Run"
    conclusions: list[str] = field(default_factory=list)

    def conclude(self, text: str) -> None:
        """Add to the line that the stage ends with: its result, in a few words."""
        self.conclusions.append(text)
        self.run.set_note("; ".join(self.conclusions))

    def out(self, path: str | Path) -> Path:
        """Where to write the out `path`; it is published there when the stage is complete."""
        target = self.state.results / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


RunStage = Callable[[StageContext], None]
DescribeInputs = Callable[[Params], str]
Share = Callable[[str, Params, Any, "torch.device", "State"], None]


def main(
    run: RunStage,
    external_inputs: DescribeInputs | None = None,
    watched_inputs: DescribeInputs | None = None,
    share: Share | None = None,
) -> None:
    """Run a stage from the command line: `python -m stages.NAME [TRAINING] [--params FILE]`.

    The launcher that params name for the stage takes the place of this process, and starts it again.

    Exits with status 2 after a user's error, 1 after another one, and 128 + the signal's number after a
    signal; of several ranks, all with the status of the first that failed.

    Args:
        run: writes the stage's outs.
        external_inputs: describes the inputs that dvc.yaml does not name, if there are any.
        watched_inputs: describes files, one a line, whose changes give a warning and compute nothing again.
        share: does some of the stage's work while another launch runs it; gets title, params, replicate,
            device and state.
    """
    name = Path(sys.argv[0]).stem
    prepare_streams()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # keep notes if it is killed
    raise_at_signals()
    try:
        args = _parse(name, run.__doc__)
        tree = read_yaml(args.params)
        if not args.no_launch:
            launch(name, tree)
        params = check_tree(tree, args.params, name)
        replicate = None
        if args.training:
            named = f"training {args.training}"
            replicate = params.replicate(args.training, named, args.params)
            _warn_of_hidden_changes(params, replicate, args.params)
        run_stage(name, run, params, replicate, external_inputs, watched_inputs, share)
    except (Exception, Interrupted) as error:
        exit_at_once(report(name, error))  # without waiting for threads that read ahead


def run_stage(
    name: str,
    run: RunStage,
    params: Params,
    replicate: Replicate | None = None,
    external_inputs: DescribeInputs | None = None,
    watched_inputs: DescribeInputs | None = None,
    share: Share | None = None,
) -> None:
    """Run one stage unless its results are already complete, and publish its outs.

    What identifies the run is determined by the main process. While another launch runs the same, this
    one does a part of its work if the stage can `share` it.
    """
    from edm2.pipeline.publication import is_complete, publish
    from edm2.runtime.device import pick_device
    from edm2.runtime.distributed import on_main_process, process_group
    from edm2.runtime.state import open_state
    from edm2.runtime.tracking import open_run

    everything = params
    params = params.of(replicate.config) if replicate else params
    title = f"{name} {replicate}" if replicate else name
    declared, start = read_declaration(name, replicate), time.monotonic()
    device = pick_device(params.runtime)
    with process_group(device, params.runtime.timeout_minutes):
        key = on_main_process(lambda: _fingerprint(declared, params, external_inputs))
        helps = None if share is None else partial(share, title, params, replicate, device)
        with open_state(title.replace(" ", "-"), key, helps) as state:
            if watched_inputs and is_main_process():
                _warn_of_changed_files(title, state, watched_inputs(params))
            if is_complete(state):
                _note_reuse(title, state)
                publish(state, declared.outs)
            else:
                _require_memory(name, title, params, device)
                if is_main_process():
                    state.note(params=declared.values(params))  # for `edm2 clean`
                describe = partial(_describe, name, everything, replicate, declared)
                with state.timed(), open_run(title, params, state, describe) as tracked:
                    context = StageContext(title, params, replicate, device, state, tracked)
                    run(context)
                    publish(state, declared.outs)
                say(_closing_line(context, declared, time.monotonic() - start))


def _require_memory(name: str, title: str, params: Params, device: "torch.device") -> None:
    """Refuse a stage that cannot fit."""
    from edm2.runtime.distributed import ranks
    from edm2.runtime.memory import require_memory

    require_memory(title, min_memory(name, params, ranks().world_size, project_root()), device)


def _describe(
    name: str, params: Params, replicate: Replicate | None, declared: Declaration
) -> "RunDescription":
    """What the run of a stage is in MLflow; `params` of all configs."""
    from edm2.pipeline.run_datasets import datasets_of
    from edm2.pipeline.run_description import pipeline_run, stage_tags
    from edm2.runtime.tracking import RunDescription

    own = params.of(replicate.config) if replicate else params
    tags, pipeline = stage_tags(name, replicate, own), pipeline_run(name, params)
    return RunDescription(tags, declared.values(own), pipeline, datasets_of(name, params))


def _note_reuse(title: str, state: "State") -> None:
    if is_main_process():
        print(
            f"{title}: already complete; its results are reused from {state.folder}. Remove that folder "
            "to compute them again.",
            file=sys.stderr,
        )


def _closing_line(context: StageContext, declared: Declaration, seconds: float) -> str:
    """What a stage has done, how long it took, and where the results and the log are."""
    from edm2.runtime.checksums import CHECKSUM_ENDING

    outs = [str(out) for out in declared.outs if out.suffix != CHECKSUM_ENDING]
    more = [f"{len(outs) - MAX_OUTS} others"] if len(outs) > MAX_OUTS else []
    log = context.state.log.relative_to(project_root())
    parts = [*context.conclusions, f"{seconds:.0f} s", ", ".join(outs[:MAX_OUTS] + more)]
    return f"{context.title}: {'; '.join(parts)}" + (f"; log: {log}" if log.exists() else "")


def share_stage(
    name: str,
    share: Share,
    params: Params,
    replicate: Replicate,
    external_inputs: DescribeInputs,
) -> None:
    """Do what several launches can `share` of a stage; publish nothing."""
    from edm2.runtime.device import pick_device
    from edm2.runtime.distributed import is_main_process, on_main_process, process_group
    from edm2.runtime.state import used_state

    params, title = params.of(replicate.config), f"{name} {replicate}"
    declared = read_declaration(name, replicate)
    device = pick_device(params.runtime)
    with process_group(device, params.runtime.timeout_minutes):
        key = on_main_process(lambda: _fingerprint(declared, params, external_inputs))
        with used_state(title.replace(" ", "-"), key) as state:
            if is_main_process():
                _note_params(state, declared.values(params))
            share(title, params, replicate, device, state)


def _note_params(state: "State", params: dict[str, Any]) -> None:
    """Note the params for `edm2 clean`, unless a stage that runs does so."""
    from edm2.runtime.locks import exclusive

    with exclusive(state.lock, wait=False) as free:
        if free and not state.notes.exists():
            state.note(params=params)


def _fingerprint(
    declared: Declaration, params: Params, external_inputs: DescribeInputs | None
) -> str:
    """Of everything that determines the results."""
    from edm2.pipeline.publication import fingerprint
    from edm2.runtime.files import sha256

    plugins = {file: sha256(path) for file, path in plugin_files(params.plugins, project_root())}
    external = external_inputs(params) if external_inputs else ""
    inputs = {**declared.values(params), "external_inputs": external, "plugins": plugins}
    return fingerprint(inputs, declared.deps)


def _warn_of_changed_files(title: str, state: "State", watched: str) -> None:
    """Name the watched files that are not as they were when this run began."""
    before = state.read_notes().get("watched_inputs")
    if before is None:
        state.note(watched_inputs=watched)
    elif changed := sorted(set(watched.splitlines()) - set(before.splitlines())):
        paths = ", ".join(line.rsplit(" ", 2)[0] for line in changed)  # without size and time
        print(
            f"{title}: {paths} changed since this run began. What it has computed is kept; remove "
            f"{state.folder} to start from the beginning.",
            file=sys.stderr,
        )


def _warn_of_hidden_changes(params: Params, replicate: Replicate, file: Path) -> None:
    if is_main_process():
        for warning in hidden_changes(params, replicate.config, file.resolve()):
            print(warning, file=sys.stderr)


def _parse(name: str, description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m stages.{name}", description=description)
    if has_matrix(name):
        parser.add_argument(
            "training",
            nargs="?",
            default=replicate_from_dvc(name),
            help="like G-0: one of `configs`, a hyphen, and one of `seeds` in the params; G, if there is one "
            "seed; DVC sets it (DVC_STAGE)",
        )
    else:
        parser.set_defaults(training="")
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="default: %(default)s"
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help=f"no progress and no closing line; with DVC: {QUIET}=1 dvc repro",
    )
    parser.add_argument(
        NO_LAUNCH, action="store_true", help="run in this process, whatever `launch` in the params"
    )
    args = parser.parse_args()
    if args.quiet:
        os.environ[QUIET] = "1"  # also for the processes that this one starts
    if has_matrix(name) and not args.training:
        parser.error("expected a training, like G-0: one of `configs` and one of `seeds`")
    return args
