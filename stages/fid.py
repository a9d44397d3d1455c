"""networks, images, vae, features → reports/fid/X.csv, reports/samples/X: what networks make."""

import json
from pathlib import Path
from typing import Any

from stages.entry import Place, main


def work(place: Place) -> None:
    """Generate images with every network of the sweep and measure them; the best one twice."""
    import pandas as pd

    from edm2.reporting.curves import best_of, draw_ema_curves
    from edm2.reporting.grids import write_class_grid
    from edm2.runtime.distributed import barrier, ranks
    from edm2.runtime.files import write_json, write_text
    from edm2.runtime.manifest import read_manifest
    from edm2.runtime.progress import Progress
    from stages.evaluation import Evaluator

    config, folder = place.config, Path(f"models/sweep/{place.config}")
    networks = read_manifest(folder)["networks"]
    evaluation = place.params.evaluation
    evaluator = Evaluator(place.params, config, place.device)
    samples = place.out(f"reports/samples/{config}")
    rounds = len(networks) + evaluation.confirm
    progress = Progress(place.title, rounds * evaluation.samples, "img")

    def measured(network: dict[str, Any], seeds: str, first_seed: int) -> list[dict[str, Any]]:
        """Rows of the table; kept, so that an interrupted stage goes on with the next network."""
        name = Path(network["file"]).stem
        done = place.state.folder / f"{name}-{first_seed}.json"
        before = progress.done
        if not done.exists():
            generated = evaluator.generate(folder / network["file"], first_seed, progress)
            if ranks().first:
                if seeds == "sweep":
                    write_class_grid(samples / f"{name}.png", generated.images, generated.labels,
                                     evaluator.classes)  # fmt: skip
                facts = {key: value for key, value in network.items() if key != "file"}
                write_json(done, [{"config": config, "network": name, **facts, "seeds": seeds, **row}
                                  for row in evaluator.rows(generated, first_seed)])  # fmt: skip
            barrier()
        progress.advance(before + evaluation.samples - progress.done)
        found: list[dict[str, Any]] = json.loads(done.read_text(encoding="utf-8"))
        return found

    rows = [row for n in networks for row in measured(n, "sweep", evaluation.first_seed)]
    best = best_of(pd.DataFrame(rows))
    if evaluation.confirm:
        (network,) = (n for n in networks if Path(n["file"]).stem == best["network"])
        rows += measured(network, "fresh", evaluation.first_seed + evaluation.samples)
    progress.close()
    if ranks().first:
        table = pd.DataFrame(rows)
        write_text(place.out(f"reports/fid/{config}.csv"), table.to_csv(index=False))
        for row in rows:
            if row["seeds"] == "sweep" and row["tensors"] == "all" and row["nimg"] == best["nimg"]:
                place.run.log(round(1000 * row["sigma_rel"]),
                              {f"ema_curve/{row['metric']}": row["value"]},
                              axis="sigma_rel_permille")  # fmt: skip
        figure, sigma_rel = place.state.folder / "ema_curve.png", float(best["sigma_rel"])
        place.run.summary({str(best["metric"]): float(best["value"]), "sigma_rel": sigma_rel})
        draw_ema_curves(table, figure)
        for picture in (figure, samples / f"{best['network']}.png"):
            place.run.artifact(picture)


if __name__ == "__main__":
    main(work)
