"""Networks per hour of a sweep, and where the time goes.

`python benchmarks/sweep.py [TRAINING] [--networks 3] [--strength 1]`, after `dvc repro`, reconstructs all EMA
lengths of the sweep from the project's snapshots in one pass. It then generates images with some of the
networks and evaluates them, with the code of the stage `fid` and the values of params.yaml.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pandas as pd
import torch

from edm2.ema import SnapshotStore, Target, copy_files, reconstruct_files
from edm2.metrics.collection import Collection
from edm2.params import load
from edm2.params.replicates import Replicate
from edm2.pipeline.evaluator import Evaluator
from edm2.pipeline.networks import SweptNetwork, load_networks
from edm2.pipeline.paths import store_folder, sweep_folder
from edm2.runtime.device import pick_device
from edm2.runtime.progress import Progress


class Clock:
    """Total seconds of function calls, by name; includes the work of the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, Counter[str]()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[name] += time.perf_counter() - start
            return result

        return wrapper


def time_reconstruction(clock: Clock, replicate: Replicate, lengths: Sequence[float]) -> None:
    store = SnapshotStore(store_folder(replicate))
    reconstruct = copy_files if store.has_fixed_lengths else reconstruct_files
    with tempfile.TemporaryDirectory() as scratch:
        targets = {Path(scratch) / f"{length}.safetensors": Target(length) for length in lengths}
        clock.timed("reconstruct", reconstruct)(store, targets, torch.float16)


def time_evaluation(
    clock: Clock,
    evaluator: Evaluator,
    replicate: Replicate,
    networks: Sequence[SweptNetwork],
    strength: float,
) -> None:
    codec, detector = evaluator.sampler.codec, evaluator.detector
    codec.decode = clock.timed("decode", codec.decode)
    detector.features = clock.timed("features", detector.features)
    Collection.add = clock.timed("moments", Collection.add)
    evaluation = evaluator.params.evaluation
    progress = Progress("sweep", len(networks) * evaluation.samples, "img")
    for network in networks:
        generated = clock.timed("generate", evaluator.generate)(
            sweep_folder(replicate), network, strength, evaluation.first_seed, progress
        )
        clock.timed("metrics", evaluator.rows)(generated, strength, evaluation.first_seed)
    progress.close()
    parts = sum(clock.seconds[name] for name in ("decode", "features", "moments"))
    clock.seconds["sample"] = clock.seconds["generate"] - parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("training", nargs="?", default="G-0")
    parser.add_argument("--networks", type=int, default=3, help="to generate with; default: 3")
    parser.add_argument("--strength", type=float, default=1.0, help="of guidance; default: 1")
    args = parser.parse_args()
    params = load("params.yaml")
    replicate = params.replicate(args.training, f"training {args.training}", "params.yaml")
    params = params.of(replicate.config)
    device, lengths = pick_device(params.runtime), params.sweep.ema_lengths
    clock, evaluator = Clock(device), Evaluator(params, replicate.config, device)
    networks = load_networks(replicate)[: args.networks]
    time_reconstruction(clock, replicate, lengths)
    clock.seconds["reconstruct"] *= len(networks) / len(lengths)
    time_evaluation(clock, evaluator, replicate, networks, args.strength)

    order = ("reconstruct", "sample", "decode", "features", "moments", "metrics")
    seconds = pd.Series({name: clock.seconds[name] / len(networks) for name in order})
    table = pd.DataFrame({"seconds": seconds, "share": seconds / seconds.sum()})
    samples, metrics = params.evaluation.samples, ", ".join(params.evaluation.metrics)
    print(
        f"training {replicate}, {samples} images of each network, {metrics} "
        f"of {evaluator.detector.name}; {device}, {torch.get_num_threads()} threads"
    )
    print(table.to_string(formatters={"seconds": "{:.3g}".format, "share": "{:.1%}".format}))
    print(f"{3600 / seconds.sum():.3g} networks per hour")


if __name__ == "__main__":
    main()
