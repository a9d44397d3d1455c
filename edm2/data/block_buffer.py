"""Samples in memory for a while, since their block was read at once."""

from threading import Lock

from edm2.data.order import BLOCK
from edm2.data.shards import Samples

Sample = dict[str, bytes]


class BlockBuffer:
    """Reads the block of a sample when that is needed first, and keeps the others until they are needed.

    It decides what is read when, never which samples there are: what it no longer has, it reads again.
    """

    def __init__(self, samples: Samples, capacity: int) -> None:
        """
        Args:
            capacity: blocks to keep; the oldest ones are dropped.
        """
        self.samples, self.capacity = samples, capacity
        self._blocks: dict[int, dict[int, Sample]] = {}  # by first sample, the oldest first
        self._lock = Lock()  # images are decoded in threads

    def take(self, index: int) -> Sample:
        """The sample at `index`, which the buffer then forgets."""
        shard, number = self.samples.locate(index)
        start = index - number % BLOCK
        stop = min(start + BLOCK, int(self.samples.ends[shard]))
        with self._lock:
            block = self._blocks.get(start, {})
            if index not in block:
                block = dict(enumerate(self.samples.read_range(start, stop), start))
                self._keep(start, block)
            sample = block.pop(index)
            if not block:
                del self._blocks[start]
        return sample

    def _keep(self, start: int, block: dict[int, Sample]) -> None:
        self._blocks.pop(start, None)
        self._blocks[start] = block
        while len(self._blocks) > self.capacity:
            del self._blocks[next(iter(self._blocks))]
