"""Questions to git about the project."""

import subprocess


def git(*arguments: str) -> str | None:
    """What a git command prints; None if it fails, or git is not installed."""
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True)
    except OSError:
        return None
    return None if result.returncode else result.stdout.rstrip()
