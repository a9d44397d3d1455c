"""`python docs/make_gallery.py [PROJECT]` draws the gallery of results into `images` beside this file.

Charts are of the tables in `docs/results`, pictures those of published runs with fewer pixels. Of a project
that has the results of the preset ladder-digits also samples.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from make_figures import write_small_chart, write_smaller
from PIL import Image, ImageDraw, ImageFont

from edm2.reporting.charts import COLORS, Quantity, Spec, color, records
from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.selection import read_networks
from edm2.reporting.trainings import mean_and_interval

DOCS = Path(__file__).parent
DIVERGED = 20.0  # distances of trainings that failed, on the digits
GRIDS = {"A-0": "0.062897", "D-0": "0.28", "G-0": "0.16"}  # best EMA length by training
GRAYS = 16  # of pictures of many images


def trainings_chart(path: Path) -> Spec:
    """The distance of each training by config, their mean and its 95 % interval."""
    table = pd.read_csv(path)
    value = "at own best length"
    means = [
        dict(zip(("mean", "low", "high"), mean_and_interval(list(values)), strict=True))
        | {"config": c}
        for c, values in table.groupby("config")[value]
    ]
    config = {"field": "config", "type": "nominal", "axis": {"labelAngle": 0}}
    y = Quantity("mean", "Fréchet distance (lower is better)")
    interval = {"y": y.channel("low"), "y2": {"field": "high"}}
    column = table.rename(columns={value: "value"})
    return {
        "encoding": {"x": config, "color": {"value": COLORS[0]}},
        "layer": [
            _marks(means, {"type": "rule", "strokeWidth": 2}, interval),
            _marks(
                means,
                {"type": "point", "size": 90, "filled": True, "opacity": 1},
                {"y": y.channel()},
            ),
            _marks(
                records(column),
                {"type": "point", "size": 20, "filled": True, "color": COLORS[1], "xOffset": 12},
                {"y": y.channel("value"), "color": {"value": COLORS[1]}},
            ),
        ],
        "width": 480,
        "height": 260,
    }


def steps_chart(path: Path) -> Spec:
    """The difference that each step makes, with its 95 % interval; filled if it is settled."""
    table = pd.read_csv(path)
    table = table[table["EMA length"] == "own best"]
    table = table.assign(step=table["base"] + " → " + table["change"])
    rows, step = records(table), {"field": "step", "type": "nominal", "sort": None, "title": None}
    x = Quantity("difference", "difference of the Fréchet distance (negative: improved)")
    interval = {"x": x.channel("low"), "x2": {"field": "high"}}
    settled = {
        "condition": {"test": "datum.settled === 'no'", "value": "white"},
        "value": COLORS[0],
    }
    zero = {"data": {"values": [{"zero": 0}]}, "mark": {"type": "rule", "color": "#7f7f7f"}}
    return {
        "encoding": {"y": step},
        "layer": [
            zero
            | {
                "encoding": {
                    "x": {"field": "zero", "type": "quantitative"},
                    "y": {"value": 0},
                    "y2": {"value": "height"},
                }
            },
            _marks(rows, {"type": "rule", "strokeWidth": 2, "color": COLORS[0]}, interval),
            _marks(
                rows,
                {
                    "type": "point",
                    "size": 90,
                    "filled": True,
                    "opacity": 1,
                    "stroke": COLORS[0],
                    "strokeWidth": 2,
                },
                {"x": x.channel(), "fill": settled},
            ),
        ],
        "width": 480,
        "height": {"step": 30},
    }


def rates_chart(path: Path) -> Spec:
    """The distance against the learning rate, a line per config, without trainings that failed."""
    table = pd.read_csv(path)
    best = (
        table[table["value"] < DIVERGED]
        .groupby(["config", "lr_ref"], as_index=False)["value"]
        .min()
    )
    best["name"] = "config " + best["config"]
    x = Quantity("lr_ref", "learning rate α_ref", log=True)
    y = Quantity("value", "Fréchet distance (lower is better)", log=True)
    names = list(dict.fromkeys(best["name"]))
    return {
        "data": {"values": records(best)},
        "mark": {"type": "line", "point": True},
        "encoding": {"x": x.channel(), "y": y.channel(), "color": color("name", names)},
        "width": 560,
        "height": 280,
    }


def search_chart(path: Path) -> Spec:
    """The share of a grid's images that a search needs, by curve and noise."""
    table = pd.read_csv(path)
    x = Quantity("images", "images of the search, % of those of the grid", domain=(0, 25))
    return {
        "data": {"values": records(table)},
        "mark": {"type": "bar", "height": {"band": 0.9}},
        "encoding": {
            "x": x.channel(),
            "y": {
                "field": "curve",
                "type": "nominal",
                "sort": None,
                "title": None,
                "axis": {"labelLimit": 0},
            },
            "yOffset": {"field": "noise"},
            "color": color("noise", list(dict.fromkeys(table["noise"]))),
        },
        "width": 440,
        "height": {"step": 18},
    }


def _marks(rows: Sequence[Spec], mark: Spec, encoding: Spec) -> Spec:
    return {"data": {"values": list(rows)}, "mark": mark, "encoding": encoding}


def write_samples(samples: Path, path: Path, columns: int = 6, side: int = 50) -> None:
    """The first columns of the grids of some trainings, beside each other."""
    grids = [
        Image.open(samples / f"{training}/000000102400-ema_length-{length}.png").convert("L")
        for training, length in GRIDS.items()
    ]
    width, top = columns * side + 20, 26
    canvas = Image.new("L", (width * len(grids) + 10, grids[0].height + top), 255)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=16)
    for n, (training, grid) in enumerate(zip(GRIDS, grids, strict=True)):
        draw.text((n * width + 20, 2), f"config {training[0]}", fill=0, font=font)
        canvas.paste(grid.crop((0, 0, columns * side + 20, grid.height)), (n * width, top))
    canvas.quantize(GRAYS).save(path, optimize=True)


def main(project: Path | None) -> None:
    images, results = DOCS / "images", DOCS / "results"
    ladder = results / "ladder"
    charts = {
        "gallery-trainings-digits": trainings_chart(ladder / "digits_trainings.csv"),
        "gallery-trainings-photos": trainings_chart(ladder / "photos_trainings.csv"),
        "gallery-ema-curves": ema_curves_chart(read_networks([ladder / "digits_networks.csv"])),
        "gallery-steps": steps_chart(ladder / "digits_verdicts.csv"),
        "gallery-rates": rates_chart(ladder / "digits_learning_rates.csv"),
        "gallery-search": search_chart(results / "search/curves.csv"),
    }
    for name, spec in charts.items():
        write_small_chart(spec, images / f"{name}.png")
    write_smaller(results / "digits/magnitudes.png", images / "gallery-magnitudes.png", 760)
    write_smaller(results / "vae/digits.png", images / "gallery-vae-digits.png", 1120)
    write_smaller(results / "vae/photos64.png", images / "gallery-vae-photos.png", 900)
    if project is not None:
        write_samples(project / "reports/samples", images / "gallery-samples.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
