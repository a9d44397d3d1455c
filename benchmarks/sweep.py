"""Networks per hour of a sweep, and where the time goes.

`python benchmarks/sweep.py [CONFIG] [--networks 3] [--strength 1]`, after `dvc repro`: reconstructs all EMA
lengths of the sweep from the project's snapshots, in one pass, and generates with some of its networks
and measures them, with the very code of the stage `fid` and all as params.yaml has it.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
import torch

from edm2.ema import SnapshotStore, Target, reconstruct_files
from edm2.ema.reconstruct import copy_files
from edm2.metrics.collection import Collection
from edm2.params import load
from edm2.pipeline.evaluator import Evaluator
from edm2.pipeline.networks import load_networks
from edm2.runtime.device import pick_device
from edm2.runtime.progress import Progress


class Clock:
    """Seconds that functions take, by name; it waits for the device to finish."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, Counter[str]()

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            found = work(*arguments, **options)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[name] += time.perf_counter() - start
            return found

        return watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", default="G")
    parser.add_argument("--networks", type=int, default=3, help="to generate with; default: 3")
    parser.add_argument("--strength", type=float, default=1.0, help="of guidance; default: 1")
    given = parser.parse_args()
    params = load("params.yaml").of(given.config)
    device, lengths = pick_device(params.runtime), params.sweep.ema_lengths
    clock, evaluator = Clock(device), Evaluator(params, given.config, device)
    sampler, detector = evaluator.sampler, evaluator.detector
    sampler.codec.decode = clock.timed("decode", sampler.codec.decode)
    detector.features = clock.timed("features", detector.features)
    Collection.add = clock.timed("moments", Collection.add)

    folder = Path(f"models/sweep/{given.config}")
    networks = load_networks(given.config)[: given.networks]
    store = SnapshotStore(Path(f"models/ema/{given.config}"))
    with tempfile.TemporaryDirectory() as scratch:
        targets = {Path(scratch) / f"{length}.safetensors": Target(length) for length in lengths}
        make = copy_files if store.has_fixed_lengths else reconstruct_files
        clock.timed("reconstruct", make)(store, targets, torch.float16)
    clock.seconds["reconstruct"] *= len(networks) / len(lengths)
    first, samples = params.evaluation.first_seed, params.evaluation.samples
    progress = Progress("sweep", len(networks) * samples, "img")
    for network in networks:
        generated = clock.timed("generate", evaluator.generate)(
            folder, network, given.strength, first, progress
        )
        clock.timed("measures", evaluator.rows)(generated, given.strength, first)
    progress.close()

    inside = ("decode", "features", "moments")
    clock.seconds["sample"] = clock.seconds.pop("generate") - sum(clock.seconds[k] for k in inside)
    order = ("reconstruct", "sample", *inside, "measures")
    table = pd.DataFrame(
        {"seconds": [clock.seconds[name] / len(networks) for name in order]}, order
    )
    table["share"] = table["seconds"] / table["seconds"].sum()
    print(
        f"config {given.config}, {samples} images of each network, {', '.join(params.evaluation.metrics)} "
        f"of {evaluator.detector.name}; {device}, {torch.get_num_threads()} threads"
    )
    print(table.to_string(formatters={"seconds": "{:.3g}".format, "share": "{:.1%}".format}))
    print(f"{3600 / table['seconds'].sum():.3g} networks per hour")


if __name__ == "__main__":
    main()
