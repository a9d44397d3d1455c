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
from edm2.vae.discriminator import Discriminator, discriminator_loss, lecam
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
        widths = [len(weights) for weights in backbone.channel_weights]
        self.discriminator = Discriminator(widths, self.adversarial.channels).to(device)
        self.forward = data_parallel(self.discriminator, device)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=self.adversarial.lr,
            betas=BETAS,
            weight_decay=params.weight_decay,
        )
        allocate_moments(self.optimizer)

    def step(self, outputs: Sequence[LossOutput], nimg: int) -> Metrics:
        """One update from the features of images and reconstructions.

        Args:
            outputs: one per microbatch.
            nimg: training time; nothing happens up to `adversarial.discriminator_nimg`.

        Returns:
            Metrics of the scores before the update; empty if nothing happened.
        """
        if nimg <= self.adversarial.discriminator_nimg:
            return {}
        loss, real, fake = self._accumulate_gradients(outputs)
        nonfinite = zero_nonfinite(self.discriminator.parameters())
        self._set_learning_rate(nimg)
        self.optimizer.step()
        self.discriminator.update_anchors(real, fake)
        correct = torch.cat([real > 0, fake < 0]).float()
        return {
            "discriminator/loss": loss,
            "discriminator/images": real.mean(),
            "discriminator/reconstructions": fake.mean(),
            "discriminator/accuracy": correct.mean(),
            "discriminator/nonfinite_gradients": nonfinite,
        }

    def _accumulate_gradients(
        self, outputs: Sequence[LossOutput]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Add up gradients over microbatches; the mean loss, and all scores D(x) and D(x̂)."""
        self.optimizer.zero_grad()
        losses, scores = [], []
        for output in outputs:
            with synchronized(self.forward, output is outputs[-1]):
                pairs = zip(output.real_features, output.fake_features, strict=True)
                real, fake = self.forward([torch.cat(pair) for pair in pairs]).chunk(2)
                loss = discriminator_loss(real, fake, self.adversarial.loss)
                if self.adversarial.lecam:
                    anchors = self.discriminator.anchors
                    loss = loss + self.adversarial.lecam * lecam(real, fake, anchors)
                (loss / len(outputs)).backward()
            losses.append(loss.detach())
            scores.append(torch.stack([real.detach(), fake.detach()]))
        all_real, all_fake = torch.cat(scores, dim=1)
        return torch.stack(losses).mean(), all_real, all_fake

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
