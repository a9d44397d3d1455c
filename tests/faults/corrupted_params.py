"""Corrupted values for each field of params.yaml, and what becomes of them, in processes that may hang."""

import json
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

from tiny import PER_CONFIG, STAGES, TINY, default_params, entered, run_stage, write_params

from edm2.params import Params, UserError
from edm2.params.loading import check_tree, fields
from edm2.params.tree_size import require_bounded
from edm2.runtime.failures import report

LOAD_SECONDS, STAGE_SECONDS = (
    10,
    60,
)  # of the CPU, of one case: a guard against hangs, no measurement
HUNG = (-signal.SIGPROF, -signal.SIGALRM)  # how such a process ends
WAIT = 20  # times as many seconds by the clock, for what hangs without computing
MEMORY = 8 << 30  # bytes that a process may take
LINES = 60  # of an error
CHARACTERS = 20_000
DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]
VALUES: dict[str, Any] = {
    "null": None,
    "true": True,
    "text": "many",
    "empty text": "",
    "long text": "a" * 100_000,
    "long path": "/".join(["folder"] * 5000),
    "NUL": "a\0b",
    "control": "\x1b[31m\u202e",
    "surrogate": "\ud800",
    "many files": "{0..99999999}.tar",
    "many nested files": "{0..99999}/{0..99999}/{a,b}.tar",
    "fine grid": "0.01...0.25 by 1e-9",
    "grid of 100 000": "1...100000 by 1",
    "long grid": "1" * 5000 + "...2 by 3",
    "device": "cuda:99999999999999999999",
    "0": 0,
    "0.0": 0.0,
    "1": 1,
    "-1": -1,
    "-0.5": -0.5,
    "1e-9": 1e-9,
    "1e-300": 1e-300,
    "5e-324": 5e-324,
    "0.001": 0.001,
    "1000": 1000,
    "100 000": 100_000,
    "10^9": 10**9,
    "2^31": 2**31,
    "2^63": 2**63,
    "2^64": 2**64,
    "10^5000": 10**5000,
    "1e300": 1e300,
    "nan": nan,
    "inf": inf,
    "[]": [],
    "{}": {},
    "[null]": [None],
    "[2^64]": [2**64],
    "[1e300]": [1e300],
    "[1e-300]": [1e-300],
    "[1, 1]": [1, 1],
    "1000 values": list(range(1, 1001)),
    "100 000 values": [1] * 100_000,
    "100 000 texts": ["a"] * 100_000,
    "nested": [[[1]]],
    "deep": DEEP,
    "key": {"a": 1},
    "keys that are no text": {1: 2, None: 3},
    "100 000 keys": dict.fromkeys(map(str, range(100_000)), 1),
}
# of the project whose stages run
SMALLER = {**TINY, "sweep.ema_lengths": [0.05, 0.2], "evaluation.samples": 100}
# sections that are null or empty by default; other values, with which more code runs
RICH: dict[str, Any] = {
    **TINY,
    "vae.images.min_area": 0.5,
    "vae.equivariance.scale": 0.5,
    "vae.equivariance.crop": 0.5,
    "vae.losses.adversarial": 0.5,
    "vae.adversarial.discriminator_nimg": 128,
    "vae.adversarial.generator_nimg": 256,
    "vae.attention": True,
    "sweep.materialize": False,
    "sweep.search": {"low": 0.05, "high": 0.2, "tolerance": 0.02},
    "evaluation.seed_blocks": 10,
    "guidance.guide": "trained",
    "guidance.changes": {"channels": 4},
    "guidance.strength": [1.0, 1.5, 2.0],
    "runtime.reading": "blocks",
}
BASES = {"tiny": TINY, "smaller": SMALLER, "rich": RICH}
CHANGES = ("diffusion.per_config.A", "guidance.changes")  # of fields of `diffusion`


@dataclass(frozen=True)
class Case:
    """One field with a corrupted value.

    Attributes:
        base: values of other fields.
    """

    key: str
    value: str
    base: str

    def __str__(self) -> str:
        return f"{self.base}: {self.key}: {self.value}"

    def tree(self) -> dict[str, Any]:
        tree = default_params()
        for key, value in self.changes().items():
            set_value(tree, key, deepcopy(value))
        return tree

    def changes(self) -> dict[str, Any]:
        """Values that differ from those of params.yaml, by key path."""
        return {**BASES[self.base], self.key: VALUES[self.value]}


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


def cases(base: str) -> list[Case]:
    """All fields, and those of changes of `diffusion`, with all values."""
    optional = base == "rich"
    keys = [key for key, _ in fields(Params, optional=optional)]
    if optional:
        below = [key for key in keys if key.startswith("diffusion.")]
        keys += [f"{change}.{key.partition('.')[2]}" for change in CHANGES for key in below]
    return [Case(key, value, base) for key in keys for value in VALUES]


def ended(
    cases: Sequence[Case], act: Callable[[Case], str], seconds: int = LOAD_SECONDS
) -> Iterator[tuple[Case, str]]:
    """What `act` returns for each case; "hang", "killed" or a traceback if it does not return."""
    done = 0
    while done < len(cases):
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            _run(cases[done:], act, seconds, writer)
        os.close(writer)
        with open(reader, encoding="utf-8", errors="replace") as pipe:
            for line in pipe:
                yield cases[done], json.loads(line)
                done += 1
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status:
            yield cases[done], "hang" if status in HUNG else f"killed: {status}"
            done += 1


def load(case: Case) -> str:
    """Validate the params; an act of `ended`."""
    check_tree(require_bounded(case.tree(), "params.yaml"), "params.yaml")
    return "accepted"


def run_stages(case: Case, finished: Path, folder: Path) -> str:
    """Run all stages in a copy of a finished project, of which those that the value affects work again."""
    project = folder / "project"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(finished, project, symlinks=True)
    write_params(project / "params.yaml", case.changes())
    with entered(project):
        for name in STAGES:
            try:
                run_stage(name, "G" if name in PER_CONFIG else "")
            except Exception as error:
                if report(name, error) != 2:
                    raise
                return "refused"
    return "accepted"


def _run(cases: Sequence[Case], act: Callable[[Case], str], seconds: int, writer: int) -> None:
    """In a fork: act on the cases until one hangs or ends the process."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for number in HUNG:
        signal.signal(-number, signal.SIG_DFL)
    status = 99
    try:
        for case in cases:
            signal.setitimer(signal.ITIMER_PROF, seconds)
            signal.alarm(WAIT * seconds)
            try:
                outcome = act(case)
            except UserError as error:
                outcome = _described(error)
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)[-1]
                outcome = f"traceback: {type(error).__name__} at {last.filename}:{last.lineno}"
            os.write(writer, f"{json.dumps(outcome)}\n".encode())
        status = 0
    finally:
        os._exit(status)


def _described(error: UserError) -> str:
    try:
        text = str(error)
    except Exception as broken:
        return f"traceback: of the message: {broken}"
    if len(text) > CHARACTERS or text.count("\n") > LINES:
        return f"long message: {len(text)} characters, {text.count(chr(10))} lines"
    return "refused"
