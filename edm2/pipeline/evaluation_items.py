"""Work items of an evaluation: networks on seed blocks, which any number of launches share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from edm2.data.latents import read_latent_space
from edm2.diffusion.precision import denoiser_precision
from edm2.metrics.statistics import Statistics
from edm2.params import Params, UserError
from edm2.params.replicates import Replicate
from edm2.pipeline.evaluator import Evaluator, GeneratedImages
from edm2.pipeline.networks import ALL, SweptNetwork
from edm2.pipeline.paths import LATENTS, sweep_folder
from edm2.reporting.grids import grid_name, write_class_grid, write_strips
from edm2.runtime.checked_json import read_checked, write_checked
from edm2.runtime.distributed import on_main_process
from edm2.runtime.files import link, replacing, require_sha256, sha256
from edm2.runtime.progress import Progress
from edm2.runtime.state import State
from edm2.runtime.work_items import claimed_items, result_of

Row = dict[str, Any]
SAME_COMMAND = "run the same command again: only this item is evaluated again."
REMEDY = f"Remove it and {SAME_COMMAND}"


@dataclass(frozen=True)
class Evaluation:
    """A work item: one network at one guidance strength, with one seed block.

    Attributes:
        seeds: "sweep" or "fresh", for the table.
    """

    network: SweptNetwork
    strength: float
    seeds: Literal["sweep", "fresh"]
    first_seed: int

    @property
    def name(self) -> str:
        return f"{self.network.name}-w{self.strength!r}-{self.first_seed}"


class ItemEvaluator:
    """Evaluates items. The results of each are saved when it is done, so that an interrupted launch continues
    with the next item.
    """

    def __init__(
        self,
        title: str,
        params: Params,
        replicate: Replicate,
        device: torch.device,
        state: State,
        keeps_moments: bool,
    ) -> None:
        """
        Args:
            keeps_moments: whether the moments of the features are saved beside the results of each item,
                8·D² bytes for D feature dimensions.
        """
        latents = read_latent_space(LATENTS)
        config = replicate.config
        params = denoiser_precision(params, config, latents, state.folder, device, trains=False)
        self.title, self.params, self.replicate = title, params, replicate
        self.keeps_moments = keeps_moments
        self.folder, self.run = state.items, state.folder.name
        self.folder.mkdir(exist_ok=True, parents=True)
        self.evaluator = Evaluator(params, config, device)
        self._asked: set[str] = set()
        self.progress = Progress(title, 0, "img", self._images_done())

    def first_seeds(self, block: int, count: int) -> list[int]:
        """The first seeds of `count` seed blocks from number `block` on."""
        evaluation = self.params.evaluation
        return [evaluation.first_seed + k * evaluation.samples for k in range(block, block + count)]

    def complete(self, items: Sequence[Evaluation]) -> list[Row]:
        """The rows of these items, after evaluating those that no launch has evaluated.

        Raises:
            UserError: results are damaged; names all of them.
        """
        by_name = {item.name: item for item in items}
        new = by_name.keys() - self._asked
        self._asked |= new
        self.progress.extend(len(new) * self.params.evaluation.samples)
        groups = {
            network: [item.name for item in group]
            for network, group in groupby(items, lambda item: item.network.name)
        }
        on_main_process(lambda: self._read(i for i in items if self._result(i).exists()))
        with claimed_items(self.folder, groups, self.title) as names:
            for name in names:
                self._evaluate(by_name[name])
                self.progress.advance(self._images_done() - self.progress.done)
        return on_main_process(lambda: self._read(items))

    def publish_pictures(self, items: Iterable[Evaluation], folder: Path, best: pd.Series) -> None:
        """The grids of all networks, and strips: the same seeds at every EMA length, and at every
        guidance strength with the best network.

        Args:
            best: the row of the best network.
        """
        grids = [item for item in items if self._has_grid(item)]
        for item in grids:
            link(self._verified(item, "png"), folder / grid_name(item.network.name, item.strength))
        uniform = [
            item
            for item in sorted(grids, key=lambda item: item.network.ema_length)
            if (item.network.tensors, item.network.nimg) == (ALL, best["nimg"])
        ]
        lengths = {
            f"{item.network.ema_length:g}": item
            for item in uniform
            if item.strength == best["guidance"]
        }
        guided = {
            f"w = {item.strength:g}": item for item in grids if item.network.name == best["network"]
        }
        for kind, strip in (("lengths", lengths), ("strengths", guided)):
            if len(strip) > 1:
                images = {
                    label: load_file(self._verified(item, "safetensors"))
                    for label, item in strip.items()
                }
                write_strips(folder / kind, images)

    def _evaluate(self, item: Evaluation) -> None:
        generated = self.evaluator.generate(
            sweep_folder(self.replicate),
            item.network,
            item.strength,
            item.first_seed,
            self.progress,
        )
        if generated is None:
            return
        files = [self._save_moments(item, generated)] if self.keeps_moments else []
        if self._has_grid(item):
            files += self._draw_grid(item, generated)
        common = {
            "config": self.replicate.config,
            "training_seed": self.replicate.seed,
            "network": item.network.name,
            **item.network.columns,
            "seeds": item.seeds,
        }
        rows = self.evaluator.rows(generated, item.strength, item.first_seed)
        rows = [{**common, **row} for row in rows]
        content = {"rows": rows, "files": {path.name: sha256(path) for path in files}}
        write_checked(self._result(item), content, self._owner(item))

    def moments(self, item: Evaluation) -> Statistics:
        """The moments of the features of an item that is done.

        Raises:
            UserError: they are damaged.
        """
        tensors = load_file(self._verified(item, "moments"))
        count, mean, scatter = (tensors[key].numpy() for key in ("count", "mean", "scatter"))
        return Statistics(int(count), mean, scatter)

    def _save_moments(self, item: Evaluation, generated: GeneratedImages) -> Path:
        """Save the moments of an item's features; returns the file."""
        moments = generated.features.moments[self.params.evaluation.samples]
        tensors = {
            "mean": torch.from_numpy(moments.mean),
            "scatter": torch.from_numpy(moments.scatter),
        }
        path = self._file(item, "moments")
        with replacing(path) as temporary:
            save_file({"count": torch.tensor(moments.count), **tensors}, temporary)
        return path

    def _verified(self, item: Evaluation, ending: str) -> Path:
        """A file beside an item's results, after comparing it with its checksum there."""
        path, result = self._file(item, ending), self._result(item)
        expected = self._content(item)["files"][path.name]
        checksum = sha256(path) if path.is_file() else "missing"
        remedy = f"Remove {result} and {SAME_COMMAND}"
        require_sha256(path, checksum, expected, f"as in {result}", remedy)
        return path

    def _content(self, item: Evaluation) -> dict[str, Any]:
        return read_checked(self._result(item), REMEDY, REMEDY, self._owner(item))

    def _owner(self, item: Evaluation) -> str:
        return f"{self.run}/{item.name}"

    def _read(self, items: Iterable[Evaluation]) -> list[Row]:
        """
        Raises:
            UserError: results are damaged; names all of them.
        """
        rows, problems = [], []
        for item in items:
            try:
                rows += self._content(item)["rows"]
            except UserError as problem:
                problems.append(str(problem))
        if problems:
            raise UserError("\n".join(problems))
        return rows

    def _result(self, item: Evaluation) -> Path:
        return result_of(self.folder, item.name)

    def _images_done(self) -> int:
        """Images of the items that have results, of all launches."""
        return len(list(self.folder.glob("*.json"))) * self.params.evaluation.samples

    def _has_grid(self, item: Evaluation) -> bool:
        return (item.seeds, item.first_seed) == ("sweep", self.params.evaluation.first_seed)

    def _file(self, item: Evaluation, ending: str) -> Path:
        """A file beside an item's results: png: the picture of its grid; safetensors: the grid's images, for
        the strips; moments.
        """
        return self.folder / f"{item.name}.{ending}"

    def _draw_grid(self, item: Evaluation, generated: GeneratedImages) -> list[Path]:
        """Save the images of an item's grid, and its picture; returns the files."""
        images, labels = generated.images.contiguous(), generated.labels.contiguous()
        tensors, picture = self._file(item, "safetensors"), self._file(item, "png")
        with replacing(tensors) as temporary:
            save_file({"images": images, "labels": labels}, temporary)
        write_class_grid(picture, images, labels, self.evaluator.classes)
        return [tensors, picture]
