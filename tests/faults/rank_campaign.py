"""Launches of a stage on several ranks, in forks or by torchrun, with signals; and what is left of each."""

import importlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import small_training
import torch.distributed as dist
from campaign import Campaign, Ended, Tally
from interposer import KILLED, Interposer, kill
from tiny import PER_CONFIG, ROOT

PATHS = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests/faults")))
AGAIN = "un the same command again"
HEAVY = (
    "torch._dynamo",
    "edm2.runtime.loop",
    "edm2.runtime.checkpoint",
    "edm2.ema.snapshot",
    "pandas",
)
# what a rank does first; returns what it does last
Prepare = Callable[[int], Callable[[], object] | None]


@dataclass(frozen=True)
class Launched:
    """Processes of one launch: how they end is known after `wait`."""

    processes: Sequence[int]
    output: Path

    def wait(self) -> tuple[list[int], str]:
        """Exit statuses of the ranks, -n after signal n; and what they have printed."""
        ends = [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in self.processes]
        return ends, self.text()

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class RankCampaign(Campaign):
    """Repeats one training of a project on several ranks, each time with another fault."""

    def __init__(self, project: Path, folder: Path, stage: str, count: int = 2) -> None:
        """
        Args:
            project: has what the stage reads.
            folder: an empty one, for copies of the project.
            count: of the ranks.
        """
        self.finished, self.project, self.stage = project, folder / "project", stage
        self.folder, self.count, self.publication = folder, count, False
        own = stage == small_training.NAME
        self.module = importlib.import_module(stage if own else f"stages.{stage}")
        self.training = ["G-0"] if stage in PER_CONFIG else []
        for name in HEAVY:  # once, and not in each fork
            importlib.import_module(name)
        # that of torchrun is in the launcher as well
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.restore()
        ended = self.run_again()
        assert ended.status == 0, ended.text
        self.expected = self.contents(self.project)

    def contents(self, project: Path) -> dict[str, bytes]:
        """All results, and the log."""
        logs = project.glob(f".state/{self.stage}*/*/log.jsonl")
        return super().contents(project) | {"log": b"".join(log.read_bytes() for log in logs)}

    def run_again(self) -> Ended:
        ends, text = self.launch().wait()
        return Ended(max(ends, key=abs), text, 0)

    def launch(
        self, prepare: Prepare = lambda rank: None, count: int | None = None, **variables: str
    ) -> Launched:
        """Start the ranks as forks of this process; `prepare` acts in each of them first."""
        count = self.count if count is None else count
        launch, processes = uuid.uuid4().hex, []
        output = self.folder / f"{launch}.txt"
        for rank in range(count):
            process = os.fork()
            if process == 0:
                self._enter(rank, count, launch, output, variables)
                self._work(prepare(rank))
            processes.append(process)
        return Launched(processes, output)

    def _enter(
        self, rank: int, count: int, launch: str, output: Path, variables: Mapping[str, str]
    ) -> None:
        """Give a fork what torchrun gives a process."""
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        for descriptor, name in ((1, "stdout"), (2, "stderr")):
            setattr(sys, name, open(descriptor, "w", buffering=1, closefd=False))  # noqa: SIM115
        os.chdir(self.project)
        os.environ |= {
            "DVC_ROOT": str(self.project),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "EDM2_ATTEMPT": launch,
            "GLOO_SOCKET_IFNAME": "lo",
            "EDM2_QUIET": "1",
            **variables,
        }

    def _work(self, finish: Callable[[], object] | None) -> NoReturn:
        status = 99
        try:
            self._main()
            if finish is not None:
                finish()
            status = 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def changes_of(self, rank: int) -> int:
        """How many changes of files a rank makes without a fault."""
        self.restore()
        counted = self.folder / "changes"

        def prepare(this: int) -> Callable[[], object] | None:
            if this != rank:
                return None
            interposer = Interposer(self.project, kill, 0)
            interposer.install()
            return lambda: counted.write_text(str(interposer.count))

        ends, text = self.launch(prepare).wait()
        assert set(ends) == {0}, text
        return int(counted.read_text())

    def kill_rank(self, rank: int, number: int, tally: Tally) -> None:
        """Kill a rank before a change; the others must say so and end."""

        def prepare(this: int) -> None:
            if this == rank:
                Interposer(self.project, kill, number).install()

        self.restore()
        ends, text = self.launch(prepare).wait()
        others = [status for this, status in enumerate(ends) if this != rank]
        expected = ends[rank] == KILLED and set(others) == {1}
        self.judge(f"rank {rank}, change {number}", expected, text, tally)

    def signal_rank(self, rank: int, nimg: int, signum: signal.Signals, tally: Tally) -> None:
        """Send a signal to a rank of a training before the step from a time on; all must end with it."""
        variables = {small_training.SIGNAL: f"{rank} {nimg} {int(signum)} self"}
        self.restore()
        ends, text = self.launch(**variables).wait()
        others = {1} if signum == signal.SIGKILL else {128 + signum}
        own = -signum if signum == signal.SIGKILL else 128 + signum
        expected = ends.pop(rank) == own and set(ends) == others
        self.judge(f"{signum.name} to rank {rank} at {nimg}", expected, text, tally)

    def judge(self, name: str, expected: bool, text: str, tally: Tally) -> None:
        """Count how a launch has ended; run the stage again and compare.

        Args:
            expected: whether the exit statuses are right.
            text: what was printed.
        """
        tally.tried += 1
        said = [line for line in text.splitlines() if line.startswith((self.stage, "torchrun"))]
        if any(AGAIN in line for line in said) and "Traceback" not in text:
            tally.explained += 1
        else:
            tally.failed.append(f"{name}: not explained: {text[-600:]}")
        if not expected:
            tally.failed.append(f"{name}: other statuses: {text[-600:]}")
        self._finish(name, tally)


def torchrun(project: Path, count: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """The small training by edm2's torchrun, in a session of its own."""
    return subprocess.run(
        [sys.executable, "-m", "edm2.runtime.torchrun", f"--nproc_per_node={count}",
         "--rdzv_backend=c10d", "--rdzv_endpoint=127.0.0.1:0", "-m", small_training.NAME],
        cwd=project,
        env={**os.environ, "DVC_ROOT": str(project), "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1",
             "EDM2_QUIET": "1", **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        start_new_session=True,
    )  # fmt: skip


def processes_of(project: Path) -> list[int]:
    """Those that still run there."""
    mark = f"DVC_ROOT={project}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has ended, or belongs to somebody else
            continue
    return found
