"""The sections of the report's page: figures, tables and what they say."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from edm2.reporting.curves import best_of, bests_of, confirmed, main_metric
from edm2.reporting.dynamics import BOUNDED, FLAT
from edm2.reporting.grids import grid_name
from edm2.reporting.page import folded, paragraph, picture, table
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.sweeps import (
    draw_curves,
    draw_heat_map,
    guidance_curves,
    minima,
    tensor_curves,
    time_curves,
)
from edm2.runtime.files import write_text

SINGULAR = (
    "Singular: these Fréchet distances are of no more images than feature dimensions, on one side or "
    "both (evaluation.allow_singular). Their covariances have too low a rank, and the values mean "
    "little: compare them with nothing but each other."
)

PUBLISHED = (
    "Compared with published statistics (evaluation.reference), of an unknown number of images."
)


def ema_section(networks: pd.DataFrame, folder: Path) -> str:
    """The EMA curve, the best length of each config, and how far to trust it."""
    lines = []
    if main_metric(networks)["singular"].any():
        lines.append(paragraph(SINGULAR))
    if main_metric(networks)["reference"].isna().any():
        lines.append(paragraph(PUBLISHED))
    for config, part in networks.groupby("config"):
        best = best_of(part)
        text = (
            f"Config {config} is best at EMA length {best['ema_length']:g}: "
            f"{best['metric']} = {best['value']:.4g}."
        )
        if best["average"] == "traditional":
            text = (
                f"Config {config} has one traditional EMA, here of length "
                f"{best['ema_length']:.3g}: {best['metric']} = {best['value']:.4g}."
            )
        if best["at_edge"]:
            text += (
                " That is the edge of the grid: the true optimum may lie beyond. "
                "Widen sweep.ema_lengths."
            )
        fresh = confirmed(part, best)
        if fresh is not None:
            text += f" On {fresh['samples']} fresh seeds: {fresh['value']:.4g}."
        lines.append(paragraph(text))
    note = (
        "The length was chosen on the very samples that give the value, so the value is "
        "optimistic; the networks differ in EMA length alone and share their seeds, so that the "
        "curve is smoother than the value of a single point is certain."
    )
    if (networks["seeds"] == "sweep").all():
        note += " With evaluation.confirm the best network is measured again on fresh seeds."
    lines.append(paragraph(note))
    caption = "Fréchet distance against EMA length σ_rel; lower is better; circles mark the minima."
    return picture(folder / "ema_curves.svg", caption) + "".join(lines)


def sweep_sections(networks: pd.DataFrame, folder: Path) -> list[tuple[str, str]]:
    """Training times and single tensors, if they were swept."""
    sections = []
    folder.mkdir(parents=True, exist_ok=True)
    for heading, by, curves, caption in (
        (
            "Training time",
            "nimg",
            time_curves(networks),
            "EMA curves at several training times (as EDM2 Figure 5c).",
        ),
        (
            "Single tensors",
            "tensors",
            tensor_curves(networks),
            "EMA length of some tensors varied, the others kept (as EDM2 Figure 5b).",
        ),
    ):
        if curves.empty:
            continue
        found = minima(curves, by)
        draw_curves(curves, by, folder / f"{by}.png")
        write_text(folder / f"{by}.csv", found.to_csv(index=False))
        sections.append((heading, picture(folder / f"{by}.png", caption) + table(found)))
    return sections


def guidance_section(
    findings: StageOutputs, networks: pd.DataFrame, folder: Path
) -> list[tuple[str, str]]:
    """EMA length against guidance strength, if several strengths were swept."""
    curves = guidance_curves(networks)
    if curves.empty:
        return []
    found = minima(curves, "guidance")
    draw_curves(curves, "guidance", folder / "guidance.png")
    draw_heat_map(curves, folder / "guidance_map.png")
    write_text(folder / "guidance.csv", found.to_csv(index=False))
    parts = [
        picture(
            folder / "guidance.png",
            "EMA curves at several strengths of guidance (as EDM2 Figure 6).",
        ),
        picture(folder / "guidance_map.png", "The same as a map; darker is better."),
        table(found),
    ]
    for config, part in networks.groupby("config"):
        for best in bests_of(part):
            if best["guidance"] == 1:
                continue
            fresh = confirmed(part, best)
            again = "" if fresh is None else f"; {fresh['value']:.4g} on fresh seeds"
            strength, length, value = best["guidance"], best["ema_length"], best["value"]
            caption = (
                f"Config {config} guided with w = {strength:g} at EMA length {length:.3g}: "
                f"{best['metric']} = {value:.4g}{again}."
            )
            grid = grid_name(best["network"], strength)
            path = findings.folder / f"samples/{config}/{grid}"
            parts.append(picture(path, caption, sharp=True))
    return [("Guidance", "".join(parts))]


def ablation_section(ablation: pd.DataFrame) -> str:
    """Each config's best beside the paper's."""
    note = (
        "The two sides are different data sets, detectors and sample counts, as the column names "
        "say: compare rows with rows, never ours with the paper's."
    )
    return table(ablation) + paragraph(note)


def trained_sections(
    training: Mapping[str, pd.DataFrame], dynamics: pd.DataFrame, folder: Path
) -> list[tuple[str, str]]:
    """Loss curves and magnitudes, if anything was trained here."""
    if not training:
        return [("Training", paragraph("The networks are published ones; none was trained here."))]
    return [
        ("Training", _training_section(training, folder)),
        ("Training dynamics", _dynamics_section(dynamics, folder)),
    ]


def _training_section(training: Mapping[str, pd.DataFrame], folder: Path) -> str:
    counts = ", ".join(
        f"{config} {rows['train/nonfinite_gradients'].mean():.3g}"
        for config, rows in training.items()
    )
    return picture(folder / "training.png", "Training curves of the denoisers") + paragraph(
        f"Non-finite gradient values set to zero, per step on average: {counts}."
    )


def _dynamics_section(dynamics: pd.DataFrame, folder: Path) -> str:
    said = dynamics[dynamics["weights, paper"] != ""]
    agreeing = [
        f"{what} as the paper has them in {_letters(said[same])}"
        + ("" if same.all() else f", but not in {_letters(said[~same])}")
        for what in ("weights", "activations")
        for same in [said[f"{what}, paper"] == said[f"{what}, seen"]]
    ]
    seen = f"Seen here: {'; '.join(agreeing)}. " if len(said) else ""
    note = (
        f"{seen}Magnitudes are root mean squares of output units, 1 for unit-normal data. Weights "
        f"are called flat when the mean of every bucket ends within a factor {FLAT} of its first "
        f"measurement; activations bounded when the largest grows by less than a factor {BOUNDED} "
        "over the second half of training. The relative update is the effective learning rate."
    )
    return (
        picture(
            folder / "magnitudes.png",
            "Magnitudes by part of the network (as EDM2 Figure 3): strong lines are means over "
            "output units, faint lines the largest; dashed is the decoder.",
        )
        + table(dynamics)
        + paragraph(note)
        + picture(folder / "updates.png", "Size of updates relative to the weights, the same way.")
    )


def _letters(rows: pd.DataFrame) -> str:
    return ", ".join(rows["config"]) or "none"


def samples_section(findings: StageOutputs, networks: pd.DataFrame) -> str:
    """Images of each config's best network, and strips of the same seeds."""
    pictures = []
    for config, part in networks.groupby("config"):
        best = best_of(part)
        length = float(best["ema_length"])
        grid = grid_name(best["network"], best["guidance"])
        path = findings.folder / f"samples/{config}/{grid}"
        caption = f"Config {config} at its best EMA length {length:.3g}: one row per class."
        pictures.append(picture(path, caption, sharp=True))
        for kind, rows in (("lengths", "EMA lengths"), ("strengths", "strengths of guidance")):
            strips = sorted((findings.folder / f"samples/{config}/{kind}").glob("*.png"))
            body = "".join(
                picture(strip, f"class {int(strip.stem)}: the same seeds at all {rows}", sharp=True)
                for strip in strips
            )
            if strips:
                pictures.append(folded(f"Config {config}: the same seeds at all {rows}", body))
    return "".join(pictures)


