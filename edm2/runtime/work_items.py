"""Work items: results in one folder that several launches make together, each item by one of them.

A launch claims an item by a lock on a file beside its result. The lock ends with the process, so what a
killed launch had claimed is free again. Results appear complete, by renaming. So where locks do not reach
other machines, an item may be made twice, but never damaged.
"""

import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from edm2.runtime.distributed import on_main_process
from edm2.runtime.locks import exclusive
from edm2.runtime.temporaries import remove, remove_left_of

SECONDS_BETWEEN_CHECKS = 1.0  # while other launches are at work


def result_of(folder: Path, item: str) -> Path:
    """The file whose existence says that an item is done."""
    return folder / f"{item}.json"


@contextmanager
def claimed_items(
    folder: Path, groups: Mapping[str, Sequence[str]], title: str
) -> Iterator[Iterator[str]]:
    """The items that this launch is to make, one after another, until all have their results.

    A launch first takes whole groups that no other launch has begun; then single items of the others;
    then it waits for the rest, and takes what killed launches leave. All ranks get the same items. Each must
    have its result before the next one is taken.

    Args:
        groups: names of items by group; what its items have in common is then loaded by one launch.
        title: name of this launch, for messages.
    """
    with closing(_claims(folder, groups, title)) as claims:  # begun by the main process alone
        answers = iter(lambda: on_main_process(lambda: next(claims, None)), None)
        yield (item for item in answers if item)


def _claims(
    folder: Path, groups: Mapping[str, Sequence[str]], title: str
) -> Generator[str, None, None]:
    """Items whose locks are held until the next one is asked for; "" where there is none yet."""
    for group, items in groups.items():
        with exclusive(folder / f"{group}.lock", wait=False) as is_free:
            if is_free:
                yield from _free_items(folder, items)
    missing, is_waiting = [item for items in groups.values() for item in items], False
    while True:
        yield from _free_items(folder, missing)
        missing = [item for item in missing if not result_of(folder, item).exists()]
        if not missing:
            return
        if not is_waiting:
            is_waiting = True
            print(
                f"{title}: other launches are at work on the last {len(missing)} items; waiting for them.",
                file=sys.stderr,
            )
        time.sleep(SECONDS_BETWEEN_CHECKS)
        yield ""  # the other ranks wait for an answer


def _free_items(folder: Path, items: Sequence[str]) -> Iterator[str]:
    """Those without a result that no other launch has claimed."""
    for item in items:
        result, lock = result_of(folder, item), folder / f"{item}.lock"
        if result.exists():
            continue
        with exclusive(lock, wait=False) as is_free:
            if not is_free or result.exists():
                continue
            remove_left_of(folder / item)  # by a killed launch
            yield item
            if not result.exists():
                raise RuntimeError(f"{result}: claimed, but not written")
            remove(lock)  # whoever still has it open finds the result
