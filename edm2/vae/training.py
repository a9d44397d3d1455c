"""Training of the VAE."""

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from edm2.data.images import to_float
from edm2.features.backbone import Backbone
from edm2.params.vae import Vae
from edm2.params.vae_training import vae_training_problems
from edm2.runtime.distributed import ranks
from edm2.runtime.gradients import zero_nonfinite
from edm2.runtime.metrics import Metrics
from edm2.runtime.moments import allocate_moments
from edm2.runtime.parallel import data_parallel, synchronized
from edm2.runtime.randomness import generator
from edm2.runtime.schedule import warmup_cosine
from edm2.vae.batches import Batch
from edm2.vae.boundary import rgb_images
from edm2.vae.discriminator_training import DiscriminatorTask
from edm2.vae.equivariance import Transform, random_transform
from edm2.vae.gradient_normalization import combine_gradients, gradient_norms
from edm2.vae.losses import ImageLosses, LossOutput, kl_loss
from edm2.vae.network import Autoencoder

Forward = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # reconstruction, latent mean and std
BETAS = (0.9, 0.95)


@dataclass(frozen=True)
class Microbatch:
    """Some of this rank's images, with everything that determines their reconstructions and losses.

    Attributes:
        images: float32 [N, 3, R, R] in [-1, 1].
        noise: added to the latents, float32 [N, C, R/d, R/d].
        transform: applied to the latents before they are decoded.
        target: the images under the same transform, which the decoder should give.
    """

    images: torch.Tensor
    noise: torch.Tensor
    transform: Transform
    target: torch.Tensor


