"""The `edm2` command. Each module is one group of commands, and imports what it runs when it runs."""

from edm2.cli.main import main

__all__ = ["main"]
