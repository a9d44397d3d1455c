"""Memory that was freed stays with the process."""

import platform
import subprocess
import sys

import pytest

SIZE = 16 * 2**20
# of glibc's mallinfo2: field 0 is the heap's size, field 4 that of blocks which go back when they are freed
HEAP_SIZES = f"""
import ctypes
from edm2.runtime.memory import keep_freed_memory

class Info(ctypes.Structure):
    _fields_ = [(str(k), ctypes.c_size_t) for k in range(10)]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]
{{call}}
before = libc.mallinfo2()
block = libc.malloc(ctypes.c_size_t({SIZE}))
during = libc.mallinfo2()
libc.free(block)
after = libc.mallinfo2()
print(*(getattr(info, "0") - getattr(before, "0") for info in (during, after)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator of glibc")
@pytest.mark.parametrize(("call", "kept"), [("keep_freed_memory()", True), ("", False)])
def test_a_freed_block_stays_in_the_heap(call: str, kept: bool) -> None:
    """Without the call it never was in the heap."""
    output = subprocess.run(
        [sys.executable, "-c", HEAP_SIZES.format(call=call)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    during, after = map(int, output.split())
    assert during == after
    assert (after >= SIZE / 2) == kept  # some of it may have been free in the heap before
