"""The project that a command works on."""

import os
from dataclasses import dataclass
from pathlib import Path

from edm2.params.errors import UserError

FILES = ("params.yaml", "dvc.yaml")


@dataclass(frozen=True)
class ProjectContext:
    """The folder that `--project` names, if any."""

    folder: str | None

    @property
    def start(self) -> Path:
        """The folder where the search for the project starts."""
        return Path(self.folder or ".").resolve()

    @property
    def root(self) -> Path | None:
        """The project root, if there is a project."""
        candidates = [self.start] if self.folder else [self.start, *self.start.parents]
        for root in candidates:
            if all((root / name).is_file() for name in FILES):
                return root
        return None

    def enter(self, otherwise: str = "") -> Path:
        """Make the project root the current folder.

        Args:
            otherwise: what the user can do without a project, as a sentence.

        Raises:
            UserError: neither this folder nor a folder above it is a project.
        """
        root = self.root
        if root is None:
            where = "in it" if self.folder else "here or in a folder above"
            raise UserError(
                f"{self.start}: not a project: expected {' and '.join(FILES)} {where}. "
                f"Change to a clone of edm2, or name one: edm2 --project DIR ... {otherwise}".rstrip()
            )
        os.chdir(root)
        return root
