"""`python docs/make_figures.py` draws the figures of posthoc-ema.md into the folder of this file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from edm2.ema.profile import Power, response
from edm2.ema.solve import normalized, solve_profiles
from edm2.reporting.charts import COLORS, Spec, color, records, write_chart

TRACKED = (0.05, 0.10)  # EMA lengths of the snapshots
TARGETS = (0.03, 0.075, 0.15, 0.25)  # EMA lengths of the reconstructions


def snapshots(count: int, sigma_rels: Sequence[float] = TRACKED) -> list[Power]:
    """Profiles of averages stored at `count` evenly spaced times up to time 1."""
    return [Power((k + 1) / count, length) for k in range(count) for length in sigma_rels]


def responses_chart(count: int = 8) -> Spec:
    """Stored profiles, target profiles, and their reconstructions (as EDM2 Figure 4)."""
    stored, times = snapshots(count), np.linspace(0, 1, 1201)
    above = [
        _response(k, f"snapshot, EMA length {profile.sigma_rel:g}", profile, times)
        for k, profile in enumerate(stored)
    ]
    broad, thin = [], []
    for k, length in enumerate(TARGETS):
        target = Power(1.0, length)
        weights, errors = normalized(*solve_profiles(stored, [target]))
        sums = weights[:, 0] @ np.stack([response(profile, times) for profile in stored])
        name = f"EMA length {length:g}: error {errors[0]:.1%}"
        broad.append(_response(k, name, target, times))
        thin.append(broad[-1].assign(weight=sums))
    titles = f"{count} snapshots of two averages", "target (broad) and reconstruction (thin)"
    panels = [
        _responses_panel(titles[0], [(pd.concat(above), 1, 1)], ordered=False),
        _responses_panel(titles[1], [(pd.concat(broad), 5, 0.35), (pd.concat(thin), 1.3, 1)]),
    ]
    return {"vconcat": panels, "resolve": {"scale": {"color": "independent"}}}


def _response(line: int, name: str, profile: Power, times: np.ndarray) -> pd.DataFrame:
    weights = response(profile, times)
    return pd.DataFrame({"time": times, "weight": weights, "line": line, "name": name})


def _responses_panel(
    title: str, lines: Sequence[tuple[pd.DataFrame, float, float]], ordered: bool = True
) -> Spec:
    """Lines of several widths and opacities."""
    names = list(dict.fromkeys(lines[0][0]["name"]))
    legend = {"title": None}
    x = {"field": "time", "title": "training time, as a fraction of the whole"}
    y = {"field": "weight", "title": "weight of the parameters at that time"}
    y["scale"] = {"domain": [-2, 25]}
    return {
        "title": title,
        "width": 640,
        "height": 240,
        "encoding": {
            "x": {"type": "quantitative", **x},
            "y": {"type": "quantitative", **y},
            "color": {**color("name", names, ordered), "legend": legend},
            "detail": {"field": "line"},
        },
        "layer": [
            {
                "data": {"values": records(rows)},
                "mark": {"type": "line", "clip": True, "strokeWidth": width, "opacity": opacity},
            }
            for rows, width, opacity in lines
        ],
    }


def errors_chart() -> Spec:
    """Error of the response function against the number of snapshots."""
    counts = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    rows = pd.DataFrame(
        [
            (n, _error(n, tracked, length), f"EMA length {length:g}", note)
            for length in TARGETS
            for tracked, note in ((TRACKED, "two averages"), (TRACKED[1:], "one average (0.1)"))
            for n in counts
        ],
        columns=["n", "error", "name", "averages"],
    )
    n = pd.Series([16.0, 128.0])
    slope = pd.DataFrame({"n": n, "error": 0.0015 * (n[0] / n) ** 2, "text": ["∝ 1/n²", ""]})
    dashes = {"domain": ["two averages", "one average (0.1)"], "range": [[1, 0], [2, 2]]}
    legend = {"title": None, "orient": "right"}
    series: Spec = {
        "color": {**color("name", list(dict.fromkeys(rows["name"])), True), "legend": legend},
        "strokeDash": {"field": "averages", "scale": dashes, "legend": legend},
    }
    x = {"field": "n", "title": "number of evenly spaced snapshots n"}
    x["axis"] = {"values": [4, 8, 16, 32, 64, 128], "labelOverlap": False}
    y = {"field": "error", "title": "error of the response function", "axis": {"format": "~g"}}
    log = {"type": "quantitative", "scale": {"type": "log", "nice": False}}
    gray = COLORS[-1]
    return {
        "width": 560,
        "height": 340,
        "encoding": {"x": {**log, **x}, "y": {**log, **y}},
        "layer": [
            {"data": {"values": records(rows)}, "mark": {"type": "line"}, "encoding": series},
            {"data": {"values": records(slope)}, "mark": {"type": "line", "color": gray}},
            {
                "data": {"values": records(slope)},
                "mark": {"type": "text", "align": "right", "dx": -6, "color": gray},
                "encoding": {"text": {"field": "text"}},
            },
        ],
    }


def _error(count: int, tracked: Sequence[float], length: float) -> float:
    return float(normalized(*solve_profiles(snapshots(count, tracked), [Power(1.0, length)]))[1][0])


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


def write_small_chart(spec: Spec, path: Path) -> None:
    """A chart as PNG, of less than 100 KB."""
    write_chart(spec, path)
    write_smaller(path, path, 1000, colors=256)


if __name__ == "__main__":
    folder = Path(__file__).parent / "images"
    write_small_chart(responses_chart(), folder / "posthoc-responses.png")
    write_small_chart(errors_chart(), folder / "posthoc-errors.png")
