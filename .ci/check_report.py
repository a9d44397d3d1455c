"""Exits with status 1 if the report of the default pipeline is incomplete."""

import json
import re
import sys
from pathlib import Path

import pandas as pd

REPORTS = Path("reports")
HEADINGS = ("EMA length", "Ablation", "Samples", "Baselines", "VAE", "Training")
FILES = (
    "ablation.csv",
    "ablation.md",
    "ema_curves.csv",
    "ema_curves.md",
    "ema_curves_mean.csv",
    "ema_curves.png",
    "ema_curves.svg",
    "forest.svg",
    "vae.png",
    "training.png",
)


def failed_checks() -> list[str]:
    page = (REPORTS / "index.html").read_text(encoding="utf-8")
    metrics = json.loads((REPORTS / "metrics.json").read_text(encoding="utf-8"))
    curve = pd.read_csv(REPORTS / "ema_curves.csv")
    baselines = [key for key in metrics if key.startswith("baselines/")]
    checks = {
        "all headings": all(f">{heading}</h2>" in page for heading in HEADINGS),
        "at least 5 embedded images": page.count('src="data:image/') >= 5,
        "nothing from the network": not re.search(r"(?:src|href)=\W?https?:", page),
        "tables and figures as files": all((REPORTS / name).stat().st_size > 0 for name in FILES),
        "classifier accuracy of at least 97 %": metrics["features/accuracy_held_out"] >= 0.97,
        "VAE PSNR of at least 24 dB": metrics["vae/psnr"] >= 24,
        "both baselines": len(baselines) == 2,
        "EMA curve with at least 8 lengths": curve["ema_length"].nunique() >= 8,
        "reconstruction errors below 5 %": curve["error"].max() < 0.05,
    }
    return [name for name, passed in checks.items() if not passed]


if __name__ == "__main__":
    failed = failed_checks()
    print("report: failed checks: " + "; ".join(failed) if failed else "report: all checks passed")
    sys.exit(bool(failed))
