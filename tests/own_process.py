"""Tests in a process of their own: PyTorch refuses backward passes in forks after fake tensors."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

OWN = "EDM2_TEST_IN_OWN_PROCESS"


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """The test, run by a new pytest."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        if OWN in os.environ:
            test(**fixtures)
            return
        node = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        outside = {key: v for key, v in os.environ.items() if not key.startswith("PYTEST_")}
        result = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "", node],
            env={**outside, OWN: "1"},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stdout + result.stderr

    return run
