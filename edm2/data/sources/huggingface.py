"""A dataset on disk that the package `datasets` reads: save_to_disk, parquet files, imagefolder."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import datasets

from edm2.data.decoding import ImageDecodeError
from edm2.data.sources.files import ImageFiles, below, files_digest
from edm2.data.sources.labels import Labels
from edm2.data.sources.tree import image_files
from edm2.data.tally import listed, printable
from edm2.params import UserError
from edm2.params.patterns import matching
from edm2.runtime.limits import require_file
from edm2.runtime.system_errors import DENIED, is_of_machine

SPLIT = re.compile(r"(?:train|val|dev|test)[a-z]*(?=[-_.0-9]|$)", re.IGNORECASE)
RAW = datasets.Image(decode=False)  # as stored: `decode_image` is stricter than `datasets`


class HubImages(ImageFiles):
    """The images of one split, each a row. Its files are mapped into memory.

    Parquet files, whose rows cannot be read in any order, are converted by `datasets` once, into
    Arrow files in its cache (HF_DATASETS_CACHE) that need as much space again.
    """

    def __init__(
        self,
        path: str,
        root: Path,
        image_field: str | None,
        label_field: str | None,
        key: str = "dataset.path",
    ) -> None:
        """
        Args:
            path: folder of save_to_disk, of parquet files or of an imagefolder, or a pattern of
                parquet files; relative to `root`.
            image_field: column of images; None: the only one of type Image.
            label_field: column of labels; None: the only one of type ClassLabel.

        Raises:
            UserError: not such a dataset, several splits, or no such columns.
        """
        super().__init__(key, str(root / path))
        self.sources: list[Path] = []
        with self._errors_explained():
            rows = self._load(path, root)
            self.column = self._column(rows, "image_field", image_field, datasets.Image)
            label = self._column(rows, "label_field", label_field, datasets.ClassLabel)
            self.rows = self._as_images(rows.select_columns([self.column]))
        self._read_labels(rows, label)

    def read(self, index: int) -> bytes:
        try:
            cell = self.rows[index][self.column] or {}
        except Exception as error:  # Arrow raises errors of any kind for damaged files
            if is_of_machine(error, DENIED):
                raise
            raise ImageDecodeError(f"{type(error).__name__}: {error}") from None
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path") is None:
            raise ImageDecodeError("null, no image")
        require_file(Path(cell["path"]))
        return Path(cell["path"]).read_bytes()

    def name(self, index: int) -> str:
        path = None
        with suppress(Exception):  # as above; the row's number is enough
            path = (self.rows[index][self.column] or {}).get("path")
        return printable(f"{self.place}: row {index}" + (f" ({path})" if path else ""))

    def identity(self) -> str:
        folder = Path(os.path.commonpath([file.parent for file in self.sources]))
        return files_digest(folder, below(folder, self.sources))

    def _load(self, path: str, root: Path) -> datasets.Dataset:
        folder = root / path
        if (folder / "dataset_dict.json").is_file():
            splits = {f.name: f for f in sorted(folder.iterdir()) if f.is_dir()}
            if len(splits) != 1:
                raise self._several(splits)
            (folder,) = splits.values()
        if (folder / "state.json").is_file():
            self.sources = sorted(file for file in folder.iterdir() if file.is_file())
            return datasets.load_from_disk(str(folder))
        self.sources = self._parquet_files(folder) if folder.is_dir() else matching(path, root)
        if self.sources:
            names = [str(file) for file in self.sources]
            return datasets.load_dataset("parquet", data_files=names, split="train")
        return self._load_imagefolder(folder)

    def _parquet_files(self, folder: Path) -> list[Path]:
        """Those below a folder, which must be of one split; other files beside them are counted."""
        files = sorted(folder.rglob("*.parquet"))
        splits: dict[str, Path] = {}
        for file in files:
            for part in (file, *file.parents[: len(file.relative_to(folder).parts) - 1]):
                if match := SPLIT.match(part.name):
                    place = part.with_name(f"{match[0]}*.parquet") if part == file else part
                    splits.setdefault(match[0].lower(), place)
                    break
        if len(splits) > 1:
            raise self._several(splits)
        for other in sorted(set(folder.rglob("*")) - set(files)) if files else []:
            if other.is_file():
                self.left_out.add("no parquet file", other.relative_to(folder).as_posix())
        return files

    def _load_imagefolder(self, folder: Path) -> datasets.Dataset:
        """Its images are rows; files that `datasets` passes over are counted."""
        splits = datasets.load_dataset("imagefolder", data_dir=str(folder))
        if len(splits) > 1:
            raise self._several({str(name): folder / str(name) for name in splits})
        (rows,) = splits.values()
        images = rows.with_format("arrow")[:]["image"].combine_chunks()
        self.sources = sorted(map(Path, images.field("path").to_pylist()))
        known = {str(file) for file in self.sources}
        for name in image_files(str(folder), "", self.left_out):
            if str(folder / name) not in known:
                self.left_out.add("image that `datasets` passes over", name)
        return rows

    def _several(self, places: Mapping[str, Path]) -> UserError:
        """The error about several splits, with the places of each."""
        default = next(iter(places.values()))
        training = next((p for name, p in places.items() if name.startswith("train")), default)
        held_out = next((p for name, p in places.items() if name.startswith(("val", "dev"))), None)
        more = (
            ""
            if held_out is None
            else f" (and dataset.held_out_path to {held_out}, held_out to null)"
        )
        return UserError(
            f"{self.key}: {self.place}: contains several splits ({', '.join(places)}), expected one. "
            f"Set dataset.path to {training}{more}."
        )

    def _column(self, rows: datasets.Dataset, field: str, named: str | None, kind: type) -> str:
        """The column that the params name, or the only one of a kind."""
        columns = rows.features
        candidates = [name for name, feature in columns.items() if isinstance(feature, kind)]
        if named is None and len(candidates) == 1:
            return candidates[0]
        if named is not None and named in columns:
            return named
        wanted = "a column of the dataset" if named else f"one column of type {kind.__name__}"
        types = "".join(f"\n  {name}: {str(feature)[:80]}" for name, feature in columns.items())
        raise UserError(
            f"dataset.{field}: {named}: expected {wanted}. Set it to one of the columns of "
            f"{self.place}:{types}"
        )

    def _as_images(self, rows: datasets.Dataset) -> datasets.Dataset:
        try:
            return rows.cast_column(self.column, RAW)
        except Exception as error:  # as below
            raise UserError(
                f"dataset.image_field: {self.column}: expected a column of images, this is "
                f"{str(rows.features[self.column])[:80]}. Name another column of {self.place}."
            ) from error

    def _read_labels(self, rows: datasets.Dataset, column: str) -> None:
        names: list[str] | None = getattr(rows.features[column], "names", None)
        values = rows.select_columns([column]).with_format("arrow")[:][column].to_pylist()
        labels = Labels(None if names is None else len(names))
        for index, value in enumerate(values):
            labels.add(value, f"row {index}")
        self.classes, self.labels = labels.finish()
        self.numbered = labels.numbered and names is None
        if names is not None:
            self.classes = list(names)
        if labels.problems:
            self.problems.append(
                f"{self.key}: {self.place}: column {column}: {len(labels.problems)} of {len(values)} rows "
                f"have no class. Remove them, or name another column by dataset.label_field:"
                f"{listed(labels.problems)}"
            )

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # `datasets` and Arrow raise errors of any kind
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{self.key}: {self.place}: `datasets` cannot read it ({type(error).__name__}: {reason}). "
                "Expected a folder of save_to_disk, parquet files or an imagefolder. Download or write it "
                "again."
            ) from error
