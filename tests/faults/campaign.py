"""Runs of a stage with a fault, and what is left of each: the same results, a sentence, and nothing else."""

import importlib
import os
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import small_stage
from forks import in_fork
from interposer import KILLED, Act, Interposer, kill
from tiny import PER_CONFIG, entered

RESULTS = ("data", "models", "reports")
WAYS_OUT = ("run the same command again", "check its name")  # the latter: for files of the user


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit status and what it printed; how often it used files."""

    status: int
    text: str
    uses: int


@dataclass
class Tally:
    """How the faults of one kind ended.

    Attributes:
        same: the command, run again, gave the same bits.
        explained: it had ended with one sentence that has the path and the way out.
        failed: descriptions of those without the same bits, or with another end.
        left: descriptions of what was left behind in the end.
        left_at_once: of what was left when the command had ended with an error.
    """

    tried: int = 0
    same: int = 0
    explained: int = 0
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    left_at_once: list[str] = field(default_factory=list)

    def row(self, kind: str) -> str:
        lists = (self.failed, self.left_at_once, self.left)
        numbers = (self.tried, self.same, self.explained, *map(len, lists))
        return f"| {kind} | " + " | ".join(map(str, numbers)) + " |"


class Campaign:
    """Repeats one stage of a finished project from the same start, each time with another fault."""

    tops: Sequence[str] = RESULTS  # folders whose files are compared
    states: Sequence[str] = (".state",)  # of which only temporary files matter

    def __init__(self, finished: Path, folder: Path, stage: str, publication: bool) -> None:
        """
        Args:
            folder: an empty one, for the project and what its processes print.
            publication: the results are complete in `.state`, and only to be published.
        """
        self.finished, self.project, self.stage = finished, folder / "project", stage
        name = "small_stage" if stage == small_stage.NAME else f"stages.{stage}"
        self.module = importlib.import_module(name)
        self.training = ["G-0"] if stage in PER_CONFIG else []
        self.publication = publication
        self.folder = folder
        self.expected = self.contents(finished)

    def restore(self) -> None:
        """The project as it is before the stage runs, without its outs."""
        shutil.rmtree(self.project, ignore_errors=True)
        shutil.copytree(self.finished, self.project, symlinks=True)
        with entered(self.project):
            for out in outs_of(self.stage, bool(self.training)):
                shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        if not self.publication:
            shutil.rmtree(self.project / ".state", ignore_errors=True)

    def run(self, act: Act, number: int, **options: bool) -> Ended:
        """The stage in a process of its own, with a fault before the use of this number."""
        interposer = Interposer(self.project, act, number, **options)

        def start() -> None:
            interposer.install()
            self._main()
            (self.folder / "uses").write_text(str(interposer.count))

        return self.in_process(start)

    def in_process(self, start: Callable[[], None]) -> Ended:
        """What `start` does, in a fork."""
        uses = self.folder / "uses"
        uses.unlink(missing_ok=True)

        def act() -> int:
            os.chdir(self.project)
            os.environ["DVC_ROOT"] = str(self.project)
            start()
            return 0

        status, text = in_fork(act)
        return Ended(status, text, int(uses.read_text()) if uses.exists() else 0)

    def run_again(self) -> Ended:
        return self.in_process(self._main)

    def _main(self) -> None:
        from edm2.pipeline.runner import main

        names = ("external_inputs", "watched_inputs", "share")
        sys.argv = [f"stages/{self.stage}.py", *self.training]
        main(self.module.run, *(getattr(self.module, name, None) for name in names))

    def changes(self, **options: bool) -> int:
        """How many there are without a fault."""
        self.restore()
        return self.run(kill, 0, **options).uses

    def kill_at(self, number: int, tally: Tally) -> None:
        """Kill the stage before a change, run it again, and compare."""
        self.restore()
        ended = self.run(kill, number)
        name = f"{self.stage}, change {number}"
        tally.tried += 1
        if ended.status != KILLED:
            tally.failed.append(f"{name}: ended with {ended.status}")
        self._finish(name, tally)

    def fail_at(self, number: int, act: Act, tally: Tally, **options: bool) -> None:
        """Let the system refuse a use of a file; then run the stage again, without that."""
        self.restore()
        self._judge(f"{self.stage}, use {number}", self.run(act, number, **options), tally)

    def limit_files(self, size: int, tally: Tally) -> None:
        """Let no file become longer than `size` bytes: writes fail within every library."""

        def start() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
            try:
                self._main()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        self.restore()
        self._judge(f"{self.stage}, {size} bytes", self.in_process(start), tally)

    def _judge(self, name: str, ended: Ended, tally: Tally) -> None:
        tally.tried += 1
        if ended.status and not self._is_explained(ended):
            tally.failed.append(f"{name}: status {ended.status}: {ended.text[-300:]}")
        tally.explained += ended.status != 0 and self._is_explained(ended)
        if ended.status and (left := self.partial()):
            tally.left_at_once.append(f"{name}: {left}")
        self._finish(name, tally)

    def _is_explained(self, ended: Ended) -> bool:
        last = ended.text.strip().rpartition("\n")[2]
        return (
            ended.status == 2
            and "Traceback" not in ended.text
            and last.startswith(self.stage)
            and any(way in last for way in WAYS_OUT)
        )

    def _is_done(self, again: Ended) -> bool:
        return again.status == 0

    def _finish(self, name: str, tally: Tally) -> None:
        again = self.run_again()
        found = self.contents(self.project)
        if not self._is_done(again) or any(
            found.get(path) != bits for path, bits in self.expected.items()
        ):
            tally.failed.append(f"{name}: not the same again: {again.status} {again.text[-300:]}")
        else:
            tally.same += 1
        left = sorted(found.keys() - self.expected.keys()) + self.partial()
        if left:
            tally.left.append(f"{name}: {left}")

    def contents(self, project: Path) -> dict[str, bytes]:
        """All files of the results, without what differs between runs: the page of the report."""
        files = (f for top in self.tops for f in (project / top).rglob("*") if f.is_file())
        return {
            f.relative_to(project).as_posix(): f.read_bytes()
            for f in files
            if "index.html" not in f.name
        }

    def partial(self) -> list[str]:
        """Temporary files and folders anywhere in the project."""
        tops = (self.project / top for top in (*self.tops, *self.states))
        inside = (path for top in tops for path in top.rglob(".*partial*"))
        return sorted(path.relative_to(self.project).as_posix() for path in inside)


def outs_of(stage: str, per_training: bool) -> Sequence[Path]:
    from edm2.params.replicates import Replicate
    from edm2.pipeline.declaration import read_declaration

    return read_declaration(stage, Replicate("G", 0) if per_training else None).outs


def spread(count: int, most: int) -> Iterator[int]:
    """At most so many of the numbers from 1 to `count`, evenly."""
    step = max(1.0, count / most)
    numbers = Counter(1 + int(k * step) for k in range(min(count, most)))
    yield from sorted(numbers)
