"""Work in a thread beside the main one."""

from threading import Thread

import torch

from edm2.runtime.background import background_thread


def test_pytorch_computes_with_one_thread_there_and_as_before_elsewhere():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with background_thread() as pool:
            pool.submit(torch.ones, 2**16).result()  # an operation of several threads
            assert pool.submit(torch.get_num_threads).result() == 1
            later: list[int] = []
            thread = Thread(target=lambda: later.append(torch.get_num_threads()))
            thread.start()
            thread.join()
            assert (torch.get_num_threads(), later) == (3, [3])
    finally:
        torch.set_num_threads(before)
