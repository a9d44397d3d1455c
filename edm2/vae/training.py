"""Training of the autoencoder."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from edm2.data.images import ImageDataset, to_float
from edm2.data.stream import stream
from edm2.features.backbone import Backbone
from edm2.params.vae import Vae
from edm2.runtime.distributed import data_parallel, ranks, synchronized
from edm2.runtime.gradients import zero_nonfinite
from edm2.runtime.loop import Metrics
from edm2.runtime.randomness import generator, normals
from edm2.runtime.schedule import warmup_cosine
from edm2.vae.balance import balanced, gradient_norms
from edm2.vae.critic import Critic
from edm2.vae.equivariance import View, draw_view
from edm2.vae.losses import ImageLosses, Seen, kl_loss
from edm2.vae.network import Autoencoder

Batch = tuple[torch.Tensor, torch.Tensor]  # images uint8, latent noise
Forward = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # reconstruction, latent mean and std
BETAS = (0.9, 0.95)


class VaeTask:
    """One training step: reconstruct, ask the losses what they want of each image, balance that,
    and go back through the network; then the discriminator learns from the same images.

    Gradients are taken at the reconstructions first. So losses on features share one pass through
    the backbone, their norms are known before they are balanced, and microbatches and ranks give
    the gradient of one pass over the joint batch.
    """

    def __init__(
        self,
        network: Autoencoder,
        params: Vae,
        backbone: Backbone,
        seed: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        """
        Args:
            seed: of views, flips and the discriminator's initialization.
            dtype: precision of the network's activations; losses are in float32.
            compiled: whether to run the network through torch.compile.
        """
        self.params, self.seed, self.device, self.network = params, seed, device, network
        self.dtype = dtype
        self.forward = data_parallel(network, device, compiled)
        self.autocast = partial(torch.autocast, device.type, dtype, dtype != torch.float32)
        self.critic = Critic(params, backbone, seed, device) if params.losses.adversarial else None
        self.losses = ImageLosses(
            params.losses,
            params.adversarial,
            backbone,
            None if self.critic is None else self.critic.discriminator,
        )
        self.optimizer = torch.optim.AdamW(
            _groups(network, params), betas=BETAS, weight_decay=params.weight_decay
        )

    def step(self, batch: Batch, nimg: int) -> Metrics:
        pixels, noise = (tensor.to(self.device) for tensor in batch)
        images = to_float(pixels)
        parts = _parts(len(images), self.params.microbatch)
        views = [self._view(part, nimg, noise.shape[-1]) for part in parts]
        targets = [
            view.of_images(images[part], self.params.downscale)
            for part, view in zip(parts, views, strict=True)
        ]
        several = len(parts) > 1
        with torch.no_grad() if several else contextlib.nullcontext():
            forwards = [
                self._reconstruct(images[part], noise[part], view)
                for part, view in zip(parts, views, strict=True)
            ]
        flip = self._flip(nimg)
        seen = [
            self.losses(target, forward[0], nimg, flip)
            for target, forward in zip(targets, forwards, strict=True)
        ]
        norms = gradient_norms([s.gradients for s in seen])
        scale = self._scale(norms, images.shape)
        self.optimizer.zero_grad()
        kl = []
        for k, part in enumerate(parts):
            with synchronized(self.forward, part is parts[-1]):
                forward = (
                    self._reconstruct(images[part], noise[part], views[k])
                    if several
                    else forwards[k]
                )
                kl.append(self._backward(forward, seen[k], norms, len(parts), scale))
        for parameter in self.network.parameters():
            if parameter.grad is not None and scale != 1:
                parameter.grad /= scale
        nonfinite = zero_nonfinite(self.network.parameters())
        self._set_learning_rates(nimg)
        self.optimizer.step()
        error = torch.stack(
            [
                nn.functional.mse_loss(f[0].detach().float(), t)
                for f, t in zip(forwards, targets, strict=True)
            ]
        )
        found: dict[str, Any] = {
            f"train/{name}": torch.stack([s.values[name] for s in seen]).mean()
            for name in seen[0].values
        }
        found |= {f"gradient/{name}": norm for name, norm in norms.items()}
        found |= {
            "train/kl": torch.stack(kl).mean(),
            "train/mse": error.mean(),
            "train/nonfinite_gradients": nonfinite,
        }
        return {**found, **(self.critic.step(seen, nimg) if self.critic is not None else {})}

    def _reconstruct(self, images: torch.Tensor, noise: torch.Tensor, view: View) -> Forward:
        with self.autocast():
            out: Forward = self.forward(images, noise, view.of_latents)
        return out

    def _scale(self, norms: Mapping[str, torch.Tensor], shape: torch.Size) -> float:
        """What gradients are multiplied by on their way back, so that those of float16 do not vanish:
        a power of two that brings them to about one per value of the image.
        """
        if self.dtype != torch.float16:
            return 1.0
        losses, values = self.params.losses, self.params.batch * math.prod(shape[1:])
        pull = sum(
            dict(losses)[name] * (1.0 if losses.gradient_normalization else float(norm))
            for name, norm in norms.items()
        )
        return 2.0 ** round(math.log2(math.sqrt(values) / pull)) if pull else 1.0

    def _backward(
        self,
        forward: Forward,
        seen: Seen,
        norms: Mapping[str, torch.Tensor],
        parts: int,
        scale: float,
    ) -> torch.Tensor:
        """Add a microbatch's gradients, `scale` times; its KL term."""
        reconstruction, mean, std = forward
        losses = self.params.losses
        kl = kl_loss(mean, std if self.params.variance == "learned" else None)
        wanted = balanced(
            seen.gradients, dict(losses), norms if losses.gradient_normalization else None
        )
        torch.autograd.backward(
            [reconstruction, kl * (losses.kl * scale / parts)],
            [(wanted * (scale / parts)).to(reconstruction.dtype), None],
        )
        return kl.detach()

    def _view(self, part: slice, nimg: int, side: int) -> View:
        params, who = self.params, ranks()
        share = params.batch // who.size
        mine = slice(who.rank * share + part.start, who.rank * share + part.stop)
        return draw_view(params.equivariance, self.seed, nimg, params.batch, mine, side)

    def _flip(self, nimg: int) -> bool:
        draw = generator(self.seed, "vae/flip", nimg).random()
        return bool(draw < self.params.losses.flip)

    def _set_learning_rates(self, nimg: int) -> None:
        factor = warmup_cosine(nimg, self.params.warmup_nimg, self.params.duration_nimg)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def state_dict(self) -> dict[str, Any]:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return state | ({} if self.critic is None else {"critic": self.critic.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])


