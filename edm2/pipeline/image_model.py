"""A portable network as a model of MLflow: `mlflow.pyfunc.load_model(URI).predict(table)`.

MLflow imports this module, which `edm2.pipeline.best_model` names, and calls `_load_pyfunc`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from edm2.diffusion.inference import prepare_for_inference
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.params.evaluation import Sampling
from edm2.pipeline.portable import PortableNetwork, read_portable
from edm2.runtime.delivery.models import NETWORK
from edm2.runtime.device import use_full_float32
from edm2.runtime.finite import listed, nonfinite_rows
from edm2.sampling.generate import SampleBatch, generate, seed_labels
from edm2.sampling.guidance import ConditionalDenoise, guided, without_labels

if TYPE_CHECKING:
    import pandas as pd


def signature(resolution: int, steps: int, guidance: float) -> dict[str, str]:
    """Inputs, outputs and params of `ImageModel.predict`, as `mlflow.models.ModelSignature` has them.

    Args:
        resolution: of the images.
        steps, guidance: defaults.
    """
    inputs = [
        {"type": "long", "name": "seed", "required": True},
        {"type": "long", "name": "label", "required": False},
    ]
    images = {"dtype": "uint8", "shape": [-1, resolution, resolution, 3]}
    params = [
        {"name": "steps", "type": "long", "default": steps, "shape": None},
        {"name": "guidance", "type": "double", "default": guidance, "shape": None},
    ]
    outputs = [{"type": "tensor", "tensor-spec": images}]
    parts = {"inputs": inputs, "outputs": outputs, "params": params}
    return {name: json.dumps(part) for name, part in parts.items()}


class ImageModel:
    """Samples images from a portable network, in float32."""

    def __init__(self, network: PortableNetwork, device: torch.device) -> None:
        self.network, self.device = network, device
        self.codec = network.codec.load(device)
        self.denoise: ConditionalDenoise = prepare_for_inference(network.denoiser.to(device))

    def predict(self, model_input: "pd.DataFrame", params: Mapping[str, Any] | None = None) -> Any:
        """Images uint8 [N, R, R, 3]; each depends on the values of its row alone.

        Args:
            model_input: N rows with `seed`, and optionally `label`: the number of the class; without it a
                seed has the class that it has in `edm2 sample`.
            params: `steps`, noise levels of the sampler; `guidance`, strength of classifier-free guidance,
                1: none.

        Raises:
            UserError: there is no such class, a seed is negative, or the network cannot be guided.
            NotFiniteError: a sample is not finite.
        """
        values = {"guidance": 1.0, **(params or {})}
        seeds = [int(seed) for seed in model_input["seed"]]
        if not seeds or min(seeds) < 0:
            raise UserError(f"seed: {seeds}: expected one or more rows, of seeds from 0 on.")
        labels = self._labels(model_input, seeds)
        shape = self.network.denoiser.shape
        size = (shape.in_channels, shape.resolution, shape.resolution)
        denoise, sampling = self._guided(float(values["guidance"])), self._sampling(values)
        batches = generate(denoise, seeds, labels, size, sampling, self.device)
        return np.concatenate([self._images(batch) for batch in batches])

    def _labels(self, table: "pd.DataFrame", seeds: list[int]) -> torch.Tensor:
        classes = len(self.network.classes)
        if "label" not in table:
            if not classes:
                return torch.zeros(len(seeds), dtype=torch.int64)
            return seed_labels(seeds, classes, self._recommended.labels)
        labels = torch.tensor([int(label) for label in table["label"]])
        wrong = sorted({int(label) for label in labels if not 0 <= label < classes})
        if wrong:
            expected = (
                f"classes from 0 to {classes - 1}" if classes else "none, as it has no classes"
            )
            raise UserError(f"label: {listed(list(map(str, wrong)))}: expected {expected}.")
        return labels

    @property
    def _recommended(self) -> Sampling:
        if self.network.sampling is None:
            raise UserError("the network's config.json has no `sampling`, so no defaults. Add it.")
        return self.network.sampling

    def _sampling(self, values: Mapping[str, Any]) -> Sampling:
        recommended = self._recommended.model_dump()
        return Sampling.model_validate(
            {**recommended, "steps": int(values.get("steps", recommended["steps"]))}
        )

    def _guided(self, strength: float) -> ConditionalDenoise:
        if strength == 1:
            return self.denoise
        if not self.network.provenance.get("label_dropout"):
            raise UserError(
                f"guidance: {strength:g}: expected 1: the network was trained without label dropout, so "
                "it needs labels, and has no guide."
            )
        pair = without_labels(self.denoise)
        return guided(self.denoise, pair, strength, self.network.guidance_interval)

    def _images(self, batch: SampleBatch) -> Any:
        rows = nonfinite_rows(batch.samples)
        if rows:
            seeds = listed([str(batch.seeds[row]) for row in rows])
            raise NotFiniteError(f"samples are not finite (seeds {seeds}). Use another network.")
        latents = self.network.normalization.denormalize(batch.samples)
        return self.codec.decode(latents).permute(0, 2, 3, 1).cpu().numpy()


def _load_pyfunc(folder: str) -> ImageModel:
    """The model in a folder of MLflow, on a GPU if there is one."""
    use_full_float32()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ImageModel(read_portable(Path(folder) / NETWORK), device)
