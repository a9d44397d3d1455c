"""Fails if the report of the default pipeline lacks what it must show."""

import json
import sys
from pathlib import Path

import pandas as pd

REPORTS = Path("reports")
HEADINGS = ("EMA length", "Ablation", "Samples", "How good is that?", "Autoencoder", "Training")
FILES = (
    "ablation.csv",
    "ablation.md",
    "ema_curves.csv",
    "ema_curves.md",
    "ema_curves.png",
    "ema_curves.svg",
    "vae.png",
    "training.png",
)


def complaints() -> list[str]:
    page = (REPORTS / "index.html").read_text(encoding="utf-8")
    metrics = json.loads((REPORTS / "metrics.json").read_text(encoding="utf-8"))
    curve = pd.read_csv(REPORTS / "ema_curves.csv")
    baselines = [key for key in metrics if key.startswith("baselines/")]
    checks = {
        "headings of the page": all(f">{heading}</h2>" in page for heading in HEADINGS),
        "five pictures inside the page": page.count('src="data:image/') >= 5,
        "no address that needs a network": "https://" not in page,
        "tables and figures as files": all((REPORTS / name).stat().st_size > 0 for name in FILES),
        "a classifier that reads 97 % of held-out images": metrics["features/accuracy_held_out"]
        >= 0.97,
        "a VAE of 24 dB": metrics["vae/psnr"] >= 24,
        "both baselines": len(baselines) == 2,
        "an EMA-length curve": curve["ema_length"].nunique() >= 8,
        "reconstructions near the profiles asked for": curve["error"].max() < 0.05,
    }
    return [name for name, fine in checks.items() if not fine]


if __name__ == "__main__":
    missing = complaints()
    print("the report lacks: " + "; ".join(missing) if missing else "the report shows all it must")
    sys.exit(bool(missing))
