"""Combinations of `dataset` and `vae.images` that cannot work: their files, and fields without effect."""

from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path

from edm2.params.dataset import Dataset
from edm2.params.errors import Problem
from edm2.params.patterns import MAX_ALTERNATIVES, alternatives, hint, matching
from edm2.params.seams import SOURCES, SourceKind
from edm2.params.vae import VaeImages

RESULTS = ("data/images", "data/latents", "data/reference")  # of stages
OPTIONAL = ("held_out_path", "classes", "label_field", "image_field")


def dataset_problems(dataset: Dataset, root: Path) -> Iterator[Problem]:
    kind = SOURCES[dataset.source]
    if kind.extra is not None and find_spec(kind.extra[1]) is None:
        yield Problem(
            "dataset.source",
            dataset.source,
            f"the package {kind.extra[1]} to be installed",
            f"Install it: pip install 'edm2[{kind.extra[0]}]'.",
        )
    if kind.path is None and dataset.path is not None:
        yield Problem(
            "dataset.path",
            dataset.path,
            f"null with source: {dataset.source}",
            "Set it to null, or choose a source with a path, like folder.",
        )
    elif kind.path is not None and dataset.path is None:
        yield Problem(
            "dataset.path",
            None,
            f"the {kind.path} of your images (source: {dataset.source})",
            "Set dataset.path.",
        )
    for name in OPTIONAL:
        value = getattr(dataset, name)
        if value is not None and name not in kind.options:
            having = [source for source, other in SOURCES.items() if name in other.options]
            yield Problem(
                f"dataset.{name}",
                value,
                f"null with source: {dataset.source}",
                f"Set it to null; sources that take it: {', '.join(having)}.",
            )
    yield from _held_out(dataset)
    yield from _files(dataset, kind, root)
    if kind.max_resolution is not None and dataset.resolution > kind.max_resolution:
        yield Problem(
            "dataset.resolution",
            dataset.resolution,
            f"at most {kind.max_resolution} with source: {dataset.source}",
            "Its images are not larger.",
        )


def vae_image_problems(images: VaeImages, root: Path) -> Iterator[Problem]:
    if (images.shards is None) != (images.held_out is None):
        yield Problem(
            "vae.images.shards, vae.images.held_out",
            (images.shards, images.held_out),
            "two patterns, or null for both",
            "Held-out metrics need shards that are not trained on.",
        )
    patterns = {
        f"vae.images.{name}": pattern
        for name in ("shards", "held_out")
        if (pattern := getattr(images, name)) is not None
    }
    yield from _among_results(patterns, root)
    yield from _patterns(patterns, root)


def image_path_problems(images: VaeImages, root: Path) -> Iterator[Problem]:
    """As `vae_image_problems`, for images that may also be in folders, outside of a project."""
    paths = {
        f"vae.images.{name}": path
        for name in ("shards", "held_out")
        if (path := getattr(images, name)) is not None
    }
    yield from _single_paths(paths, "folder or files", root)


def _held_out(dataset: Dataset) -> Iterator[Problem]:
    if not dataset.has_images:
        return
    if dataset.held_out is None and dataset.held_out_path is None:
        yield Problem(
            "dataset.held_out",
            None,
            "a fraction of each class",
            "Write one, like 0.05; null is for images of their own (dataset.held_out_path).",
        )
    if dataset.held_out is not None and dataset.held_out_path is not None:
        yield Problem(
            "dataset.held_out",
            dataset.held_out,
            "null with dataset.held_out_path",
            "The images there are held out, and no fraction of dataset.path. Set one of the two to null.",
        )


def _files(dataset: Dataset, kind: SourceKind, root: Path) -> Iterator[Problem]:
    """Paths that do not exist, and images that would be trained on and held out."""
    paths = {
        f"dataset.{name}": value
        for name in ("path", "held_out_path")
        if (value := getattr(dataset, name)) is not None
    }
    if "held_out_path" not in kind.options:
        paths.pop("dataset.held_out_path", None)
    yield from _among_results(paths, root)
    if kind.path == "files":
        yield from _patterns(paths, root)
    elif kind.path is not None:
        yield from _single_paths(paths, kind.path, root)
    if dataset.classes is not None and not (root / dataset.classes).is_file():
        yield Problem(
            "dataset.classes",
            dataset.classes,
            "a file that exists",
            f"Looked for {root / dataset.classes}{hint(dataset.classes, root / dataset.classes)}.",
        )


