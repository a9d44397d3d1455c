"""`python docs/make_figures.py [PROJECT]` draws figures into the folder `images` beside this file.

They are those of posthoc-ema.md, from formulas, and of the gallery of results, from the tables in
`docs/results`. Of a project that has the results of the preset ladder-digits also samples.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from edm2.ema.profile import Power, response
from edm2.ema.solve import normalized, solve_profiles
from edm2.reporting.charts import COLORS, Quantity, Spec, color, records, write_chart
from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.selection import read_networks
from edm2.reporting.trainings import mean_and_interval

DOCS = Path(__file__).parent
TRACKED = (0.05, 0.10)  # EMA lengths of the snapshots
TARGETS = (0.03, 0.075, 0.15, 0.25)  # EMA lengths of the reconstructions
DIVERGED = 20.0  # distances of trainings that failed, on the digits
GRIDS = {"A-0": "0.062897", "D-0": "0.28", "G-0": "0.16"}  # best EMA length by training
GRAYS = 16  # of pictures of many images


def snapshots(count: int, ema_lengths: Sequence[float] = TRACKED) -> list[Power]:
    """Profiles of averages stored at `count` evenly spaced times up to time 1."""
    return [Power((k + 1) / count, length) for k in range(count) for length in ema_lengths]


def lines(table: pd.DataFrame, x: Quantity, y: Quantity, *, ordered: bool = False) -> Spec:
    """A line per `line`, with the color and the name of its `series`, and with points if `points` is true."""
    names = list(dict.fromkeys(table["series"]))
    return {
        "data": {"values": records(table)},
        "mark": {"type": "line", "point": bool(table["points"].any()), "clip": True},
        "encoding": {
            "x": x.channel(),
            "y": y.channel(),
            "color": color("series", names, ordered),
            "detail": {"field": "line"},
            "strokeDash": {"field": "dashed", "scale": {"range": [[1, 0], [3, 3]]}, "legend": None},
        },
        "width": 560,
        "height": 280,
    }


def curve(x: Mapping[str, object], series: str, line: int, points: bool = False) -> pd.DataFrame:
    """One line of `lines`."""
    return pd.DataFrame(x).assign(series=series, line=line, points=points, dashed=False)


def responses_chart(count: int = 8) -> Spec:
    """Stored profiles, and reconstructions of target profiles from them (as EDM2 Figure 4)."""
    stored, times = snapshots(count), np.linspace(0, 1, 241)
    profiles = [
        curve({"time": times, "weight": response(p, times)}, f"EMA length {p.sigma_rel:g}", n)
        for n, p in enumerate(stored)
    ]
    made = []
    for n, length in enumerate(TARGETS):
        weights, errors = normalized(*solve_profiles(stored, [Power(1.0, length)]))
        sums = weights[:, 0] @ np.stack([response(profile, times) for profile in stored])
        name = f"EMA length {length:g}: error {errors[0]:.1%}"
        made += [curve({"time": times, "weight": sums}, name, n)]
        target = {"time": times, "weight": response(Power(1.0, length), times)}
        made += [curve(target, name, len(TARGETS) + n).assign(dashed=True)]
    x = Quantity("time", "training time, as a fraction of the whole", domain=(0, 1))
    y = Quantity("weight", "weight of the parameters at that time", domain=(-2, 25))
    top = lines(pd.concat(profiles), x, y) | {"title": f"{count} snapshots of two averages"}
    title = "what is made from them (solid), and what it should be (dotted)"
    bottom = lines(pd.concat(made), x, y, ordered=True) | {"title": title}
    return {"vconcat": [top, bottom], "resolve": {"scale": {"color": "independent"}}}


def errors_chart() -> Spec:
    """Error of the response function against the number of snapshots."""
    counts = [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    tables = []
    for n, length in enumerate(TARGETS):
        for tracked in (TRACKED, TRACKED[1:]):
            solved = [solve_profiles(snapshots(c, tracked), [Power(1.0, length)]) for c in counts]
            errors = [normalized(*each)[1][0] for each in solved]
            table = curve({"n": counts, "error": errors}, f"EMA length {length:g}", n, points=True)
            one = len(tracked) == 1
            tables.append(table.assign(line=2 * n + one, dashed=one))
    x = Quantity("n", "number of evenly spaced snapshots n", log=True)
    y = Quantity("error", "error of the response function", log=True)
    title = "two averages (solid), one of EMA length 0.1 (dotted)"
    return lines(pd.concat(tables), x, y, ordered=True) | {"title": title}


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
    best = best.assign(
        series="config " + best["config"], line=best["config"], points=True, dashed=False
    )
    x = Quantity("lr_ref", "learning rate α_ref", log=True)
    return lines(best, x, Quantity("value", "Fréchet distance (lower is better)", log=True))


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


def write_smaller(source: Path, path: Path, width: int, colors: int = 64) -> None:
    """A picture with fewer pixels and colors."""
    picture = Image.open(source).convert("RGBA")
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert(
        "RGB"
    )
    picture.thumbnail((width, 4 * width))
    picture.quantize(colors, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


def main(project: Path | None) -> None:
    images, results = DOCS / "images", DOCS / "results"
    ladder = results / "ladder"
    charts = {
        "posthoc-responses": responses_chart(),
        "posthoc-errors": errors_chart(),
        "gallery-trainings-digits": trainings_chart(ladder / "digits_trainings.csv"),
        "gallery-trainings-photos": trainings_chart(ladder / "photos_trainings.csv"),
        "gallery-ema-curves": ema_curves_chart(read_networks([ladder / "digits_networks.csv"])),
        "gallery-steps": steps_chart(ladder / "digits_verdicts.csv"),
        "gallery-rates": rates_chart(ladder / "digits_learning_rates.csv"),
        "gallery-search": search_chart(results / "search/curves.csv"),
    }
    for name, spec in charts.items():
        path = images / f"{name}.png"
        write_chart(spec, path)
        write_smaller(path, path, 1000, colors=256)
    write_smaller(results / "digits/magnitudes.png", images / "gallery-magnitudes.png", 760)
    write_smaller(results / "vae/digits.png", images / "gallery-vae-digits.png", 1120)
    write_smaller(results / "vae/photos.png", images / "gallery-vae-photos.png", 900)
    if project is not None:
        write_samples(project / "reports/samples", images / "gallery-samples.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
