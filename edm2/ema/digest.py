"""The checksum of a file whose tensors several threads read in chunks."""

import hashlib
import threading
from collections import deque
from collections.abc import Collection

import torch

from edm2.ema.tensorfile import TensorReader, as_bytes
from edm2.runtime.manifest import compare_sha256

PATIENCE = 0.1  # seconds after which a waiting thread looks whether another one has failed


class ChunkedDigest:
    """SHA-256 of a file, from chunks that were read elsewhere, taken in the order of the file.

    A thread whose chunk is not the next one waits. Tensors that nobody reads in chunks are read here.

    Attributes:
        others: the tensors that were read here, if they are kept.
    """

    def __init__(
        self, reader: TensorReader, chunked: Collection[str], keep: bool, stopped: threading.Event
    ) -> None:
        """
        Args:
            chunked: names of the tensors whose chunks are added.
            keep: whether to keep the other tensors.
            stopped: set when no more chunks follow, after an error.
        """
        self.reader, self.chunked, self.keep, self.stopped = reader, chunked, keep, stopped
        self.others: dict[str, torch.Tensor] = {}
        self.sha256 = hashlib.sha256(reader.header)
        self.position, self.unread = 0, deque(reader.entries)
        self.turn = threading.Condition()
        self._read_others()

    def add(self, name: str, begin: int, data: memoryview) -> None:
        """Add the bytes of tensor `name` that start at value `begin`."""
        entry = self.reader.entries[name]
        position = entry.begin + begin * entry.dtype.itemsize
        with self.turn:
            while self.position != position:
                if self.stopped.is_set():
                    raise RuntimeError("another thread has failed")
                self.turn.wait(PATIENCE)
            self.sha256.update(data)
            self.position += len(data)
            self._read_others()
            self.turn.notify_all()

    def compare(self, expected: str) -> None:
        """
        Raises:
            UserError: the file is not the one that the manifest beside it lists.
        """
        compare_sha256(self.reader.path, self.sha256.hexdigest(), expected)

    def _read_others(self) -> None:
        """Read the tensors that come next, up to one that is read in chunks."""
        while self.unread:
            name = self.unread[0]
            end = self.reader.entries[name].end
            if name in self.chunked and end > self.position:
                return
            if name not in self.chunked:
                tensor = self.reader.tensor(name)
                self.sha256.update(as_bytes(tensor))
                self.position = end
                if self.keep:
                    self.others[name] = tensor
            self.unread.popleft()
