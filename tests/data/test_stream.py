"""The stream of batches: each rank and worker reads its share of the same batches."""

import os
import pickle
import signal
import time
from itertools import chain, islice
from multiprocessing import active_children
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from index_reader import BATCH, CPU, SIZE, Dataset, Indices, read_and_tell, runtime

from edm2.data import stream as module
from edm2.data.order import BlockOrder, RandomOrder
from edm2.data.packing import Packed
from edm2.data.stream import count_workers, stream
from edm2.data.worker_pool import Failure
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.runtime.distributed import Ranks


def take(
    count: int, nimg: int = 0, workers: int = 0, **changes: Any
) -> list[tuple[list[int], ...]]:
    """Image numbers, indices, and numbers as `read` gets them, of the first batches from `nimg` on."""
    read = Indices(Dataset(), **changes)
    batches = stream(read, BATCH, 0, nimg, runtime(workers), CPU)
    first = [
        (numbers.tolist(), indices.tolist(), values[:, 2].tolist())
        for numbers, indices, values in islice(batches, count)
    ]
    batches.close()
    return first


def test_batches_have_consecutive_numbers_in_the_order_of_the_seed() -> None:
    numbers, indices, values = zip(*take(5), strict=True)
    assert list(chain(*numbers)) == list(chain(*values)) == list(range(20))
    assert list(chain(*indices)) == RandomOrder(SIZE, 0).indices(range(20))


@pytest.mark.parametrize("skipped", [1, 3])
def test_starting_later_gives_the_same_batches(skipped: int) -> None:
    assert take(4, nimg=skipped * BATCH) == take(skipped + 4)[skipped:]


@pytest.mark.parametrize("size", [2, 4])
def test_the_parts_of_all_ranks_make_up_the_batch_of_one(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = take(6), []
    for rank in range(size):
        monkeypatch.setattr(module, "ranks", lambda rank=rank: Ranks(rank, size, rank))
        parts.append(take(6))
    for step, batch in enumerate(whole):
        for k, field in enumerate(batch):
            assert list(chain.from_iterable(part[step][k] for part in parts)) == field


def test_errors_are_raised_in_the_training_thread() -> None:
    with pytest.raises(ConnectionError):
        take(3, error_at=8, error=ConnectionError())
    assert len(take(2, error_at=8, error=ConnectionError())) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on two cores
def test_workers_give_the_same_batches_and_end_quietly(capfd: pytest.CaptureFixture) -> None:
    """Three workers have 1, 1 and 2 images of a batch. They ignore SIGTERM and SIGINT, and end with the
    stream."""
    before = set(active_children())
    batches = stream(Indices(Dataset()), BATCH, 0, 8, runtime(3), CPU)
    first = next(batches)
    workers = set(active_children()) - before
    assert len(workers) == 3
    for worker in workers:
        os.kill(worker.pid, signal.SIGTERM)
        os.kill(worker.pid, signal.SIGINT)
    found = [first, *islice(batches, 7)]
    batches.close()
    expected = take(8, nimg=8)
    assert [(n.tolist(), i.tolist(), v[:, 2].tolist()) for n, i, v in found] == expected
    for worker in workers:
        worker.join(20)  # on a busy machine PyTorch does not wait until they have ended
    assert not any(worker.is_alive() for worker in workers)
    assert capfd.readouterr().err == ""


class Unpicklable(Exception):
    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [UserError("web/1.tar: 0001.jpg: cannot be decoded"), ConnectionError(7, "lost")]
)
def test_an_error_in_a_worker_has_its_type_and_message(error: Exception) -> None:
    """The traceback of the worker is the cause."""
    with pytest.raises(type(error)) as caught:
        take(9, workers=1, error_at=9, error=error)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    assert "raise self.error" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NotFiniteError("latent number 3", "mean"), "latent number 3"),
        (Unpicklable("latent", " number 3"), "Unpicklable: latent number 3"),
    ],
)
def test_errors_travel_as_they_are_or_as_text(error: Exception, text: str) -> None:
    failure = pickle.loads(pickle.dumps(Failure.of(error)))
    assert str(failure.error) == text
    expected = RuntimeError if isinstance(error, Unpicklable) else type(error)
    assert type(failure.error) is expected