def _among_results(paths: dict[str, str], root: Path) -> Iterator[Problem]:
    """Problems of images in, or around, folders that DVC and stages remove and write."""
    for key, text in paths.items():
        path = (root / text).resolve()
        results = [(root / name).resolve() for name in RESULTS]
        inside = [folder for folder in results if folder in (path, *path.parents)]
        around = [folder for folder in results if path in folder.parents]
        for folder in (inside + around)[:1]:
            yield Problem(
                key,
                text,
                "images in a folder of their own",
                f"{folder} is for results: it is removed with everything in it before its stage runs. "
                f"Move your images {'out of it' if inside else 'into a folder beside it'}.",
            )


def _single_paths(paths: dict[str, str], expected: str, root: Path) -> Iterator[Problem]:
    """Problems of paths to a folder, to a file, or to a folder or files."""
    patterns = {}
    for key, text in paths.items():
        path = root / text
        if path.is_dir() and "folder" in expected:
            continue
        if expected == "folder or files":
            patterns[key] = text
        elif not ("file" in expected and path.is_file()):
            yield Problem(
                key, text, f"a {expected} that exists", f"Looked for {path}{hint(text, path)}."
            )
    yield from _patterns(patterns, root)
    if len(paths) == 2 and len(patterns) < 2:
        yield from _overlap(paths, root)


def _overlap(paths: dict[str, str], root: Path) -> Iterator[Problem]:
    """The problem of paths that have files in common; one of them is a folder or file."""
    (trained_key, trained), (key, held) = paths.items()
    for place, other in product(_places(held, root), _places(trained, root)):
        if other in (place, *place.parents):
            fix = f"{place} is in {other}, whose images are trained on."
        elif place in other.parents:
            fix = f"{other}, whose images are trained on, is in {place}."
        else:
            continue
        yield Problem(key, held, f"images that are not those of {trained_key}", fix)
        return


def _places(text: str, root: Path) -> set[Path]:
    """A folder or file, or the files of a pattern."""
    path = root / text
    try:
        return {place.resolve() for place in ([path] if path.exists() else matching(text, root))}
    except ValueError:  # the braces are another problem
        return set()


def _patterns(patterns: dict[str, str], root: Path) -> Iterator[Problem]:
    """Problems of patterns of files; those of the second must not be among those of the first."""
    before: dict[Path, str] = {}
    for key, pattern in patterns.items():
        try:
            files_of = alternatives(pattern, root)
        except ValueError as error:
            expected = f"balanced braces that stand for at most {MAX_ALTERNATIVES:,} files"
            yield Problem(key, pattern, expected, f"{error}. Write another pattern.")
            continue
        missing = [root / alternative for alternative, paths in files_of.items() if not paths]
        if missing:
            of_all = f"{len(missing)} of {len(files_of)} not found, first"
            looked = "Looked for" if len(files_of) == 1 else of_all
            fix = f"{looked} {missing[0]}{hint(pattern, missing[0])}.{_shards_fix(missing[0])}"
            yield Problem(key, pattern, "files that exist", fix)
        files = {path.resolve() for paths in files_of.values() for path in paths}
        for path in sorted(files & before.keys())[:1]:
            yield Problem(
                key, pattern, f"files that are not among {before[path]}", f"{path} is in both."
            )
        before |= dict.fromkeys(files, key)


def _shards_fix(folder: Path) -> str:
    """What to write instead of a folder, where tars are expected."""
    if not folder.is_dir():
        return ""
    if any(folder.glob("*.tar")):
        return f" Write {folder}/*.tar."
    return " It has no tars; for folders of images see dataset.source."
