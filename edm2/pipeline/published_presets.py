"""The combinations of published networks whose results are in the papers, for `edm2 sample --preset`.

Sizes, EMA lengths and guidance strengths are those of EDM2 Tables 2, 3 and 5 (arXiv 2312.02696) and of
Autoguidance Table 1 (arXiv 2406.02507). Their files are downloaded when they are needed.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from edm2.features.weights import PublishedWeights, cache_folder, fetch_weights
from edm2.params import UserError
from edm2.params.presets import AUTOGUIDANCE, DURATIONS, Autoguidance, M, PaperMetric
from edm2.params.remedies import did_you_mean
from edm2.params.sizes import PaperDataset, Size
from edm2.runtime.distributed import is_main_process

ADDRESS = "https://nvlabs-fi-cdn.nvidia.com/edm2/posthoc-reconstructions"
LICENSE = "CC BY-NC-SA 4.0"
GUIDE: Size = "XS"  # unconditional, of guidance without autoguidance
SHORT: dict[PaperMetric, str] = {"fid": "fid", "fd_dinov2": "dino"}
TITLES: dict[PaperMetric, str] = {"fid": "FID", "fd_dinov2": "FD-DINOv2"}


@dataclass(frozen=True)
class PublishedPreset:
    """A network, possibly with a guide.

    Attributes:
        metric, value: the best published value, that of these networks.
        network, guide: names of their files.
        strength: guidance strength; 1: no guidance.
    """

    name: str
    metric: PaperMetric
    value: float
    network: str
    guide: str | None = None
    strength: float = 1.0


@cache
def published_presets() -> Mapping[str, PublishedPreset]:
    """All presets by name."""
    presets = (*_of_models(), *map(_autoguided, AUTOGUIDANCE))
    return {preset.name: preset for preset in presets}


def published_preset(name: str) -> PublishedPreset:
    """
    Raises:
        UserError: there is no such preset.
    """
    presets = published_presets()
    if name not in presets:
        raise UserError(
            f"--preset {name}: no such preset. {did_you_mean(name, presets)}"
            "`edm2 sample --list-presets` lists all."
        )
    return presets[name]


def fetch_networks(preset: PublishedPreset, folder: Path | None) -> tuple[Path, Path | None]:
    """The files of a preset's network and guide, in `folder`, or in the cache, where they are downloaded.

    Raises:
        UserError: a file is not there and cannot be downloaded; the message has its address and its path.
    """
    if folder is not None:
        _require_files([preset.network, *([preset.guide] if preset.guide else [])], folder)
        return folder / preset.network, None if preset.guide is None else folder / preset.guide
    network = _fetch(preset.network)
    return network, None if preset.guide is None else _fetch(preset.guide)


def _require_files(names: list[str], folder: Path) -> None:
    """Raises UserError that names all missing files."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        addresses = " and ".join(f"{ADDRESS}/{name}" for name in missing)
        raise UserError(
            f"--networks {folder}: has no {' and no '.join(missing)}. Download from {addresses} "
            f"({LICENSE}) to that folder, or leave --networks out: what is missing is downloaded into the "
            "cache."
        )


def _fetch(name: str) -> Path:
    url = f"{ADDRESS}/{name}"
    if is_main_process() and not (cache_folder() / name).exists():
        print(
            f"note: {name}: licensed as {LICENSE}; its publisher gives no checksum: none is compared."
        )
    weights = PublishedWeights(name, url, None, LICENSE, "--networks (a folder)")
    return fetch_weights(weights)[0]


def _of_models() -> Iterator[PublishedPreset]:
    """Without guidance, and guided by an unconditional network of the same EMA length."""
    for row in _models():
        dataset, size = cast(PaperDataset, row["dataset"]), cast(Size, row["size"])
        for metric, short in SHORT.items():
            for suffix, column in (("", ""), ("-guid", "_guided")):
                if not row[f"{metric}{column}"]:
                    continue
                length = float(row[f"{metric}{column}_ema_length"])
                guide = (
                    _file(dataset, GUIDE, DURATIONS[dataset][GUIDE], length, False)
                    if column
                    else None
                )
                yield PublishedPreset(
                    f"{_model(dataset, size)}{suffix}-{short}",
                    metric,
                    float(row[f"{metric}{column}"]),
                    _file(dataset, size, DURATIONS[dataset][size], length),
                    guide,
                    float(row[f"{metric}_guidance"]) if column else 1.0,
                )


def _autoguided(pair: Autoguidance) -> PublishedPreset:
    dataset, conditional = pair.dataset, pair.conditional
    duration = DURATIONS[dataset][pair.size]
    return PublishedPreset(
        f"{_model(dataset, pair.size, conditional)}-autog-{SHORT[pair.metric]}",
        pair.metric,
        pair.value,
        _file(dataset, pair.size, duration, pair.ema_length, conditional),
        _file(dataset, pair.guide, pair.guide_mimg, pair.guide_ema_length, conditional),
        pair.strength,
    )


def _models() -> list[dict[str, Any]]:
    """EDM2 Tables 2, 3, 5 and 6: a row per network."""
    with files("edm2.reporting").joinpath("paper/models.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _model(dataset: PaperDataset, size: Size, conditional: bool = True) -> str:
    suffix = "" if conditional else "-uncond"
    return f"edm2-{dataset.replace('imagenet-', 'img')}-{size.lower()}{suffix}"


def _file(
    dataset: PaperDataset, size: Size, mimg: int, length: float, conditional: bool = True
) -> str:
    """The name has the training time in thousands of images, rounded down."""
    return f"{_model(dataset, size, conditional)}-{mimg * M // 1000:07d}-{length:.3f}.pkl"
