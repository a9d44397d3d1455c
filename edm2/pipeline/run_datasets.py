"""The datasets of a run in MLflow: what its stage reads of the prepared images and of the latents."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edm2.params import Params
from edm2.params.dataset import Dataset
from edm2.params.seams import CODECS
from edm2.pipeline.paths import IMAGES, LATENTS
from edm2.runtime.files import sha256
from edm2.runtime.manifest import MANIFEST, load_manifest

DIGEST = 16  # characters of the SHA-256 of a manifest; MLflow takes 36
TRAIN, HELD_OUT = "train", "held_out"
CONTEXTS = {TRAIN: "training", HELD_OUT: "evaluation"}  # MLflow's words for splits


def datasets_of(stage: str, params: Params) -> list[dict[str, Any]]:
    """The datasets that a stage uses, as MLflow takes them; see `Outbox`.

    Args:
        params: of all configs.

    Raises:
        UserError: a manifest is damaged.
    """
    splits, with_latents = _used(stage, params)
    reads_images = splits and params.dataset.has_images and _is_there(IMAGES)
    counts = load_manifest(IMAGES)["images"] if reads_images else {}
    used = [_images(split, params.dataset) for split in splits if counts.get(split)]
    if with_latents and _is_there(LATENTS):
        used.append(_latents(params.dataset))
    return used


def dataset_name(dataset: Dataset) -> str:
    """The source of the images, with the name of its folder or file."""
    return dataset.source + ("" if dataset.path is None else f" {Path(dataset.path).name}")


def _used(stage: str, params: Params) -> tuple[Sequence[str], bool]:
    """The splits of the images that a stage uses, and whether it is trained on latents of them."""
    trains_codec = CODECS[params.codec.kind].save is None
    reference = () if params.evaluation.reference else (TRAIN,)  # with which images are compared
    reads: dict[str, Sequence[str]] = {
        "train_features": (TRAIN, HELD_OUT),
        "train_vae": (TRAIN, HELD_OUT) if trains_codec else (HELD_OUT,),
        "reference": reference,
        "baselines": (TRAIN, HELD_OUT),
        "encode_latents": (TRAIN,),
        "fid": reference,
        "report": (TRAIN, HELD_OUT),
    }
    if stage == "train_vae" and params.vae.images.shards is not None:
        return (), False  # tars that nobody has counted
    trains = {
        "train_diffusion": params.ema.source == "training",
        "train_guide": params.guidance.guide == "trained",
    }
    return ((TRAIN,), True) if trains.get(stage) else (reads.get(stage, ()), False)


def _is_there(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def _images(split: str, dataset: Dataset) -> dict[str, Any]:
    manifest = load_manifest(IMAGES)
    side, per_class = manifest["resolution"], manifest["images_per_class"][split]
    profile = {
        "images": manifest["images"][split],
        "classes": len(manifest["classes"]),
        "images_per_class": _extent(per_class),
        "resolution": f"{side}×{side}",
        "crop": manifest["crop"],
    }
    name = f"{dataset_name(dataset)} {split.replace('_', '-')}"
    schema = _schema("image", "uint8", [3, side, side])
    return _entry(name, IMAGES, profile, schema, CONTEXTS[split])


def _latents(dataset: Dataset) -> dict[str, Any]:
    manifest = load_manifest(LATENTS)
    dtype = manifest.get("dtype", "float16")  # of the numbers in the shards
    profile = {
        "latents": sum(entry.get("samples", 0) for entry in manifest["files"].values()),
        "classes": len(manifest["classes"]),
        "shape": "×".join(map(str, manifest["shape"])),
        "dtype": dtype,
    }
    schema = _schema("latent", dtype, manifest["shape"])
    name = dataset_name(dataset) + " latents" * dataset.has_images
    return _entry(name, LATENTS, profile, schema, CONTEXTS[TRAIN])


def _entry(
    name: str, folder: Path, profile: Mapping[str, Any], schema: Mapping[str, Any], context: str
) -> dict[str, Any]:
    """MLflow keeps name and digest together with the first profile that it gets for them."""
    checksum = sha256(folder / MANIFEST)
    return {
        "name": name,
        "digest": checksum[:DIGEST],
        "source_type": "local",
        "source": json.dumps({"uri": folder.as_posix()}),
        "schema": json.dumps({"mlflow_tensorspec": schema}),
        "profile": json.dumps({**profile, "manifest_sha256": checksum}, ensure_ascii=False),
        "context": context,
    }


def _schema(sample: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
    """Of samples and class numbers, as MLflow describes tensors."""

    def tensor(name: str, dtype: str, shape: Sequence[int]) -> dict[str, Any]:
        return {
            "name": name,
            "type": "tensor",
            "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]},
        }

    return {
        "features": [tensor(sample, dtype, shape)],
        "targets": [tensor("label", "int64", [])],
    }


def _extent(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"
