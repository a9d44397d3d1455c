"""all results → reports: tables, curves, one page."""

from pathlib import Path

from stages.entry import Place, main


def work(place: Place) -> None:
    """Build the tables, figures and index.html from what the other stages left."""
    from edm2.reporting.findings import Findings
    from edm2.reporting.report import write_report

    folder = place.out("reports/index.html").parent
    write_report(Findings(Path("reports"), place.params.configs), folder)
    for name in (
        "index.html",
        "ema_curves.png",
        "ablation.csv",
        "training.png",
        "magnitudes.png",
        "updates.png",
    ):
        place.run.artifact(folder / name)


if __name__ == "__main__":
    main(work)
