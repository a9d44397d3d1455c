"""The `edm2` command. Each module is one group of commands; what they run is imported when it runs."""

from edm2.cli.main import main

__all__ = ["main"]