class VaeTask:
    """Training of the network and, if the adversarial loss has a weight, of its discriminator.

    A step reconstructs images, takes the gradient of each loss at the reconstructions, combines these
    gradients and backpropagates the result through the network. Then the discriminator learns from
    the same images.

    Because gradients are taken at the reconstructions first, losses on features share one pass
    through the backbone, the norms over the whole batch are known before gradients are combined, and
    microbatches and ranks give the gradient of one pass over the whole batch.
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
            seed: for transforms, flips and the discriminator's initialization.
            dtype: precision of the network's activations; losses are in float32.
            compiled: whether to run the network through torch.compile.

        Raises:
            ValueError: params with which nothing can be trained; names all of them.
        """
        problems = [str(problem) for problem in vae_training_problems(params)]
        if problems:
            raise ValueError("\n".join(problems))
        self.params, self.seed, self.device, self.network = params, seed, device, network
        self.dtype = dtype
        self.forward = data_parallel(network, device, compiled)
        self.autocast = partial(torch.autocast, device.type, dtype, dtype != torch.float32)
        self.discriminator_task = (
            DiscriminatorTask(params, backbone, seed, device) if params.losses.adversarial else None
        )
        self.losses = ImageLosses(
            params.losses,
            params.adversarial,
            backbone,
            None if self.discriminator_task is None else self.discriminator_task.discriminator,
        )
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(network, params), betas=BETAS, weight_decay=params.weight_decay
        )
        allocate_moments(self.optimizer)

    def step(self, batch: Batch, nimg: int) -> Metrics:
        """One update of the weights.

        Args:
            batch: this rank's share: uint8 [N, 3, R, R] (or gray, [N, 1, R, R]), and noise for its latents,
                float32 [N, latent_channels, R/d, R/d].
            nimg: images seen in total, after this step.

        Returns:
            Losses, their gradient norms, and statistics, all scalars.

        Raises:
            ValueError: images or noise of another shape or type.
        """
        microbatches = self._split(batch, nimg)
        forwards = self._reconstruct_all(microbatches)
        outputs = self._compute_losses(microbatches, forwards, nimg)
        norms = gradient_norms([output.normalizing for output in outputs])
        kl = self._accumulate_gradients(microbatches, forwards, outputs, norms)
        nonfinite = zero_nonfinite(self.network.parameters())
        self._set_learning_rates(nimg)
        self.optimizer.step()
        adversarial = self._train_discriminator(outputs, nimg)
        return {
            **_loss_metrics(microbatches, forwards, outputs),
            **{f"gradient/{name}": norm for name, norm in norms.items()},
            "train/kl": kl,
            "train/nonfinite_gradients": nonfinite,
            **adversarial,
        }

    def _split(self, batch: Batch, nimg: int) -> list[Microbatch]:
        pixels, noise = (tensor.to(self.device) for tensor in batch)
        images = to_float(rgb_images(pixels, self.params.downscale))
        size, shape = self.params.microbatch or len(images), tuple(images.shape)
        share = self.params.batch // ranks().world_size
        if shape[2] != shape[3] or shape[0] % size or shape[0] > share:
            raise ValueError(
                f"images of shape {shape}: expected square images in microbatches of {size}, at most the "
                f"{share} of this rank's batch"
            )
        microbatches = []
        for part in (slice(start, start + size) for start in range(0, len(images), size)):
            transform = self._transform(part, nimg, noise.shape[-1])
            target = transform.apply_to_images(images[part], self.params.downscale)
            microbatches.append(Microbatch(images[part], noise[part], transform, target))
        return microbatches

    def _transform(self, part: slice, nimg: int, side: int) -> Transform:
        """The transform of the images `part` of this rank's share of the batch."""
        params, rank, size = self.params, ranks().rank, ranks().world_size
        first = rank * (params.batch // size)
        in_batch = slice(first + part.start, first + part.stop)
        return random_transform(params.equivariance, self.seed, nimg, params.batch, in_batch, side)

    def _reconstruct_all(self, microbatches: Sequence[Microbatch]) -> list[Forward]:
        """Forward passes; without gradients if there are several, as memory is for one graph only."""
        with torch.no_grad() if len(microbatches) > 1 else contextlib.nullcontext():
            return [self._reconstruct(microbatch) for microbatch in microbatches]

    def _reconstruct(self, microbatch: Microbatch) -> Forward:
        with self.autocast():
            forward: Forward = self.forward(
                microbatch.images, microbatch.noise, microbatch.transform.apply_to_latents
            )
        return forward

    def _compute_losses(
        self, microbatches: Sequence[Microbatch], forwards: Sequence[Forward], nimg: int
    ) -> list[LossOutput]:
        flip = self._flip(nimg)
        return [
            self.losses(microbatch.target, reconstruction, nimg, flip)
            for microbatch, (reconstruction, _, _) in zip(microbatches, forwards, strict=True)
        ]

    def _accumulate_gradients(
        self,
        microbatches: Sequence[Microbatch],
        forwards: Sequence[Forward],
        outputs: Sequence[LossOutput],
        norms: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """Set the gradients of the network's parameters; the KL loss."""
        count = len(microbatches)
        values = self.params.batch * microbatches[0].images[0].numel()
        scale = self._gradient_scale(norms, values)
        self.optimizer.zero_grad()
        kl = []
        for k, microbatch in enumerate(microbatches):
            with synchronized(self.forward, k == count - 1):
                forward = forwards[k] if count == 1 else self._reconstruct(microbatch)
                gradient = self._combine_gradients(outputs[k], norms)
                kl.append(self._backward(forward, gradient, scale, count))
        if scale != 1:
            gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
            torch._foreach_div_(gradients, scale)
        return torch.stack(kl).mean()

    def _gradient_scale(self, norms: Mapping[str, torch.Tensor], values: int) -> float:
        """Factor on gradients during the backward pass, so that those of float16 do not underflow.

        A power of two that brings the combined gradient to about 1 per value.

        Args:
            values: in the images of the whole batch.
        """
        if self.dtype != torch.float16:
            return 1.0
        weights = [dict(self.params.losses)[name] for name in norms]
        if self.params.losses.gradient_normalization:
            norm = sum(weights)
        else:  # the host waits for a GPU here, once in a step
            products = zip(weights, torch.stack(list(norms.values())).tolist(), strict=True)
            norm = sum(weight * value for weight, value in products)
        if not 0 < norm < math.inf:  # nothing to scale; what is not finite, the loop notices
            return 1.0
        norm /= math.sqrt(self.params.batch)  # of the mean over all images
        return 2.0 ** round(math.log2(math.sqrt(values) / norm))

    def _combine_gradients(
        self, output: LossOutput, norms: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        losses = self.params.losses
        return combine_gradients(
            output.gradients, dict(losses), norms if losses.gradient_normalization else None
        )

    def _backward(
        self, forward: Forward, gradient: torch.Tensor, scale: float, count: int
    ) -> torch.Tensor:
        """Add the gradients of one of `count` microbatches, times `scale`; its KL loss.

        Args:
            gradient: at the reconstruction.
        """
        reconstruction, mean, std = forward
        kl = kl_loss(mean, std if self.params.variance == "learned" else None)
        torch.autograd.backward(
            [reconstruction, kl * (self.params.losses.kl * scale / count)],
            [(gradient * (scale / count)).to(reconstruction.dtype), None],
        )
        return kl.detach()

    def _train_discriminator(self, outputs: Sequence[LossOutput], nimg: int) -> Metrics:
        task = self.discriminator_task
        return {} if task is None else task.step(outputs, nimg)

    def _flip(self, nimg: int) -> bool:
        draw = generator(self.seed, "vae/flip", nimg).random()
        return bool(draw < self.params.losses.flip)

    def _set_learning_rates(self, nimg: int) -> None:
        factor = warmup_cosine(nimg, self.params.warmup_nimg, self.params.duration_nimg)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def state_dict(self) -> dict[str, Any]:
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.discriminator_task is not None:
            state["discriminator"] = self.discriminator_task.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.discriminator_task is not None:
            self.discriminator_task.load_state_dict(state["discriminator"])


def _loss_metrics(
    microbatches: Sequence[Microbatch],
    forwards: Sequence[Forward],
    outputs: Sequence[LossOutput],
) -> dict[str, torch.Tensor]:
    """Means over microbatches of each loss, and of the squared error, whether it is a loss or not."""
    errors = [
        nn.functional.mse_loss(reconstruction.detach().float(), microbatch.target)
        for microbatch, (reconstruction, _, _) in zip(microbatches, forwards, strict=True)
    ]
    losses = {
        f"train/{name}": torch.stack([output.values[name] for output in outputs]).mean()
        for name in outputs[0].values
    }
    return losses | {"train/mse": torch.stack(errors).mean()}


def _parameter_groups(network: Autoencoder, params: Vae) -> list[dict[str, Any]]:
    """The learning rate of all layers but the first ones falls with width, so that one value fits all."""
    first = network.first_parameters(params.lr_input_layers)
    first_ids = {id(parameter) for parameter in first}
    others = [p for p in network.parameters() if id(p) not in first_ids]
    return [
        {"params": first, "peak": params.lr_input, "lr": 0.0},
        {"params": others, "peak": params.lr / params.channels, "lr": 0.0},
    ]
