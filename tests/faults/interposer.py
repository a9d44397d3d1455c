"""Faults at the n-th use of a file, in this process: no sleeping, no signals from outside.

Python announces what it does with files as audit events, and an audit hook that raises refuses it. What is
written goes through `io.open`, which counts here as well. What libraries open by themselves (safetensors,
SQLite) is not seen; `edm2` gives them temporary names, whose renaming is seen.
"""

import builtins
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ADDING = ("os.rename", "os.link", "os.mkdir", "os.truncate", "os.symlink")
REMOVING = ("os.remove", "os.rmdir")
KILLED = 137  # exit status
Act = Callable[[str], None]


class Interposer:
    """Numbers the changes of files below `folder` from 1; calls `act` with the path before one of them.

    Args:
        number: of that one; 0: none, the changes are only counted.
        reads: every opening is numbered as well.
        removals: removals are numbered as well; a full disk allows them.
        lasting: `act` is called before all later ones, too.
    """

    def __init__(
        self,
        folder: Path,
        act: Act,
        number: int,
        reads: bool = False,
        removals: bool = True,
        lasting: bool = False,
    ) -> None:
        self.folder = str(folder.resolve())
        self.act, self.number, self.lasting = act, number, lasting
        self.reads, self.removals = reads, removals
        self.count = 0

    def install(self) -> None:
        """From now on, until the process ends: audit hooks cannot be removed."""
        sys.addaudithook(self._audit)
        builtins.open = io.open = self._open  # type: ignore[assignment]

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if self.reads or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._use(path)
        elif event in ADDING or (self.removals and event in REMOVING):
            self._use(args[0] if event != "os.link" else args[1])

    def _use(self, path: Any) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith(f"{self.folder}/"):
            return
        self.count += 1
        if self.number and (
            self.count == self.number or (self.lasting and self.count > self.number)
        ):
            self.act(place)

    def _open(
        self, file: Any, mode: str = "r", buffering: int = -1, encoding: Any = None, errors: Any = None,
        newline: Any = None, closefd: bool = True, opener: Any = None,
    ) -> Any:  # fmt: skip
        if not set(mode) & set("wax+"):
            return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = _CountedFile(self, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        file = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        return file if "b" in mode else io.TextIOWrapper(file, encoding, errors, newline)


_real_open = io.open


class _CountedFile(io.FileIO):
    def __init__(self, owner: Interposer, file: Any, *args: Any) -> None:
        self.owner, self.place = owner, file
        super().__init__(file, *args)

    def write(self, data: Any) -> int:
        self.owner._use(self.place)
        return super().write(data)


def kill(_: str) -> None:
    """End this process as SIGKILL would."""
    os._exit(KILLED)


def refuse(number: int) -> Act:
    """Raise the system's error of this number."""

    def act(path: str) -> None:
        raise OSError(number, os.strerror(number), path)

    return act


def run_out_of_memory(_: str) -> None:
    raise MemoryError
