"""networks, images, vae, features → reports/fid/X.csv, reports/samples/X: what networks make."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.entry import Place, main

if TYPE_CHECKING:
    import pandas as pd

    from stages.evaluation import Evaluator, Network

Row = dict[str, Any]


def work(place: Place) -> None:
    """Generate images with every network of the sweep, at every strength of guidance, and measure
    them; the best ones twice.
    """
    import pandas as pd

    from edm2.reporting.curves import bests_of
    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import write_text
    from stages.evaluation import Evaluator

    bench = Bench(place, Evaluator(place.params, place.config, place.device))
    evaluation, strengths = place.params.evaluation, place.params.guidance.strength
    rows = [row for network in bench.networks for strength in strengths
            for row in bench.measured(network, strength, "sweep", evaluation.first_seed)]  # fmt: skip
    if evaluation.confirm:
        for best in bests_of(pd.DataFrame(rows)):
            (network,) = (n for n in bench.networks if Path(n["file"]).stem == best["network"])
            rows += bench.measured(network, float(best["guidance"]), "fresh",
                                   evaluation.first_seed + evaluation.samples)  # fmt: skip
    bench.progress.close()
    if ranks().first:
        table = pd.DataFrame(rows)
        write_text(place.out(f"reports/fid/{place.config}.csv"), table.to_csv(index=False))
        log(place, table)


class Bench:
    """Measures networks one by one; what is measured is kept, so that an interrupted stage goes on
    with the next.
    """

    def __init__(self, place: Place, evaluator: "Evaluator") -> None:
        from edm2.runtime.manifest import read_manifest
        from edm2.runtime.progress import Progress

        self.place, self.evaluator = place, evaluator
        self.folder = Path(f"models/sweep/{place.config}")
        self.networks: list[Network] = read_manifest(self.folder)["networks"]
        evaluation, strengths = place.params.evaluation, place.params.guidance.strength
        confirmed = evaluation.confirm * len({strength == 1 for strength in strengths})
        rounds = len(self.networks) * len(strengths) + confirmed
        self.progress = Progress(place.title, rounds * evaluation.samples, "img")

    def measured(
        self, network: "Network", strength: float, seeds: str, first_seed: int
    ) -> list[Row]:
        """Rows of the table."""
        from edm2.runtime.distributed import barrier
        from edm2.runtime.files import write_json

        place, name = self.place, Path(network["file"]).stem
        done = place.state.folder / f"{name}-w{strength!r}-{first_seed}.json"
        before = self.progress.done
        if not done.exists():
            generated = self.evaluator.generate(self.folder, network, strength, first_seed,
                                                self.progress)  # fmt: skip
            if generated is not None:
                if seeds == "sweep":
                    self._picture(name, strength, generated.images, generated.labels)
                facts = {k: v for k, v in network.items() if k not in ("file", "guide")}
                common = {"config": place.config, "network": name, **facts, "seeds": seeds}
                write_json(done, [{**common, **row} for row in
                                  self.evaluator.rows(generated, strength, first_seed)])  # fmt: skip
            barrier()
        self.progress.advance(before + place.params.evaluation.samples - self.progress.done)
        found: list[Row] = json.loads(done.read_text(encoding="utf-8"))
        return found

    def _picture(self, name: str, strength: float, images: Any, labels: Any) -> None:
        from edm2.reporting.grids import grid_name, write_class_grid

        path = self.place.out(f"reports/samples/{self.place.config}") / grid_name(name, strength)
        write_class_grid(path, images, labels, self.evaluator.classes)


def log(place: Place, table: "pd.DataFrame") -> None:
    """EMA curves of all measures, the best network and its pictures, for MLflow."""
    from edm2.reporting.curves import best_of, draw_ema_curves, ema_curve, measures_of
    from edm2.reporting.grids import grid_name

    for _, row in ema_curve(table).iterrows():
        values = {f"ema_curve/{k}": value for k, value in measures_of(table, row).items()}
        place.run.log(round(1000 * row["sigma_rel"]), values, axis="sigma_rel_permille")
    best = best_of(table)
    found = {key: float(best[key]) for key in ("sigma_rel", "guidance")}
    place.run.summary({**measures_of(table, best), **found})
    figure = place.state.folder / "ema_curve.png"
    draw_ema_curves(table, figure)
    samples = place.out(f"reports/samples/{place.config}")
    picture = samples / grid_name(best["network"], best["guidance"])
    for path in (figure, picture):
        place.run.artifact(path)


if __name__ == "__main__":
    main(work)
