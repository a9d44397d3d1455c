"""Commands that write, with faults: `Campaign` for `edm2` in a folder with what it reads."""

import importlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from campaign import Campaign, Ended

# what commands import when they need it: here once, before the forks
IMPORTED = ("pandas", "scipy.linalg", "matplotlib.pyplot", "webdataset", *(
    f"edm2.{name}" for name in (
        "cli.main", "ema.importing", "ema.reconstruct", "pipeline.export_network",
        "pipeline.measurement", "pipeline.portable_networks", "pipeline.samples",
        "pipeline.published_store", "pipeline.vae_average", "pipeline.vae_export",
    )
))  # fmt: skip


class Command(Campaign):
    """One command, repeated in a copy of the same folder."""

    tops, states = ("out",), ()

    def __init__(self, inputs: Path, folder: Path, arguments: Sequence[str]) -> None:
        """
        Args:
            inputs: folder with what the command reads, and maybe with what it has written before.
            folder: an empty one.
            arguments: of `edm2`; it writes into `out`, or below.
        """
        for name in IMPORTED:
            importlib.import_module(name)
        self.finished, self.project, self.folder = inputs, folder / "project", folder
        self.stage, self.arguments = "edm2", arguments
        self.restore()
        self.before = self.contents(self.project)
        ended = self.run_again()
        assert ended.status == 0, ended.text
        self.expected = self.contents(self.project)

    def restore(self) -> None:
        shutil.rmtree(self.project, ignore_errors=True)
        shutil.copytree(self.finished, self.project, symlinks=True)

    def _main(self) -> None:
        from edm2.cli import main

        try:
            main(self.arguments)
        except SystemExit as end:
            if end.code:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(int(end.code))

    def _is_done(self, again: Ended) -> bool:
        """A command that was killed when all was written may say that it exists."""
        return again.status == 0 or (again.status == 2 and "exists" in again.text)

    def damaged(self) -> list[str]:
        """Files that are neither as they were before the command, nor as it writes them."""
        return [
            name
            for name, content in self.contents(self.project).items()
            if content not in (self.before.get(name), self.expected.get(name))
            and "partial" not in name
        ]
