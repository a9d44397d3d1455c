"""Sections of the report's page. Each writes its tables and figures as files, too.

A section is a function of the stages' outputs and the report's folder. It returns what it adds to
the page: a list, empty if the params have nothing for it.
"""

from pathlib import Path

import pandas as pd

from edm2.reporting.charts import placeholder_chart, write_chart
from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.page import Section, chart, collapsed, paragraph, picture, table
from edm2.reporting.selection import SAME_IMAGES, ema_curve, main_metric, value_in_words
from edm2.reporting.stage_outputs import StageOutputs, nonfinite_steps
from edm2.reporting.tables import (
    ablation_table,
    baseline_table,
    curve_means,
    networks_table,
    write_table,
)
from edm2.reporting.time_charts import THINNED, gaps_note, shown_panels, write_panels
from edm2.reporting.training_charts import NOT_TRAINED, vae_gaps, vae_panels, vae_quality
from edm2.reporting.trainings import listed, mean_and_interval, valued_on
from edm2.reporting.vae_averages import CAPTION, best_in_words, ema_panels
from edm2.reporting.vae_progress import vae_progress
from edm2.runtime.clipping import clipped_values

SINGULAR = (
    "Singular: these Fréchet distances use no more images than there are feature dimensions, on one "
    "side or both (evaluation.allow_singular). The covariances are rank-deficient and the values mean "
    "little. Compare them only with each other."
)
AT_CHANCE = (
    "Detector at chance: the detector is a classifier whose accuracy on held-out images is no better than "
    "that of always naming the most frequent class. These distances are those of an untrained network "
    "and say little about the images. Set evaluation.detector to efficientnet, use images of "
    "several classes, or train the classifier longer (features.duration_nimg)."
)
FEATURES_AT_CHANCE = (
    " The classifier's accuracy on held-out images is chance: distances of its features, and a perceptual "
    "loss with it, are those of an untrained network. Set vae.backbone and vae.detector to efficientnet, use "
    "images of several classes, or train the classifier longer."
)
NOT_FINITE = (
    "Training not finite: in these steps the loss or gradients were not finite, and such gradients were "
    "set to zero. The network may be worse than its config can be. Lower the learning rate, or use "
    "another runtime.precision."
)
MEANS = (
    " Thin lines are the trainings, strong lines their mean; bands are the 95 % interval of the mean, by "
    "Student's t, and may leave the figure."
)
ABLATION_MEANS = (
    " Values are means over the trainings of a config, each at its own best EMA length; values of each "
    "training are in the order of seeds."
)
NO_IMAGES = (
    "The data set has latents and no images: no VAE was trained, and no reconstruction evaluated."
)
NOT_AVERAGED = "no averages of the VAE were evaluated (vae.ema)"
PUBLISHED = (
    "Compared with published statistics (evaluation.reference) of an unknown number of images."
)


def ema_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """The EMA curve, the best EMA length of each config, and how far to trust it."""
    networks = outputs.networks
    figure = ema_curves_chart(networks)
    write_chart(figure, folder / "ema_curves.png", folder / "ema_curves.svg")
    curve = ema_curve(networks)
    rows, means = networks_table(curve), curve_means(curve)
    several = outputs.several_trainings
    write_table(rows, folder / "ema_curves.csv")
    write_table(means, folder / "ema_curves_mean.csv")
    write_table(means if several else rows, folder / "ema_curves.md")
    caption = "Fréchet distance against EMA length σ_rel. Lower is better; circles mark the minima."
    if several:
        caption += MEANS
    body = chart(figure, caption)
    if several:
        body += collapsed("Means over trainings", table(means))
    if main_metric(networks)["singular"].any():
        body += paragraph(SINGULAR)
    if networks["at_chance"].any():
        body += paragraph(AT_CHANCE)
    if main_metric(networks)["reference"].isna().any():
        body += paragraph(PUBLISHED)
    for config, best in outputs.best_networks.items():
        body += paragraph(_best_sentence(config, best))
    return [("EMA length", body + paragraph(_selection_note(outputs)))]


def _best_sentence(config: str, best: pd.DataFrame) -> str:
    """The best network of each training of a config, in words."""
    length, value = f"{best['ema_length'].mean():.3g}", value_in_words(best.iloc[0])
    if len(best) > 1:
        length += f" on average ({listed(best['ema_length'].tolist())})"
        mean, low, high = mean_and_interval(best["value"].tolist())
        value = (
            f"{best['metric'].iloc[0]} = {mean:.4g} [{low:.4g}, {high:.4g}] on {valued_on(best)}, "
            f"the mean of {len(best)} trainings"
        )
    if (best["average"] == "traditional").all():
        text = f"Config {config}: one traditional EMA of length {length}, {value}."
    else:
        text = f"Config {config}: best EMA length {length}, {value}."
    if count := best["at_edge"].sum():
        where = "This" if len(best) == 1 else f"In {count} of {len(best)} trainings this"
        text += (
            f" {where} is the edge of the grid, so the optimum may lie outside. Widen "
            "sweep.ema_lengths."
        )
    return text


def _selection_note(outputs: StageOutputs) -> str:
    note = (
        "All networks of a curve use the same seeds, so differences along the curve are more reliable than "
        "its single values."
    )
    if any(SAME_IMAGES in valued_on(best) for best in outputs.best_networks.values()):
        note += (
            " The best EMA length was chosen with the same samples that give its value, so the value is "
            "optimistic. Set evaluation.confirm to evaluate the best network again on fresh seeds, or "
            "evaluation.seed_blocks to 3."
        )
    return note


