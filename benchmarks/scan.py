"""Cost of finding the images of a source, which is done before any image is decoded.

`python benchmarks/scan.py [--images 50000 100000 200000] [--classes 1000] [--sources folder zip webdataset
huggingface]` writes tiny images to a temporary folder in each form and prints a table. Each row runs in
its own process:

- scan: CPU seconds until labels and positions of all images are in memory, and the messages are made;
- identity: CPU seconds for the checksum of sizes and times of the files;
- MiB kept: of memory, by the pickle that another process gets; peak: of the process, over its start.
"""

import argparse
import io
import json
import os
import pickle
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from measurement import peak_gib, run_in_own_process

SHARD = 10_000  # images in a tar


def picture() -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "jpeg")
    return stream.getvalue()


def names(images: int, classes: int) -> Iterator[tuple[str, int]]:
    """Names as ImageNet has them, and labels."""
    for k in range(images):
        label = k % classes
        yield f"n{label:08d}/n{label:08d}_{k}.JPEG", label


def write_folder(path: Path, images: int, classes: int) -> str:
    content = picture()
    for label in range(classes):
        (path / f"n{label:08d}").mkdir(parents=True)
    for name, _ in names(images, classes):
        (path / name).write_bytes(content)
    return str(path)


def write_zip(path: Path, images: int, classes: int) -> str:
    content, rows = picture(), list(names(images, classes))
    with zipfile.ZipFile(path, "w") as archive:
        for name, _ in rows:
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": rows}))
    return str(path)


def write_webdataset(path: Path, images: int, classes: int) -> str:
    content, rows = picture(), list(names(images, classes))
    path.mkdir()
    for start in range(0, images, SHARD):
        with tarfile.open(path / f"{start // SHARD:05d}.tar", "w") as tar:
            for name, label in rows[start : start + SHARD]:
                for file, data in ((name, content), (f"{name[:-5]}.cls", str(label).encode())):
                    member = tarfile.TarInfo(file)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return f"{path}/*.tar"


def write_huggingface(path: Path, images: int, classes: int) -> str:
    import datasets

    content, rows = picture(), list(names(images, classes))
    columns = {
        "image": [{"bytes": content, "path": None}] * images,
        "label": [label for _, label in rows],
    }
    label = datasets.ClassLabel(num_classes=classes)
    features = datasets.Features({"image": datasets.Image(decode=False), "label": label})
    table = datasets.Dataset.from_dict(columns, features)
    table.cast_column("image", datasets.Image()).save_to_disk(path)
    return str(path)


WRITE: dict[str, Callable[[Path, int, int], str]] = {
    "folder": write_folder,
    "zip": write_zip,
    "webdataset": write_webdataset,
    "huggingface": write_huggingface,
}


def measure(kind: str, path: str) -> dict[str, float]:
    """Scan a source in this process."""
    from edm2.data.sources import open_source
    from edm2.params import load
    from edm2.pipeline.preparation import summary

    os.environ["DVC_ROOT"] = str(Path(path).parent)  # indices of tars go there
    root = Path(__file__).parent.parent
    dataset = load(root / "params.yaml").dataset.model_copy(update={"source": kind, "path": path})
    start, memory = time.process_time(), peak_gib()
    source = open_source(dataset)
    summary(source)
    scanned = time.process_time()
    source.identity()
    return {
        "images": len(source.labels),
        "scan": scanned - start,
        "identity": time.process_time() - scanned,
        "MiB kept": len(pickle.dumps(source)) / 2**20,
        "MiB peak": (peak_gib() - memory) * 1024,
    }


def rows(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    for kind in args.sources:
        for images in args.images:
            path = WRITE[kind](folder / f"{kind}-{images}", images, args.classes)
            row = run_in_own_process(__file__, ["--measure", kind, path], f"{kind} {images}")
            yield {"source": kind, **row}


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[50_000, 100_000, 200_000])
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--sources", nargs="+", default=list(WRITE), choices=list(WRITE))
    parser.add_argument("--measure", nargs=2, metavar=("SOURCE", "PATH"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    args = argument_parser().parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame(rows(args, Path(folder)))
    print(table.to_string(index=False, float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
