"""DVC's cache: which files it has, and what it holds for nothing."""

import hashlib
import logging
from functools import cached_property
from pathlib import Path

from edm2.params import UserError


class DvcCache:
    """The cache of the project in a folder."""

    def __init__(self, root: Path) -> None:
        """
        Raises:
            UserError: the folder is no DVC project, or its configuration is wrong.
        """
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        # it warns of every result that does not exist
        logging.getLogger("dvc").setLevel(logging.ERROR)
        try:
            self.repo = Repo(str(root))
        except DvcException as error:
            raise UserError(
                f"{root}: {error}. Expected a project of DVC: run `edm2 doctor`."
            ) from None
        self.folder = Path(self.repo.cache.local.path)

    @cached_property
    def objects(self) -> dict[str, Path]:
        """The files of the cache by their checksum, MD5."""
        return {path.parent.name + path.name: path for path in self.folder.glob("??/*")}

    @cached_property
    def _inodes(self) -> dict[tuple[int, int], int]:
        """Device and number of each file, with its size."""
        stats = (path.stat() for path in self.objects.values())
        return {(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}

    @cached_property
    def _sizes(self) -> set[int]:
        return set(self._inodes.values())

    def has(self, path: Path) -> bool:
        """Whether the cache has the content of a file: as a hard link, or else by its checksum."""
        stat = path.stat()
        if (stat.st_dev, stat.st_ino) in self._inodes:
            return True
        if stat.st_size not in self._sizes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest() in self.objects

    def unused_bytes(self) -> int | None:
        """Size of what no result of the workspace uses: `dvc gc --workspace` removes it.

        None if that is unknown, because the cache lacks results of the workspace.
        """
        from dvc.exceptions import DvcException

        try:
            used = {info.value for infos in self.repo.used_objs().values() for info in infos}
        except DvcException:
            return None
        unused = (path for checksum, path in self.objects.items() if checksum not in used)
        return sum(path.stat().st_size for path in unused)
