"""A portable network as a model of MLflow: `mlflow.pyfunc.load_model(URI).predict(table)`.

MLflow imports this module, which `edm2.pipeline.best_model` names, and calls `_load_pyfunc`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edm2.params import UserError
from edm2.pipeline.portable_networks import PortableNetworks
from edm2.pipeline.sample_options import SampleOptions
from edm2.pipeline.sampler import Sampler
from edm2.runtime.delivery.models import NETWORK
from edm2.runtime.device import use_full_float32
from edm2.runtime.finite import listed

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

    def __init__(self, folder: Path, device: torch.device) -> None:
        """
        Args:
            folder: of the network; see `read_portable`.
        """
        self.networks = PortableNetworks(str(folder), None, SampleOptions())
        self.sampler = Sampler(self.networks, device, "fp32")

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
        values = params or {}
        seeds = [int(seed) for seed in model_input["seed"]]
        if not seeds or min(seeds) < 0:
            raise UserError(f"seed: {seeds}: expected one or more rows, of seeds from 0 on.")
        labels, strength = self._labels(model_input, seeds), float(values.get("guidance", 1))
        if strength != 1 and not self.networks.guides_itself:
            raise UserError(
                f"guidance: {strength:g}: expected 1: the network was trained without label dropout, so "
                "it needs labels, and has no guide."
            )
        steps = values.get("steps")
        options = SampleOptions(steps=None if steps is None else int(steps))
        sampling = options.sampling(self.networks.sampling)
        denoise = self.sampler.denoise(Path(self.networks.name), None, strength)
        batches = self.sampler.images(denoise, seeds, labels, sampling)
        images = torch.cat([batch.samples.cpu() for batch in batches])
        return images.permute(0, 2, 3, 1).numpy()

    def _labels(self, table: "pd.DataFrame", seeds: list[int]) -> torch.Tensor:
        if "label" not in table:
            return self.sampler.labels(seeds)
        labels, classes = [int(label) for label in table["label"]], len(self.networks.classes)
        wrong = sorted({label for label in labels if not 0 <= label < classes})
        if wrong:
            expected = (
                f"classes from 0 to {classes - 1}" if classes else "none, as it has no classes"
            )
            raise UserError(f"label: {listed(list(map(str, wrong)))}: expected {expected}.")
        return torch.tensor(labels)


def _load_pyfunc(folder: str) -> ImageModel:
    """The model in a folder of MLflow, on a GPU if there is one."""
    use_full_float32()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return ImageModel(Path(folder) / NETWORK, device)
