"""networks, reference, vae, features → reports/fid/X.csv, reports/samples/X: what networks make."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.detection import outside
from stages.entry import Place, main

if TYPE_CHECKING:
    import pandas as pd

    from stages.evaluation import Evaluator, Generated, Network

Row = dict[str, Any]


def work(place: Place) -> None:
    """Generate images with every network of the sweep, at every strength of guidance, and measure
    them; the best ones twice.
    """
    import pandas as pd

    from edm2.reporting.curves import best_of, bests_of
    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import write_text
    from stages.evaluation import Evaluator

    bench = Bench(place, Evaluator(place.params, place.config, place.device))
    evaluation, strengths = place.params.evaluation, place.params.guidance.strength
    first, size = evaluation.first_seed, evaluation.blocks * evaluation.samples
    rows = [
        row
        for network in bench.networks
        for strength in strengths
        for seed in range(first, first + size, evaluation.samples)
        for row in bench.measured(network, strength, "sweep", seed)
    ]
    if evaluation.confirm:
        for best in bests_of(pd.DataFrame(rows)):
            (network,) = (n for n in bench.networks if Path(n["file"]).stem == best["network"])
            for seed in range(first + size, first + 2 * size, evaluation.samples):
                rows += bench.measured(network, float(best["guidance"]), "fresh", seed)
    bench.progress.close()
    if ranks().first:
        table = pd.DataFrame(rows)
        write_text(place.out(f"reports/fid/{place.config}.csv"), table.to_csv(index=False))
        bench.draw_strips(best_of(table))
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
        rounds = (len(self.networks) * len(strengths) + confirmed) * evaluation.blocks
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
            generated = self.evaluator.generate(
                self.folder, network, strength, first_seed, self.progress
            )
            if generated is not None:
                if seeds == "sweep" and first_seed == place.params.evaluation.first_seed:
                    self._picture(name, strength, generated)
                facts = {k: v for k, v in network.items() if k not in ("file", "guide")}
                common = {"config": place.config, "network": name, **facts, "seeds": seeds}
                write_json(
                    done,
                    [
                        {**common, **row}
                        for row in self.evaluator.rows(generated, strength, first_seed)
                    ],
                )
            barrier()
        self.progress.advance(before + place.params.evaluation.samples - self.progress.done)
        found: list[Row] = json.loads(done.read_text(encoding="utf-8"))
        return found

    def _picture(self, name: str, strength: float, generated: "Generated") -> None:
        from safetensors.torch import save_file

        from edm2.reporting.grids import grid_name, write_class_grid

        images, labels = generated.images.contiguous(), generated.labels
        save_file({"images": images, "labels": labels}, self._shown(name, strength))
        path = self.place.out(f"reports/samples/{self.place.config}") / grid_name(name, strength)
        write_class_grid(path, images, labels, self.evaluator.classes)

    def _shown(self, name: str, strength: float) -> Path:
        """Images of the first seeds, kept for strips."""
        return self.place.state.folder / f"{name}-w{strength!r}.safetensors"

    def draw_strips(self, best: "pd.Series") -> None:
        """The same seeds at every EMA length, and at every strength, beside the best network."""
        from safetensors.torch import load_file

        from edm2.reporting.grids import write_strips

        strengths = self.place.params.guidance.strength
        alike = [n for n in self.networks if (n["tensors"], n["nimg"]) == ("all", best["nimg"])]
        lengths = {
            f"{n['sigma_rel']:g}": (Path(n["file"]).stem, float(best["guidance"]))
            for n in sorted(alike, key=lambda n: float(n["sigma_rel"]))
        }
        guided = {f"w = {w:g}": (str(best["network"]), w) for w in strengths}
        folder = self.place.out(f"reports/samples/{self.place.config}")
        for kind, rows in (("lengths", lengths), ("strengths", guided)):
            found = {label: load_file(self._shown(*key)) for label, key in rows.items()}
            if len(found) > 1:
                write_strips(folder / kind, found)


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
    main(work, outside)
