"""A folder of images with labels in dataset.json: an archive of EDM's or StyleGAN's tool, unpacked."""

import os
from pathlib import Path

from edm2.data.sources.contents import check_contents
from edm2.data.sources.files import FilesBelow
from edm2.data.sources.label_file import LABELS, label_images, read_labels
from edm2.data.sources.names import Names
from edm2.data.sources.tree import image_files
from edm2.runtime.limits import require_file


class LabeledFolderImages(FilesBelow):
    """All images below a folder, whose dataset.json has their labels: its folders are no classes."""

    def __init__(self, root: Path, key: str = "dataset.path") -> None:
        """
        Raises:
            UserError: dataset.json is not as EDM and StyleGAN write it.
        """
        super().__init__(root, key)

        def read() -> bytes:
            require_file(root / LABELS)
            return (root / LABELS).read_bytes()

        labels = read_labels(read, key, str(root), (OSError,))
        found = image_files(
            str(root), "", self.left_out, frozenset(), self.folders, {LABELS}, self.contents
        )
        self.files = Names(os.fsencode(name) for name in found)
        check_contents(self, len(self.files))
        label_images(self, (os.fsdecode(self.files[k]) for k in range(len(self.files))), labels)
