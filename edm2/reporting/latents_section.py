"""The section of the report's page about the latents that the denoisers are trained on."""

from pathlib import Path

import pandas as pd

from edm2.reporting.charts import Quantity, Spec, curves_chart, placeholder_chart
from edm2.reporting.page import Section, paragraph, table
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.time_charts import PANEL_WIDTH, shown_panels, write_panels

SPECTRUM = (
    "Spectrum: power by frequency, a mean over channels that are each normalized to variance 1, so that "
    "white noise would be a flat line at 1; the images are normalized alike. Where noise of level σ has more "
    "power than the latents, (σ / 0.5)², it hides them. Latents with less power at high frequencies are "
    "usually easier to diffuse."
)
ROBUSTNESS = (
    "Decoding with noise: how well held-out images are decoded from their latents, normalized to a standard "
    "deviation of 0.5 as the denoiser sees them, plus noise of level σ. A denoiser's errors act like such "
    "noise: where the curve falls early, small errors cost much."
)
CHANNELS = (
    "Channels of the latents: mean, std, skewness, kurtosis (3 for a normal distribution) and correlations "
    "are of their means, on the codec's own scale. noise_std is the encoder's own noise, noise_sigma the "
    "same as a noise level of the diffusion. Correlated channels repeat each other."
)
NO_IMAGES = (
    "The data set has latents and no images, so there is no spectrum of images, and the decoder's robustness "
    "to noise is not known."
)
FREQUENCY = Quantity("frequency", "frequency (cycles per image)", log=True)
POWER = Quantity("power", "power (white noise: 1)", log=True)
SIGMA = Quantity("sigma", "noise level σ", log=True)
PSNR = Quantity("psnr", "PSNR on held-out images (dB)")
NONE = pd.DataFrame(columns=["series", "training"])


def latents_section(outputs: StageOutputs, folder: Path) -> list[Section]:
    """Spectrum of the latents, robustness of the decoder, and statistics of channels."""
    spectrum, robustness = outputs.latents("spectrum"), outputs.latents("robustness")
    panels = [_spectrum_panel(spectrum)] + (
        [_robustness_panel(robustness)] if len(robustness) else []
    )
    write_panels(panels, folder / "latents.png", columns=2)
    body = shown_panels(panels, SPECTRUM + (f" {ROBUSTNESS}" if len(robustness) else ""))
    body += table(robustness) if len(robustness) else paragraph(NO_IMAGES)
    return [("Latents", body + table(outputs.latents("channels")) + paragraph(CHANNELS))]


def _spectrum_panel(spectrum: pd.DataFrame) -> Spec:
    """Of frequencies above 0; latents of one pixel have none."""
    rows = spectrum[(spectrum["frequency"] > 0) & (spectrum["power"] > 0)]
    if rows.empty:
        return placeholder_chart("no frequencies")
    hover = {
        "signal": "of",
        "frequency": "cycles per image",
        "power": "power",
        "sigma": "as noise σ",
    }
    return _panel("Spectrum", rows.assign(series=rows["signal"]), FREQUENCY, POWER, hover)


def _robustness_panel(robustness: pd.DataFrame) -> Spec:
    """Of noise levels above 0."""
    rows = robustness[robustness["sigma"] > 0].assign(series="PSNR")
    hover = {"sigma": "σ", "psnr": "PSNR in dB", "ssim": "SSIM"}
    perceptual = [str(name) for name in rows if str(name).startswith("perceptual_")]
    hover |= {name: name.replace("_", " ") for name in perceptual}
    return _panel("Decoding with noise", rows, SIGMA, PSNR, hover)


def _panel(title: str, rows: pd.DataFrame, x: Quantity, y: Quantity, hover: dict[str, str]) -> Spec:
    spec = curves_chart(
        rows.assign(low=float("nan"), high=float("nan")), NONE, rows[:0], x, y, hover, height=220
    )
    return {**spec, "title": title, "usermeta": {"static_width": PANEL_WIDTH}}
