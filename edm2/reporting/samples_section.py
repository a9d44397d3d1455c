"""The section of the report's page with samples: grids, and the same seeds at all EMA lengths."""

import html
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from PIL import Image

from edm2.reporting.grids import GAP, grid_name
from edm2.reporting.page import Section, collapsed, picture, slider
from edm2.reporting.selection import at_final_time, uniform_networks
from edm2.reporting.stage_outputs import StageOutputs

MAX_CONFIGS_WITH_STRIPS = 3
STRIPS = {"lengths": "EMA lengths", "strengths": "guidance strengths"}  # by folder


def samples_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """Images of the best network of each config's first training, and strips of the same seeds.

    There are links to the grids of its other trainings, which stay beside the page, and, of many configs, to
    the strips of all but the best one: the page has to stay small.
    """
    body = ""
    shown = _configs_with_strips(outputs.best_networks)
    for config, best in outputs.best_networks.items():
        first, *others = (row for _, row in best.iterrows())
        path, caption = _grid(outputs, first)
        body += picture(path, f"{caption}: one row per class.", sharp=True)
        body += _same_seeds(outputs, best, config in shown)
        if others:
            links = "".join(_link(outputs, *_grid(outputs, row)) for row in others)
            body += collapsed(f"Config {config}: its other trainings", f"<ul>{links}</ul>")
    return [("Samples", body)]


def _same_seeds(outputs: StageOutputs, best: pd.DataFrame, shown: bool) -> str:
    """The same seeds at all EMA lengths and guidance strengths, of a config's first training.

    Args:
        shown: whether the pictures are in the page; there are links to them otherwise.
    """
    config = best["config"].iloc[0]
    title = f"Config {config}: the same seeds at all "
    samples = outputs.samples(config, best.index[0])
    if not shown:
        files = sorted(samples.glob("*/*.png"))
        links = "".join(_link(outputs, file, _strip_name(outputs, file)) for file in files)
        return (
            collapsed(f"{title}{' and '.join(STRIPS.values())}", f"<ul>{links}</ul>")
            if files
            else ""
        )
    body = ""
    if strips := _strips(outputs, samples / "lengths"):
        rows = _rows(outputs.networks, best.iloc[0])
        height = _height(samples / "lengths")
        body += _slider(title + STRIPS["lengths"], strips, height, rows, best.iloc[0])
    if strips := _strips(outputs, samples / "strengths"):
        body += collapsed(title + STRIPS["strengths"], strips)
    return body


def _configs_with_strips(best: Mapping[str, pd.DataFrame]) -> set[str]:
    """All configs, or of many the one with the lowest distance."""
    if len(best) <= MAX_CONFIGS_WITH_STRIPS:
        return set(best)
    return {min(best, key=lambda config: float(best[config]["value"].mean()))}


def _strip_name(outputs: StageOutputs, strip: Path) -> str:
    return f"{outputs.class_name(int(strip.stem))}, at all {STRIPS[strip.parent.name]}"


def _grid(outputs: StageOutputs, best: pd.Series) -> tuple[Path, str]:
    """The samples of the best network of a training, and what they are."""
    name = outputs.training_name(best["config"], best["training_seed"])
    samples = outputs.samples(best["config"], best["training_seed"])
    caption = f"Best network of {name} (EMA length {best['ema_length']:.3g})"
    return samples / grid_name(best["network"], best["guidance"]), caption


def _link(outputs: StageOutputs, path: Path, text: str) -> str:
    """An entry of a list, with a link to a file beside the page."""
    target = html.escape(path.relative_to(outputs.folder).as_posix())
    return f'<li><a href="{target}">{html.escape(text)}</a></li>'


def _strips(outputs: StageOutputs, folder: Path) -> str:
    """A picture per class, with a row per EMA length or guidance strength."""
    return "".join(
        picture(strip, outputs.class_name(int(strip.stem)), sharp=True)
        for strip in sorted(folder.glob("*.png"))
    )


def _rows(networks: pd.DataFrame, best: pd.Series) -> pd.DataFrame:
    """The networks that strips have a row for, in their order."""
    rows = at_final_time(uniform_networks(networks))
    same = ["config", "training_seed", "guidance"]
    return rows[(rows[same] == best[same]).all(axis=1)].sort_values("ema_length")


def _height(folder: Path) -> int:
    """Of a strip, in pixels."""
    with Image.open(next(folder.glob("*.png"))) as strip:
        return strip.height


def _slider(title: str, strips: str, height: int, rows: pd.DataFrame, best: pd.Series) -> str:
    """Strips of which a slider shows one row at a time; without scripts, and in print, all rows.

    Strips that have other rows than the table of networks are only collapsed.
    """
    if (height - GAP) % len(rows):
        return collapsed(title, strips)
    labels = [
        f"{length:.3g}: {metric} = {value:.4g}"
        for length, metric, value in zip(
            rows["ema_length"], rows["metric"], rows["value"], strict=True
        )
    ]
    position = rows["network"].tolist().index(best["network"])
    labels[position] += ", the best"
    style = f"--rows:{len(rows)};--gap:{GAP / height:.6f}"
    body = slider("strips", "EMA length", labels, position, strips, style)
    return f"<h3>{html.escape(title)}</h3>{body}"
