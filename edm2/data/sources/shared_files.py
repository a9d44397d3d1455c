"""Images that are trained on and held out at once: the same files through links, and copies."""

import os
from collections.abc import Iterator

from edm2.data.sources.files import FilesBelow
from edm2.data.tally import listed, printable
from edm2.params import UserError


def refuse_shared_files(trained: FilesBelow, held_out: FilesBelow) -> None:
    """Refuse held-out images that are trained on through a link, and warn of what seem to be copies.

    One request to the disk for each file. A copy is known by the name and the size of its file.

    Raises:
        UserError: names the held-out files that are files of the training.
    """
    names, sizes = {}, set()
    for name, file, size in _files(trained):
        names[file] = name
        sizes.add((os.path.basename(name), size))
    same, copies = [], []
    for name, file, size in _files(held_out):
        if file in names:
            same.append(printable(f"{os.fsdecode(name)} is {os.fsdecode(names[file])}"))
        elif (os.path.basename(name), size) in sizes:
            copies.append(os.fsdecode(name))
    if same:
        raise UserError(
            f"{held_out.key}: {held_out.place}: expected images that are not those of {trained.key}, "
            f"{trained.place}. Remove these links:{listed(same)}"
        )
    if copies:
        print(
            f"warning: {held_out.key}: {len(copies):,} of {len(held_out.labels):,} files have name and size "
            f"of one in {trained.key}, like {printable(copies[0])}. If they are copies, metrics are too good."
        )


def _files(images: FilesBelow) -> Iterator[tuple[bytes, tuple[int, int], int]]:
    """Name, identity and size of each file."""
    root = os.fsencode(images.root)
    for name in (images.files[k] for k in range(len(images.files))):
        stat = os.stat(os.path.join(root, name))
        yield name, (stat.st_dev, stat.st_ino), stat.st_size
