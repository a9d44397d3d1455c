"""Run paths where `stub.environment` is the environment; started by `report.run_paths`."""

import json
import sys
from pathlib import Path

import torch
from device import evaluation_paths, training_paths, vae_paths  # noqa: F401  (they register paths)
from device.path import PATHS, record


def main(output: Path, names: list[str]) -> None:
    """Write the records of the paths whose names contain one of `names`; of all if there is none."""
    torch.set_num_threads(1)
    chosen = {
        name: path
        for name, path in PATHS.items()
        if not names or any(text in name for text in names)
    }
    records = {}
    for name, path in chosen.items():
        records[name] = record(path.run).as_dict()
        output.write_text(json.dumps(records))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
