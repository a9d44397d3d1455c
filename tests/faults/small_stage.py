"""A stage in a pipeline of its own that writes everything that stages write, in a hundredth of a second."""

from pathlib import Path

import numpy as np
import torch
from ruamel.yaml import YAML
from tiny import TINY, write_params

NAME = "small"
OUTS = ("data/small", "models/small/weights.safetensors", "reports/small.csv", "reports/small.json")
STEPS = 3


def run(context):
    """Train a number, with a checkpoint after each step; write its results."""
    import pandas as pd

    from edm2.data.shards import write_shard
    from edm2.ema.snapshot import write_tensors
    from edm2.metrics.reference import Reference, save_reference
    from edm2.pipeline.outputs import write_metrics, write_table
    from edm2.reporting.grids import write_rows
    from edm2.runtime.checkpoint import stage
    from edm2.runtime.manifest import write_manifest

    folder = context.out("data/small")
    folder.mkdir(exist_ok=True)
    tree = context.state.restore() or {"nimg": 0, "task": torch.zeros(64)}
    context.run.rollback(tree["nimg"], tree.get("log"))
    while tree["nimg"] < STEPS:
        nimg = tree["nimg"] + 1
        tree = {"nimg": nimg, "task": tree["task"] + nimg}
        context.run.log(nimg, {"loss": float(tree["task"].mean())})
        context.state.save(nimg, stage({**tree, "log": context.run.save_log()}))
    write_shard(folder / "00000.tar", ({"__key__": str(k), "png": bytes([k])} for k in range(3)))
    save_reference(folder / "reference", Reference(np.zeros(2), np.eye(2), 3, np.ones((3, 2))))
    image = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
    write_rows(folder / "grid.png", {"row": image})
    write_manifest(folder)
    weights = context.out("models/small/weights.safetensors")
    write_tensors(weights, {"a": tree["task"]}, torch.float32)
    write_table(context, "reports/small.csv", pd.DataFrame({"loss": [float(tree["task"].mean())]}))
    write_metrics(context, "reports/small.json", {"loss": float(tree["task"].sum())})


def make_pipeline(folder: Path) -> Path:
    """A project whose only stage is this one."""
    folder.mkdir(parents=True)
    outs = [*OUTS, *(f"{out}.sha256" for out in OUTS if out.startswith("reports"))]
    declared = {"cmd": f"python -m stages.{NAME}", "params": ["dataset"], "outs": outs}
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": {NAME: declared}}, file)
    write_params(folder / "params.yaml", TINY)
    return folder