@pytest.mark.slow
def test_a_worker_ends_with_the_main_process() -> None:
    """Also if that is killed; here a process between the two is."""
    receiver, sender = torch.multiprocessing.get_context("spawn").Pipe(False)
    main = torch.multiprocessing.get_context("spawn").Process(target=read_and_tell, args=(sender,))
    main.start()
    pids = receiver.recv()
    main.kill()
    main.join()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("workers", "world_size", "expected"),
    [(0, 1, 0), (3, 1, 3), (9, 1, 4), (9, 2, 2), (None, 1, 3)],
)
def test_the_number_of_workers(workers, world_size, expected, monkeypatch) -> None:
    """At most one for each image of a rank; by default as many as cores."""
    monkeypatch.setattr(module, "cores", lambda: 3)
    monkeypatch.setattr(module, "SMALL_IMAGES", SIZE)
    order, process = RandomOrder(SIZE, 0), Ranks(0, world_size, 0)
    assert count_workers(runtime(workers), Dataset(), order, BATCH, process) == expected


def test_small_datasets_are_read_by_a_thread_unless_workers_are_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 3)
    args = Dataset(), RandomOrder(SIZE, 0), BATCH, Ranks(0, 1, 0)
    assert count_workers(runtime(None), *args) == 0
    dataset = SimpleNamespace(samples=SimpleNamespace(shards=[SimpleNamespace(bytes=2**25)] * 2))
    for shards, expected in ((1, 0), (2, 3)):
        dataset.samples.shards = dataset.samples.shards[-shards:] * shards
        args = dataset, RandomOrder(SIZE, 0), BATCH, Ranks(0, 1, 0)
        assert count_workers(runtime(None), *args) == expected
        assert count_workers(runtime(2), *args) == 2


def test_lanes_that_workers_cannot_share_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 7)
    monkeypatch.setattr(module, "SMALL_IMAGES", SIZE)
    order = BlockOrder([range(SIZE)], 12, 0)
    args = Dataset(), order, 12
    assert count_workers(runtime(None, "blocks"), *args, Ranks(0, 2, 0)) == 6
    assert count_workers(runtime(3, "blocks"), *args, Ranks(0, 2, 0)) == 3
    for workers, world_size in ((5, 1), (4, 2), (0, 5), (None, 5)):
        with pytest.raises(
            UserError, match=rf"runtime.workers: {workers}: .*12 lanes.*{world_size} ranks"
        ):
            count_workers(runtime(workers, "blocks"), *args, Ranks(0, world_size, 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_gets_the_batches_of_a_cpu(workers: int) -> None:
    """While it computes: each batch is changed in place after it was taken."""
    batches = stream(Indices(Dataset()), BATCH, 0, 0, runtime(workers), torch.device("cuda", 0))
    for numbers, indices, values in take(20):
        batch = next(batches)
        assert all(tensor.is_cuda for tensor in batch)
        torch.randn(2000, 2000, device="cuda") @ torch.randn(2000, 2000, device="cuda")
        assert batch[0].tolist() == numbers
        assert batch[1].tolist() == indices
        assert batch[2][:, 2].tolist() == values
        for tensor in batch:
            tensor.zero_()
    batches.close()


def test_packed_tensors_are_the_same_again() -> None:
    """Of any type and shape, also of views and without elements."""
    tensors = (
        torch.arange(5, dtype=torch.uint8)[1:4],
        torch.randn(2, 3, 4).half().permute(2, 0, 1),
        torch.arange(7),
        torch.empty(0, 3),
        torch.tensor([True, False]),
    )
    again = Packed.of(tensors).tensors()
    for tensor, copy in zip(tensors, again, strict=True):
        assert (copy.dtype, copy.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(copy, tensor)