def baselines_section(baselines: pd.DataFrame, features: dict[str, float]) -> str:
    """Generated, held-out and reconstructed images by one metric and count."""
    if baselines.empty:
        return paragraph("There are too few held-out images for a Fréchet distance of their own.")
    if not baselines["images"].str.startswith("generated").any():
        return table(baselines) + paragraph(
            "Generated images are measured at another count, which cannot be compared: there are "
            "more held-out images than evaluation.samples."
        )
    own = baselines["metric"].str.startswith("fd_classifier").all()
    note = (
        "All are distances to the same real images, by one metric and one sample count. Held-out "
        "images are what a perfect generator would make; their reconstructions show what the "
        f"autoencoder costs. {'Both generator and detector were' if own else 'The generator was'} "
        "trained on the training images: a value below that of held-out images says that the "
        "generator stays nearer to them than fresh images do, not that it is better than perfect."
    )
    if own:
        note += (
            " The detector is a classifier that reads "
            f"{features['accuracy_held_out']:.1%} of the held-out images rightly."
        )
    return table(baselines) + paragraph(note)


def vae_section(findings: StageOutputs, vae: dict[str, float], foreign: bool, folder: Path) -> str:
    """What the autoencoder keeps of an image, and how it was trained."""
    psnr = f"PSNR {vae['psnr']:.2f} dB" if "psnr" in vae else "images come back exactly"
    distances = ", ".join(
        f"{key} {value:.4g}"
        for key, value in vae.items()
        if key.startswith(("ssim", "perceptual_"))
    )
    text = f"Held-out {psnr}, {distances}."
    if foreign:
        text += " No autoencoder was trained here."
    grid = findings.folder / "vae/reconstructions.png"
    body = paragraph(text) + picture(
        grid, "Held-out images above their reconstructions", sharp=True
    )
    return body + ("" if foreign else picture(folder / "vae.png", "Training of the autoencoder"))
