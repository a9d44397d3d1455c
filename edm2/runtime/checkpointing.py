"""When a training saves: the copy is made between two steps, the disk is written beside the next ones."""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from edm2.runtime.background import background_thread
from edm2.runtime.distributed import FOREVER, is_main_process
from edm2.runtime.state import State
from edm2.runtime.system_errors import breaks_connection, explain

if TYPE_CHECKING:
    from edm2.runtime.checkpoint import Staged


class Checkpointer:
    """Saves the state of one training, one save at a time."""

    def __init__(self, state: State, seconds: float, pool: ThreadPoolExecutor) -> None:
        """
        Args:
            seconds: from the end of a save to the next; 0: after each step, which then waits for it.
            pool: of one thread, which writes.
        """
        self.state, self.seconds, self.pool = state, seconds, pool
        # apart from the training's group: its messages must not mix with those of saves
        self.group: Any = None
        if dist.is_initialized():
            self.group = dist.new_group(backend="gloo", timeout=FOREVER)
        self.saving: Future[None] | None = None
        self.staged: Staged | None = None  # kept for its memory
        self.ended = time.monotonic()

    def due(self) -> bool:
        """Whether the main process's clock says that a save is due, or that one has failed."""
        if not is_main_process():
            return False
        if self.saving is not None and self.seconds:
            if not self.saving.done():
                return False
            if self.saving.exception():
                return True
        return time.monotonic() - self.ended >= self.seconds

    def save(self, nimg: int, tree: Any) -> None:
        """Copy the state of time `nimg`, and write it in the background. Every rank must call this.

        Raises:
            OSError, SafetensorError: see `wait`.
        """
        from edm2.runtime.checkpoint import stage

        self.wait()
        staged = self.staged = stage(tree, self.staged)

        def write() -> None:
            self.state.save(nimg, staged, self.group)
            self.ended = time.monotonic()

        self.saving = self.pool.submit(write)

    def wait(self) -> None:
        """Wait until the last save has ended. Every rank must call this.

        Raises:
            OSError, SafetensorError: it failed, on any rank: the disk is full, for example.
        """
        saving, self.saving = self.saving, None
        if saving is not None:
            saving.result()

    def restore(self, into: Any) -> Any | None:
        """The latest checkpoint, see `State.restore`. Every rank must call this."""
        return self.state.restore(into, self.group)

    def checkpoints(self) -> list[Path]:
        """The checkpoints after the save that is under way, whether it fails or not; the latest last."""
        if self.saving is not None:
            self.saving.exception()
        return self.state.checkpoints()

    def warn_of_failure(self) -> None:
        """Print the error of the last save, after its end, unless `wait` has raised it."""
        error = None if self.saving is None else self.saving.exception()
        if error is not None and is_main_process() and not breaks_connection(error):
            print(
                f"warning: the last checkpoint is not written: {explain(error) or error}",
                file=sys.stderr,
            )


@contextmanager
def checkpointing(state: State, seconds: float) -> Iterator[Checkpointer]:
    """The checkpointer of a training; a save that is under way ends before the block does.

    If an error ends the block, that of the save is printed, if it has one.
    """
    with background_thread() as pool:
        checkpointer = Checkpointer(state, seconds, pool)
        try:
            yield checkpointer
        except BaseException:
            checkpointer.warn_of_failure()
            raise