def _parts(count: int, microbatch: int | None) -> list[slice]:
    size = microbatch or count
    return [slice(start, start + size) for start in range(0, count, size)]


def _groups(network: Autoencoder, params: Vae) -> list[dict[str, Any]]:
    """The rate falls with width for all layers but the first, so that one setting fits all."""
    first = network.first_parameters()
    apart = {id(parameter) for parameter in first}
    others = [p for p in network.parameters() if id(p) not in apart]
    return [
        {"params": first, "peak": params.lr_input, "lr": 0.0},
        {"params": others, "peak": params.lr / params.channels, "lr": 0.0},
    ]


def batches(images: ImageDataset, params: Vae, seed: int) -> Callable[[int], Iterator[Batch]]:
    """Training batches, with the latent noise of each image, from a given time on.

    Crops, flips and noise follow the image's number in the training.
    """
    side = images.resolution // params.downscale
    shape = (params.latent_channels, side, side)

    def read(numbers: range, indices: list[int]) -> Batch:
        noise = normals(seed, "vae/noise", numbers, shape)
        crops = (generator(seed, "vae/images", n) for n in numbers)
        pixels = images.augmented_batch(indices, crops, params.images.min_area, params.images.flip)
        return pixels, torch.from_numpy(noise)

    return lambda nimg: stream(read, len(images), params.batch, seed, nimg)
