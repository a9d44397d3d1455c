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
    from edm2.runtime.progress import Progress
    from stages.evaluation import Evaluator

    config, folder = place.config, Path(f"models/sweep/{place.config}")
    networks = read_manifest(folder)["networks"]
    evaluator = Evaluator(place.params, config, place.device)
    samples = place.out(f"reports/samples/{config}")

    def grid_of(sigma_rel: float) -> Path:
        return samples / f"sigma_rel-{sigma_rel!r}.png"

    rows: list[dict[str, Any]] = []
    images = place.params.evaluation.samples
    progress = Progress(place.title, len(networks) * images, "img")
    for k, network in enumerate(networks):
        done = place.state.folder / f"{network['file']}.json"
        if not done.exists():
            generated = evaluator.generate(folder / network["file"], progress)
            if ranks().first:
                write_class_grid(grid_of(network["sigma_rel"]), generated.images,
                                 generated.labels, evaluator.classes)  # fmt: skip
                found = [{"config": config, **network, **row} for row in evaluator.rows(generated)]
                write_json(done, found)
                curve = {f"ema_curve/{row['metric']}": row["value"] for row in found}
                place.run.log(round(1000 * network["sigma_rel"]), curve, axis="sigma_rel_permille")
        progress.advance((k + 1) * images - progress.done)
        if ranks().first:
            rows += json.loads(done.read_text(encoding="utf-8"))
    progress.close()
    if ranks().first:
        table = pd.DataFrame(rows).drop(columns="file")
        write_text(place.out(f"reports/fid/{config}.csv"), table.to_csv(index=False))
        best, figure = best_of(table), place.state.folder / "ema_curve.png"
        sigma_rel = float(best["sigma_rel"])
        place.run.summary({str(best["metric"]): float(best["value"]), "sigma_rel": sigma_rel})
        draw_ema_curves(table, figure)
        for picture in (figure, grid_of(sigma_rel)):
            place.run.artifact(picture)


if __name__ == "__main__":
    main(work)
