"""What the pipeline keeps, by kind: the files, and what the code that consumes them makes of them.

The readers call what stages and commands call, in the current folder, which is a finished project. What they
return can be compared, and is that of an intact file or an error.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tiny import REPLICATE

Reader = Callable[[Path], Any]
CPU = torch.device("cpu")
OWN = Path(".state/faults/run")  # state that a finished project does not have
CHECKPOINT_NIMG = 2
RUN_ID = "0123456789abcdef"  # in MLflow


@dataclass(frozen=True)
class Artifact:
    """Files of one kind.

    Attributes:
        pattern: of the files, in a project.
        read: what consumers make of one of them.
        runs: whether a swap with the file of another run is a fault; not for files that users name, which may
            be of any run.
        ends: whether the loss of the end is a fault; not where the next start replaces it, from the log.
    """

    kind: str
    pattern: str
    read: Reader
    runs: bool = True
    ends: bool = True

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in Path().glob(self.pattern) if path.is_file())


def bits(tensors: Any) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    """Tensors by name."""
    return [
        (
            name,
            str(t.dtype),
            tuple(t.shape),
            t.contiguous().flatten().view(torch.uint8).numpy().tobytes(),
        )
        for name, t in sorted(tensors.items())
    ]


def shards(file: Path) -> Any:
    from edm2.data.shards import Shards

    splits = {path.name.split("-")[0] for path in file.parent.glob("*.tar")}
    opened = [Shards(file.parent, split) for split in sorted(splits)]
    return [(each.metadata, list(each)) for each in opened]


def records(file: Path) -> Any:
    """What a stage makes of shards that are complete when it continues, as the next stage reads it."""
    from edm2.data.latents import latent_metadata
    from edm2.runtime.manifest import write_manifest

    copy = OWN / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(file.parent, copy)
    write_manifest(copy, **latent_metadata(copy))
    return shards(copy / file.name)


def classifier(file: Path) -> Any:
    from edm2.features.classifier import load_classifier

    network = load_classifier(file.parent, CPU)
    return network.fingerprint, network.init_args, bits(network.state_dict())


def codec(file: Path) -> Any:
    from edm2.vae.codec import load_codec

    return bits(load_codec(file.parent, CPU).network.state_dict())


def store(file: Path) -> Any:
    from edm2.ema.reconstruct import reconstruct
    from edm2.ema.store import SnapshotStore

    averages = reconstruct(SnapshotStore(file.parent), [0.08])
    return [(average, bits(tensors)) for average, tensors in averages]


def sweep(file: Path) -> Any:
    from edm2.pipeline.network_reader import NetworkReader
    from edm2.pipeline.networks import load_networks
    from edm2.pipeline.paths import sweep_folder

    networks = load_networks(REPLICATE)
    paths = [sweep_folder(REPLICATE) / network.file for network in networks]
    return networks, [bits(NetworkReader().read(path)) for path in paths]


def last_weights(file: Path) -> Any:
    from edm2.pipeline.network_reader import NetworkReader

    return bits(NetworkReader().read(file))


def reference(file: Path) -> Any:
    from edm2.features.classifier import load_classifier
    from edm2.metrics.reference import load_reference

    read = load_reference(file.parent, load_classifier(Path("models/features"), CPU), None)
    return read.count, read.mean.tobytes(), read.covariance.tobytes(), read.features.tobytes()


def outputs(file: Path) -> Any:
    """All that the report reads."""
    from edm2.reporting.stage_outputs import StageOutputs
    from edm2.runtime.manifest import load_manifest

    read = StageOutputs(Path("reports"), [REPLICATE], load_manifest(Path("data/images"))["classes"])
    tables = [read.networks, read.training["G"][0], read.vae_training, read.vae_ema]
    tables += [read.latents(name) for name in ("spectrum", "channels", "robustness")]
    metrics = [read.metrics(stage) for stage in ("features", "vae", "baselines")]
    return [table.to_csv() for table in tables], metrics, sorted(read.vae_pictures)


def checkpoint(file: Path) -> Any:
    from edm2.runtime.state import State

    tree = State(file.parent.parent).restore()
    return tree["nimg"], bits(tree["task"])


def log(file: Path, last: str) -> Any:
    """The rows with which a training continues."""
    from edm2.runtime.log import Log, read_log
    from edm2.runtime.tracking import Run

    Run(Log(file), None).rollback(CHECKPOINT_NIMG, last)
    return read_log(file)


def notes(file: Path) -> Any:
    from edm2.runtime.state import State

    return State(file.parent).read_notes()


def precision(file: Path) -> Any:
    from edm2.runtime.precision import choose_precision

    return choose_precision("auto", file.parent, CPU, lambda: None, 1)


def items(file: Path) -> Any:
    """The table and the pictures of an evaluation whose items are all there."""
    from edm2.params import load
    from edm2.pipeline.sweep_evaluation import _evaluator
    from edm2.reporting.selection import best_of
    from edm2.runtime.state import State

    params = load("params.yaml").of("G")
    sweep = _evaluator("fid G-0", params, REPLICATE, CPU, State(file.parent.parent))
    table, pictures = sweep.evaluate(), OWN / "pictures"
    sweep.items.publish_pictures(sweep.evaluated, pictures, best_of(table))
    return table.to_csv(), {p.name: p.read_bytes() for p in sorted(pictures.rglob("*.png"))}


def exported(file: Path) -> Any:
    from edm2.pipeline.portable import read_portable

    network = read_portable(Path("exported"))
    described = (network.identity, network.sampling, network.classes, dict(network.provenance))
    codec = network.codec.load(CPU).network.state_dict()
    return (
        described,
        bits(vars(network.normalization)),
        bits(network.denoiser.state_dict()),
        bits(codec),
    )


def average(file: Path) -> Any:
    """One that a user made, and what is noted of it."""
    from edm2.params import load
    from edm2.pipeline.export_choice import choose_file
    from edm2.pipeline.network_reader import NetworkReader

    (path,) = file.parent.glob("*.safetensors")
    return choose_file(load("params.yaml"), None, path).average, bits(NetworkReader().read(path))


def statistics(file: Path) -> Any:
    from edm2.features.classifier import load_classifier
    from edm2.metrics.reference_file import open_reference_file

    opened = open_reference_file(file)
    read = opened.read(load_classifier(Path("models/features"), CPU), with_features=True)
    return opened.count, opened.resolution, read.mean.tobytes(), read.features.tobytes()


def tar_index(file: Path) -> Any:
    from edm2.data.sources.unlabeled import open_unlabeled

    files = open_unlabeled("images.tar", "images", file.parent)
    return [(files.name(k), files.read(k)) for k in range(len(files.labels))]


def outbox(file: Path) -> Any:
    """What is delivered to MLflow; all of it again, if it is not known how much was."""
    from edm2.runtime.delivery.outbox import Outbox, Receipt

    opened = Outbox(file.parent)
    entries = list(opened.entries())
    first = entries[0][1]
    receipt = Receipt(run_id=RUN_ID, values=first, files=first, status="RUNNING")
    return opened.description, entries, opened.receipt in (receipt, Receipt())


def artifacts(last: str) -> Iterator[Artifact]:
    """All kinds, in the current project, to which `add_kept_files` has added those that it has not.

    Args:
        last: what `add_kept_files` returned.
    """
    yield from _results()
    yield from _state(last)
    yield from _of_users()


def _results() -> Iterator[Artifact]:
    yield Artifact("shards of images", "data/images/*.tar", shards)
    yield Artifact("shards of latents", "data/latents/*.tar", shards)
    yield Artifact("indices of shards", "data/*/*.index.npy", shards)
    yield Artifact("records of shards", "data/latents/*.record.json", records)
    for folder, read in {
        "data/images": shards,
        "data/latents": shards,
        "data/reference": reference,
        "models/features": classifier,
        "models/vae": codec,
        "models/vae_snapshots": store,
        "models/diffusion/G-0": store,
        "models/ema/G-0": store,
        "models/sweep/G-0": sweep,
        "reports/vae/progress": outputs,
    }.items():
        yield Artifact("manifests", f"{folder}/manifest.json", read)
    yield Artifact("weights", "models/features/*.safetensors", classifier)
    yield Artifact("weights", "models/vae/*.safetensors", codec)
    yield Artifact("weights", "models/diffusion/G-0/network.safetensors", last_weights)
    yield Artifact("weights", "models/sweep/G-0/*.safetensors", sweep)
    yield Artifact("snapshots", "models/*/ema-*.safetensors", store)
    yield Artifact("snapshots", "models/diffusion/G-0/ema-*.safetensors", store)
    yield Artifact("reference statistics", "data/reference/*.np?", reference)
    yield Artifact("reference statistics", "statistics.npz", statistics, runs=False)
    yield Artifact("tables and metrics", "reports/*/*.csv", outputs)
    yield Artifact("tables and metrics", "reports/*/metrics.json", outputs)
    yield Artifact("their checksums", "reports/*/*.sha256", outputs)


def _state(last: str) -> Iterator[Artifact]:
    yield Artifact("checkpoints", f"{OWN}/checkpoint-*2/*", checkpoint)
    yield Artifact("log.jsonl", f"{OWN}/log.jsonl", partial(log, last=last))
    yield Artifact("notes.json", ".state/*-G-0/*/notes.json", notes)
    yield Artifact("precision.json", f"{OWN}/precision.json", precision, runs=False)
    yield Artifact("evaluation rows", ".state/fid-G-0/*/items/*.json", items)
    yield Artifact("evaluation pictures", ".state/fid-G-0/*/items/*.png", items)
    yield Artifact("evaluation pictures", ".state/fid-G-0/*/items/*.safetensors", items)
    yield Artifact("MLflow's outbox", f"{OWN}/outbox.jsonl", outbox, ends=False)
    yield Artifact("MLflow's run", f"{OWN}/run.json", outbox)
    yield Artifact("MLflow's run", f"{OWN}/delivered.json", outbox)


def _of_users() -> Iterator[Artifact]:
    yield Artifact("index of a tar", ".state/tar-indices/*.[jn]*", tar_index)
    yield Artifact("exported network", "exported/*[!d]", exported, runs=False)
    yield Artifact("exported network", "exported/codec/*", exported, runs=False)
    yield Artifact("averages.json", "averages/*.json", average, runs=False)
