"""Training of the autoencoder."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from edm2.data.images import Images, to_float
from edm2.data.stream import stream
from edm2.features.backbone import Backbone
from edm2.params.vae import Vae
from edm2.runtime.distributed import data_parallel
from edm2.runtime.gradients import zero_nonfinite
from edm2.runtime.loop import Metrics
from edm2.runtime.randomness import generator, normals
from edm2.runtime.schedule import warmup_cosine
from edm2.vae.losses import image_losses, kl_loss, normalize_gradient
from edm2.vae.network import Autoencoder

Batch = tuple[torch.Tensor, torch.Tensor]  # images uint8, latent noise
BETAS = (0.9, 0.95)


class VaeTask:
    """Losses balanced at the image by gradient normalization; AdamW, warm-up, cosine decay."""

    def __init__(
        self,
        network: Autoencoder,
        params: Vae,
        backbone: Backbone,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        """
        Args:
            dtype: precision of the network's activations; losses are in float32.
            compiled: whether to run the network through torch.compile.
        """
        self.params, self.device, self.network = params, device, network
        self.forward = data_parallel(network, device, compiled)
        self.autocast = partial(torch.autocast, device.type, dtype, dtype != torch.float32)
        self.losses = image_losses(params.losses, backbone)
        self.optimizer = torch.optim.AdamW(
            _groups(network, params), betas=BETAS, weight_decay=params.weight_decay
        )

    def step(self, batch: Batch, nimg: int) -> Metrics:
        pixels, noise = (tensor.to(self.device) for tensor in batch)
        images = to_float(pixels)
        with self.autocast():
            reconstruction, mean = self.forward(images, noise)
        terms = {
            name: loss(images, normalize_gradient(reconstruction.float(), weight))
            for name, (weight, loss) in self.losses.items()
        }
        terms["kl"] = kl_loss(mean)
        weights = {"kl": self.params.losses.kl}
        total = torch.stack([weights.get(name, 1.0) * term for name, term in terms.items()]).sum()
        self.optimizer.zero_grad()
        total.backward()
        nonfinite = zero_nonfinite(self.network.parameters())
        self._set_learning_rates(nimg)
        self.optimizer.step()
        error = nn.functional.mse_loss(reconstruction.detach().float(), images)
        return {**{f"train/{name}": term for name, term in terms.items()}, "train/mse": error,
                "train/nonfinite_gradients": nonfinite}  # fmt: skip

    def _set_learning_rates(self, nimg: int) -> None:
        factor = warmup_cosine(nimg, self.params.warmup_nimg, self.params.duration_nimg)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def _groups(network: Autoencoder, params: Vae) -> list[dict[str, Any]]:
    """The rate falls with width for all layers but the first, so that one setting fits all."""
    first = network.first_parameters()
    apart = {id(parameter) for parameter in first}
    others = [p for p in network.parameters() if id(p) not in apart]
    return [{"params": first, "peak": params.lr_input, "lr": 0.0},
            {"params": others, "peak": params.lr / params.channels, "lr": 0.0}]  # fmt: skip


def batches(images: Images, params: Vae, seed: int) -> Callable[[int], Iterator[Batch]]:
    """Training batches, with the latent noise of each image, from a given time on.

    Crops, flips and noise follow the image's number in the training.
    """
    side = images.resolution // params.downscale
    shape = (params.latent_channels, side, side)

    def read(numbers: range, indices: list[int]) -> Batch:
        noise = normals(seed, "vae/noise", numbers, shape)
        crops = (generator(seed, "vae/images", n) for n in numbers)
        pixels = images.augmented(indices, crops, params.images.least_area, params.images.flip)
        return pixels, torch.from_numpy(noise)

    return lambda nimg: stream(read, len(images), params.batch, seed, nimg)