def ablation_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """The best network of each config beside the paper's."""
    ablation = ablation_table(outputs.networks, outputs.nonfinite_steps)
    write_table(ablation, folder / "ablation.csv", folder / "ablation.md")
    note = (
        "Our values and the paper's differ in dataset, detector and sample count (see the column "
        "names). Compare configs within one side, never our values with the paper's."
    )
    if outputs.several_trainings:
        note += ABLATION_MEANS
    body = table(ablation) + paragraph(note)
    if outputs.networks["at_chance"].any():
        body += paragraph(AT_CHANCE)
    if outputs.nonfinite_steps:
        body += paragraph(NOT_FINITE)
    return [("Ablation", body)]


def baselines_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """Generated, held-out and reconstructed images, with one metric and sample count."""
    baselines = baseline_table(outputs.networks, outputs.metrics("baselines"))
    if baselines.empty:
        body = paragraph("There are no held-out images, or too few for a Fréchet distance.")
    elif not baselines["images"].str.startswith("generated").any():
        body = table(baselines) + paragraph(
            "Generated images are missing here: there are more held-out images than "
            "evaluation.samples, and values of different sample counts cannot be compared."
        )
    else:
        body = table(baselines) + paragraph(_baselines_note(outputs, baselines))
    if outputs.networks["at_chance"].any():
        body += paragraph(AT_CHANCE)
    return [("Baselines", body)]


def _baselines_note(outputs: StageOutputs, baselines: pd.DataFrame) -> str:
    with_classifier = baselines["metric"].str.startswith("fd_classifier").all()
    trained = "Generator and detector were both" if with_classifier else "The generator was"
    note = (
        "All values are distances to the same real images, with the same metric and sample count. "
        "Held-out images are what a perfect generator would produce; their reconstructions show "
        f"the cost of the VAE. {trained} trained on the training images: a value below that of "
        "held-out images means that generated images are closer to the training images than fresh "
        "real images are, not that the generator is better than perfect."
    )
    if with_classifier:
        accuracy = outputs.metrics("features")["accuracy_held_out"]
        note += f" The detector is a classifier with {accuracy:.1%} accuracy on held-out images."
    return note


def vae_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """How well the VAE reconstructs images, and its training curves."""
    metrics, curves = outputs.metrics("vae"), outputs.vae_training
    panels = [placeholder_chart(NOT_TRAINED)] if curves.empty else vae_panels(curves)
    write_panels(panels, folder / "vae.png", columns=3)
    write_table(vae_quality(curves), folder / "vae.csv")
    if not metrics:
        return [("VAE", paragraph(NO_IMAGES))]
    psnr = (
        f"PSNR {metrics['psnr']:.2f} dB"
        if "psnr" in metrics
        else "infinite PSNR (of one exact reconstruction or more)"
    )
    distances = "".join(
        f", perceptual distance ({key.removeprefix('perceptual_')}) {value:.4g}"
        for key, value in metrics.items()
        if key.startswith("perceptual_")
    )
    distances += "".join(
        f", Fréchet distance to their images {key} = {value:.4g}"
        for key, value in metrics.items()
        if key.startswith(("rfd_", "rfid_"))
    )
    count = metrics["evaluated_images"]
    text = f"On {count:.0f} held-out images: {psnr}, SSIM {metrics['ssim']:.4g}{distances}."
    skipped = sum(value for key, value in metrics.items() if key.startswith("skipped_images/"))
    if skipped:
        text += f" {skipped:.0f} damaged images of vae.images were skipped (runtime.skip_images)."
    text += "".join(f" {clipped}." for clipped in clipped_values(metrics))
    if curves.empty:
        text += " No VAE was trained in this project."
    with_classifier = any(
        k.startswith(("perceptual_classifier", "rfd_classifier_")) for k in metrics
    )
    if with_classifier and outputs.metrics("features")["at_chance"]:
        text += FEATURES_AT_CHANCE
    if mark := nonfinite_steps(curves):
        text += f" Training not finite: {mark}."
    grid = outputs.folder / "vae/reconstructions.png"
    body = paragraph(text) + picture(grid, "Held-out images and their reconstructions.", sharp=True)
    body += vae_progress(outputs)
    if not curves.empty:
        caption = "Training curves of the VAE, first those of held-out images."
        caption += THINNED + gaps_note(vae_gaps(curves))
        body += shown_panels(panels, caption)
    return [("VAE", body)]


def vae_ema_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """The quality of reconstructions against the EMA length of the VAE's weights, if it was evaluated."""
    table, figure = outputs.vae_ema, folder / "vae_ema.png"
    panels = ema_panels(table)
    write_panels(panels or [placeholder_chart(NOT_AVERAGED)], figure, columns=3)
    if not panels:
        return []
    return [("EMA of the VAE", shown_panels(panels, CAPTION) + paragraph(best_in_words(table)))]


def networks_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """A table of all networks."""
    networks = networks_table(outputs.networks)
    write_table(networks, folder / "networks.csv")
    note = paragraph(AT_CHANCE) if outputs.networks["at_chance"].any() else ""
    return [("All networks", table(networks) + note)]
