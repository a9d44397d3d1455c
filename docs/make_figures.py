"""`python docs/make_figures.py` draws the figures of posthoc-ema.md into the folder of this file."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from edm2.ema.profile import Power, response
from edm2.ema.solve import normalized, solve_profiles
from edm2.reporting.curves import STYLE, save_figure

TRACKED = (0.05, 0.10)  # EMA lengths of the snapshots
TARGETS = (0.03, 0.075, 0.15, 0.25)  # EMA lengths of the reconstructions


def snapshots(count: int, sigma_rels: Sequence[float] = TRACKED) -> list[Power]:
    """Profiles of averages stored at `count` evenly spaced times up to time 1."""
    return [Power((k + 1) / count, length) for k in range(count) for length in sigma_rels]


def draw_responses(path: Path, count: int = 8) -> None:
    """Stored profiles, target profiles, and their reconstructions (as EDM2 Figure 4)."""
    stored, times = snapshots(count), np.linspace(0, 1, 1201)
    with plt.rc_context(STYLE):
        figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6.2), sharex=True)
        for profile in stored:
            color = "tab:blue" if profile.sigma_rel == TRACKED[0] else "tab:orange"
            label = f"snapshot, EMA length {profile.sigma_rel:g}" if profile.nimg == 1 else None
            top.plot(times, response(profile, times), color=color, linewidth=0.9, label=label)
        top.set_title(f"{count} snapshots of two averages")
        for k, length in enumerate(TARGETS):
            target = Power(1.0, length)
            weights, errors = normalized(*solve_profiles(stored, [target]))
            sums = weights[:, 0] @ np.stack([response(profile, times) for profile in stored])
            color = plt.get_cmap("viridis")(k / len(TARGETS))
            label = f"EMA length {length:g}: error {errors[0]:.1%}"
            bottom.plot(times, response(target, times), color=color, alpha=0.35, linewidth=4)
            bottom.plot(times, sums, color=color, linewidth=1.2, label=label)
        bottom.set_title("target (broad) and reconstruction (thin)")
        bottom.set_xlabel("training time, as a fraction of the whole")
        for axes in (top, bottom):
            axes.set_ylim(-2, 25)
            axes.set_ylabel("weight of the parameters at that time")
            axes.legend(frameon=False, loc="upper left")
        save_figure(figure, path)


def draw_errors(path: Path) -> None:
    """Error of the response function against the number of snapshots."""
    counts = (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8, 4.2))
        for k, length in enumerate(TARGETS):
            color = plt.get_cmap("viridis")(k / len(TARGETS))
            for tracked, style, note in (
                (TRACKED, "-", "two averages"),
                (TRACKED[1:], ":", "one average (0.1)"),
            ):
                errors = [
                    normalized(*solve_profiles(snapshots(n, tracked), [Power(1.0, length)]))[1][0]
                    for n in counts
                ]
                label = f"EMA length {length:g}, {note}"
                axes.plot(counts, errors, style, marker=".", color=color, label=label)
        reference = np.array([16.0, 128.0])
        axes.plot(reference, 0.0015 * (reference[0] / reference) ** 2, color="gray", linewidth=0.8)
        axes.annotate("∝ 1/n²", (17, 0.0003), color="gray")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks([4, 8, 16, 32, 64, 128], labels=["4", "8", "16", "32", "64", "128"])
        axes.minorticks_off()
        axes.set_xlabel("number of evenly spaced snapshots n")
        axes.set_ylabel("error of the response function")
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
        save_figure(figure, path)


if __name__ == "__main__":
    folder = Path(__file__).parent / "images"
    draw_responses(folder / "posthoc-responses.png")
    draw_errors(folder / "posthoc-errors.png")
