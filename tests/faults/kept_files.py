"""Files that a finished project does not have: state of a training, exports, and what users make."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from artifacts import CHECKPOINT_NIMG, CPU, OWN, RUN_ID
from PIL import Image


def add_kept_files() -> str:
    """Add them to the current project.

    Returns:
        the checksum of the log's last row at its checkpoint.
    """
    _export_network()
    _make_average()
    _write_statistics()
    _write_tar()
    return _write_state()


def _write_state() -> str:
    """State of a training, with two checkpoints and a log; and of its delivery to MLflow."""
    from edm2.runtime.checked_json import write_checked
    from edm2.runtime.checkpoint import stage
    from edm2.runtime.delivery.outbox import Outbox, Receipt
    from edm2.runtime.log import Log
    from edm2.runtime.state import State
    from edm2.runtime.tracking import Run

    state = State(OWN)
    state.folder.mkdir(parents=True)
    run = Run(Log(state.log), None)
    for nimg in range(1, CHECKPOINT_NIMG + 1):
        run.log(nimg, {"train/loss": 1 / (nimg + 2), "gradient": float(nimg)})
        weights = {"a": torch.arange(64.0) / nimg, "b": torch.ones(3, dtype=torch.float16)}
        last = run.save_log()
        state.save(nimg, stage({"nimg": nimg, "task": weights, "log": last}))
    write_checked(
        state.folder / "precision.json",
        {"precision": "bf16", "ms": {"fp32": 2.0, "bf16": 1.0}, "device": "CPU"},
    )
    box = Outbox(state.folder)
    tracking = {"uri": "sqlite:///.mlflow/mlflow.db", "experiment": "edm2"}
    box.open({"name": "train G", "tags": {"stage": "train", "seed": "0"}, "tracking": tracking})
    box.add_status("RUNNING")
    box.add(params={"diffusion.lr_ref": "0.01"})
    for nimg in (1, 2, 3):
        box.add_metrics(nimg, {"train/loss": 1 / nimg})
    first = next(position for _, position in box.entries())
    box.receipt = Receipt(run_id=RUN_ID, values=first, files=first, status="RUNNING")
    return last


def _export_network() -> None:
    from edm2.params import load
    from edm2.pipeline.export_choice import choose_best
    from edm2.pipeline.export_network import export_choice

    params = load("params.yaml")
    export_choice(params, choose_best(params, None), None, Path("exported"))


def _make_average() -> None:
    """As `edm2 ema reconstruct`, with the notes about it."""
    from edm2.cli.main import edm2

    command = "ema reconstruct models/diffusion/G-0 --lengths 0.08 --out averages"
    edm2.main(command.split(), prog_name="edm2", standalone_mode=False)


def _write_statistics() -> None:
    """As `edm2 measure reference`."""
    from edm2.features.classifier import load_classifier
    from edm2.metrics.reference import load_reference
    from edm2.metrics.reference_file import write_reference_file

    detector = load_classifier(Path("models/features"), CPU)
    reference = load_reference(Path("data/reference"), detector, None)
    weights = {detector.name: detector.fingerprint}
    write_reference_file(Path("statistics.npz"), {detector.name: reference}, weights, 16)


def _write_tar() -> None:
    """Images of a user, with the index that reading them makes."""
    from edm2.data.sources.unlabeled import open_unlabeled

    with tarfile.open("images.tar", "w") as archive:
        for number in range(3):
            buffer = io.BytesIO()
            Image.fromarray(np.full((8, 8, 3), 40 * number, np.uint8)).save(buffer, "png")
            info = tarfile.TarInfo(f"{number}.png")
            info.size = buffer.tell()
            archive.addfile(info, io.BytesIO(buffer.getvalue()))
    open_unlabeled("images.tar", "images", Path(".state/tar-indices"))
