"""Work in a thread beside the main one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


@contextmanager
def background_thread() -> Iterator[ThreadPoolExecutor]:
    """A pool of one thread, in which PyTorch computes with one thread.

    Otherwise it would start as many threads as the main one has. From then on OpenMP, with more threads
    than cores, lets those that wait sleep at once, and a step of a small network takes twice as long.
    """
    with ThreadPoolExecutor(1) as pool:
        threads = torch.get_num_threads()
        pool.submit(_compute_with_one_thread).result()
        torch.set_num_threads(threads)  # for threads that are started later
        yield pool


def _compute_with_one_thread() -> None:
    torch.get_num_threads()  # PyTorch sets the number at the first call in a thread, and would do so later
    torch.set_num_threads(1)
