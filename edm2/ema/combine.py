"""Weighted sums of many files of tensors, in one pass and little memory."""

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import torch
from torch.nn.functional import pad

from edm2.ema.digest import ChunkedDigest
from edm2.ema.tensorfile import TensorReader, check_same_tensors
from edm2.runtime.manifest import expected_sha256, verified
from edm2.runtime.progress import Progress

CHUNK_VALUES = 2**23  # of all files, or all sums, together: few calls to the system
PRODUCT_VALUES = 2**20  # of a chunk, multiplied at a time: small enough for caches
MIN_PRODUCT = (
    4,
    16,
)  # rows and columns of a product; MKL has other sums of smaller ones on some CPUs

Chunk = tuple[str, int, int]  # tensor, first value, number of values


def combine(
    paths: Sequence[Path],
    names: Sequence[str],
    weights: Callable[[str], torch.Tensor],
    consume: Callable[[str, int, torch.Tensor], None],
    others: Collection[str] = (),
    kept: Collection[int] = (),
) -> dict[int, dict[str, torch.Tensor]]:
    """Σ_i weights(name)[k, i] · file_i[name] for every k, chunk by chunk, summed in float32.

    The sums are matrix products, [sums, files] times [files, values], and each is the same to the last bit
    whichever others are made with it. There are as many workers as PyTorch has threads; each takes a chunk
    from reading to consuming, with one thread. Memory holds a few chunks of CHUNK_VALUES per worker, however
    many files and sums there are, of any size.

    Each file is read once, and compared with its checksum at the end, if a manifest lists it: until
    this returns, the sums may be those of a damaged file.

    Args:
        paths: safetensors files with the same tensors.
        names: tensors to combine.
        weights: float32 [sums, files] for a tensor.
        consume: takes a tensor's name, the number of the chunk's first value, and the sums float32
            [sums, values]. Several threads call it. The memory of the sums is reused after it
            returns.
        others: names of tensors that may differ: that not every file has, or in another shape.
        kept: numbers of the files whose tensors are returned, except those that are combined.

    Raises:
        UserError: the tensors of the files differ; a file is truncated, or is not the one that the
            manifest beside it lists; or what `consume` raises.
    """
    stopped = threading.Event()
    with ExitStack() as stack:
        files = [stack.enter_context(closing(TensorReader(path))) for path in paths]
        chunked = set(names)
        for file in files[1:]:
            check_same_tensors(file, files[0], others)
        order = [name for name in files[0].entries if name in chunked]
        checksums = [_checksum_on_the_way(file, order) for file in files]
        digests = [
            None if checksums[k] is None else ChunkedDigest(file, chunked, k in kept, stopped)
            for k, file in enumerate(files)
        ]
        _process_chunks(files, digests, order, weights, consume, stopped)
        for digest, checksum in zip(digests, checksums, strict=True):
            if digest is not None and checksum is not None:
                digest.compare(checksum)
        return {k: _not_combined(files[k], digests[k], chunked) for k in kept}


def _not_combined(
    file: TensorReader, digest: ChunkedDigest | None, combined: Collection[str]
) -> dict[str, torch.Tensor]:
    """The tensors of a file except the combined ones; a digest has read them."""
    if digest is not None:
        return digest.others
    return {name: file.tensor(name) for name in file.entries if name not in combined}


def _checksum_on_the_way(file: TensorReader, order: Sequence[str]) -> str | None:
    """The file's checksum, if it can be compared while its tensors are read in this order.

    Otherwise the file is compared here.
    """
    checksum = expected_sha256(file.path)
    if checksum is None or [name for name in file.entries if name in set(order)] == order:
        return checksum
    verified(file.path)
    return None


def _process_chunks(
    files: Sequence[TensorReader],
    digests: Sequence[ChunkedDigest | None],
    names: Sequence[str],
    weights: Callable[[str], torch.Tensor],
    consume: Callable[[str, int, torch.Tensor], None],
    stopped: threading.Event,
) -> None:
    """Read, sum and consume the tensors in this order; see `combine`."""
    if not names:
        return
    entries, count = files[0].entries, len(weights(names[0]))
    size = max(1, CHUNK_VALUES // max(len(files), count))
    chunks = [
        (name, begin, min(size, entries[name].count - begin))
        for name in names
        for begin in range(0, entries[name].count, size)
    ]
    local = threading.local()

    def process(chunk: Chunk) -> int:
        name, begin, length = chunk
        try:
            if not hasattr(local, "buffers"):
                local.buffers = _WorkerBuffers(files, digests, count, size)
            consume(name, begin, local.buffers.sum(chunk, weights(name)))
        except BaseException:
            stopped.set()  # others may be waiting for this chunk
            raise
        return length

    progress = Progress("reconstruct", sum(length for _, _, length in chunks), "value")
    with closing(progress), _workers() as run:
        for length in run(process, chunks):
            progress.advance(length)


class _WorkerBuffers:
    """One worker's memory for a chunk: the values as stored, the values in float32, and the sums."""

    def __init__(
        self,
        files: Sequence[TensorReader],
        digests: Sequence[ChunkedDigest | None],
        count: int,
        size: int,
    ) -> None:
        """
        Args:
            digests: of the files, None for those that are not compared with a checksum.
            count: number of sums.
            size: largest number of values of a chunk.
        """
        self.files, self.digests, self.count = files, digests, count
        self.step = min(size, max(1, PRODUCT_VALUES // max(len(files), count)))
        self.stored = torch.empty(8 * len(files) * size, dtype=torch.uint8)
        self.bytes = self.stored.numpy().data
        self.values = torch.empty(len(files) * self.step)
        self.sums = torch.empty(count * size)

    def sum(self, chunk: Chunk, weights: torch.Tensor) -> torch.Tensor:
        """weights [sums, files] times the chunk's values in all files: float32 [sums, values]."""
        name, begin, length = chunk
        shape = (len(self.files), length)
        dtype = self.files[0].entries[name].dtype
        stored = self.stored.view(dtype)[: len(self.files) * length].view(shape)
        row = length * dtype.itemsize
        for k, (file, digest) in enumerate(zip(self.files, self.digests, strict=True)):
            data = self.bytes[k * row : (k + 1) * row]
            file.read(name, begin, data)
            if digest is not None:
                digest.add(name, begin, data)
        sums = self.sums[: self.count * length].view(self.count, length)
        for part, out in zip(stored.split(self.step, 1), sums.split(self.step, 1), strict=True):
            values = self.values[: part.numel()].view(part.shape).copy_(part)
            _multiply(weights, values, out)
        return sums


def _multiply(weights: torch.Tensor, values: torch.Tensor, out: torch.Tensor) -> None:
    """weights [sums, files] times values [files, n]. A sum's bits do not depend on the number of sums and
    values: products smaller than MIN_PRODUCT, which libraries add up in another order, get zeros.
    """
    missing = (max(0, n - size) for n, size in zip(MIN_PRODUCT, out.shape, strict=True))
    rows, columns = missing
    if not rows and not columns:
        torch.mm(weights, values, out=out)
        return
    product = torch.mm(pad(weights, (0, 0, 0, rows)), pad(values, (0, columns)))
    out.copy_(product[: out.shape[0], : out.shape[1]])


@contextmanager
def _workers() -> Iterator[Callable[[Callable[[Chunk], int], Sequence[Chunk]], Iterator[int]]]:
    """A map over chunks by several threads, each of which computes with one.

    If single operations were spread over threads as well, they would wait for each other.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
