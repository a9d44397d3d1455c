"""Training of the discriminator, within the training step of the VAE."""

from collections.abc import Sequence
from typing import Any

import torch

from edm2.features.backbone import Backbone
from edm2.params.vae import Vae
from edm2.runtime.gradients import zero_nonfinite
from edm2.runtime.metrics import Metrics
from edm2.runtime.moments import allocate_moments
from edm2.runtime.parallel import data_parallel, synchronized
from edm2.runtime.randomness import torch_seed
from edm2.runtime.schedule import warmup_cosine
from edm2.vae.discriminator import build_discriminator, discriminator_loss, lecam, mean_over_heads
from edm2.vae.losses import LossOutput

BETAS = (0.9, 0.95)


class DiscriminatorTask:
    """The discriminator and its optimizer."""

    def __init__(self, params: Vae, backbone: Backbone, seed: int, device: torch.device) -> None:
        """
        Args:
            seed: for the initialization.
        """
        self.params, self.adversarial = params, params.adversarial
        torch.manual_seed(torch_seed(seed, "vae/discriminator"))
        self.discriminator = build_discriminator(
            backbone, self.adversarial.channels, self.adversarial.trainable_backbone
        ).to(device)
        self.forward = data_parallel(self.discriminator, device)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.discriminator.parameters() if p.requires_grad],
            lr=self.adversarial.lr,
            betas=BETAS,
            weight_decay=params.weight_decay,
        )
        allocate_moments(self.optimizer)

    def step(self, outputs: Sequence[LossOutput], nimg: int) -> Metrics:
        """One update from what the discriminator takes of images and reconstructions.

        Args:
            outputs: one per microbatch.
            nimg: training time; nothing happens up to `adversarial.discriminator_nimg`.

        Returns:
            Metrics of the scores before the update; empty if nothing happened.
        """
        if nimg <= self.adversarial.discriminator_nimg:
            return {}
        loss, real, fake, accuracy = self._accumulate_gradients(outputs)
        nonfinite = zero_nonfinite(self.discriminator.parameters())
        self._set_learning_rate(nimg)
        self.optimizer.step()
        if self.adversarial.lecam:
            self.discriminator.update_anchors(real, fake)
        return {
            "discriminator/loss": loss,
            "discriminator/images": real,
            "discriminator/reconstructions": fake,
            "discriminator/accuracy": accuracy,
            "discriminator/nonfinite_gradients": nonfinite,
        }

    def _accumulate_gradients(self, outputs: Sequence[LossOutput]) -> torch.Tensor:
        """Add up gradients over microbatches; means of the loss, D(x), D(x̂) and the accuracy, [4]."""
        self.optimizer.zero_grad()
        means = []
        for output in outputs:
            with synchronized(self.forward, output is outputs[-1]):
                inputs = zip(output.real_inputs, output.fake_inputs, strict=True)
                maps = self.forward([torch.cat(pair) for pair in inputs])
                pairs = [scores.chunk(2) for scores in maps]
                loss = mean_over_heads(self._loss(real, fake) for real, fake in pairs)
                (loss / len(outputs)).backward()
            means.append(torch.stack([loss.detach(), *_statistics(pairs)]))
        return torch.stack(means).mean(0)

    def _loss(self, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        """Of the scores of one head."""
        loss = discriminator_loss(real, fake, self.adversarial.loss)
        if self.adversarial.lecam:
            anchors = self.discriminator.anchors
            loss = loss + self.adversarial.lecam * lecam(real, fake, anchors)
        return loss

    def _set_learning_rate(self, nimg: int) -> None:
        factor = warmup_cosine(nimg, self.params.warmup_nimg, self.params.duration_nimg)
        for group in self.optimizer.param_groups:
            group["lr"] = self.adversarial.lr * factor

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def _statistics(
    pairs: Sequence[tuple[torch.Tensor, ...]],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means over heads of D(x), D(x̂), and of the fraction of scores with the right sign.

    Args:
        pairs: D(x) and D(x̂) of each head.
    """
    return (
        mean_over_heads(real.mean() for real, _ in pairs),
        mean_over_heads(fake.mean() for _, fake in pairs),
        mean_over_heads(torch.stack([real > 0, fake < 0]).float().mean() for real, fake in pairs),
    )
