"""Freed memory stays with the process."""

import resource
import sys

import pytest
import torch

from edm2.runtime.memory import keep_freed_memory

MIB = 2**18  # float32 values


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_memory_that_was_freed_is_used_again_without_page_faults():
    keep_freed_memory()

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(100 * MIB).add_(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 1000  # of 25 600 pages
