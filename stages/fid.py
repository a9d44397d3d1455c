"""networks, images, vae, features → reports/fid/X.csv, reports/samples/X: what networks make."""

import json
from pathlib import Path
from typing import Any

from stages.entry import Place, main


def work(place: Place) -> None:
    """Generate images with every network of the sweep and measure them."""
    import pandas as pd

    from edm2.reporting.curves import best_of, draw_ema_curves
    from edm2.reporting.grids import write_class_grid
    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import write_json, write_text
    from edm2.runtime.manifest import read_manifest
    from edm2.runtime.progress import track
    from stages.evaluation import Evaluator

    config, evaluation = place.config, place.params.evaluation
    folder = Path(f"models/sweep/{config}")
    networks = read_manifest(folder)["networks"]
    evaluator = Evaluator(place.params, config, place.device)
    samples = place.out(f"reports/samples/{config}")
    rows: list[dict[str, Any]] = []
    for network in track(networks, place.title, len(networks), "network"):
        done = place.state.folder / f"{network['file']}.json"
        if not done.exists():
            generated = evaluator.generate(folder / network["file"])
            if ranks().first:
                grid = samples / f"sigma_rel-{network['sigma_rel']!r}.png"
                write_class_grid(grid, generated.images, evaluator.classes)
                found = evaluator.measure(generated)
                write_json(done, [
                    {"config": config, **network, "guidance": 1.0, "metric": name, "value": value,
                     "detector": evaluation.detector, "samples": count,
                     "first_seed": evaluation.first_seed}
                    for name, (count, value) in found.items()])  # fmt: skip
        if ranks().first:
            new = json.loads(done.read_text())
            place.run.log(round(1000 * network["sigma_rel"]), axis="sigma_rel_permille",
                          metrics={f"ema_curve/{row['metric']}": row["value"] for row in new})  # fmt: skip
            rows += new
    if ranks().first:
        table = pd.DataFrame(rows).drop(columns="file")
        write_text(place.out(f"reports/fid/{config}.csv"), table.to_csv(index=False))
        best = best_of(table)
        place.run.summary({str(best["metric"]): float(best["value"]),
                           "sigma_rel": float(best["sigma_rel"])})  # fmt: skip
        place.run.artifact(samples / f"sigma_rel-{float(best['sigma_rel'])!r}.png", "samples")
        figure = place.state.folder / "ema_curve.png"
        draw_ema_curves(table, figure)
        place.run.artifact(figure)


if __name__ == "__main__":
    main(work)
