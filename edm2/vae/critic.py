"""Training of the discriminator, beside the autoencoder's."""

from collections.abc import Sequence
from typing import Any

import torch

from edm2.features.backbone import Backbone
from edm2.params.vae import Vae
from edm2.runtime.distributed import data_parallel, synchronized
from edm2.runtime.gradients import zero_nonfinite
from edm2.runtime.loop import Metrics
from edm2.runtime.randomness import torch_seed
from edm2.runtime.schedule import warmup_cosine
from edm2.vae.discriminator import Discriminator, discriminator_loss, lecam
from edm2.vae.losses import Seen

BETAS = (0.9, 0.95)


class Critic:
    """The discriminator and its optimizer."""

    def __init__(self, params: Vae, backbone: Backbone, seed: int, device: torch.device) -> None:
        self.params, self.settings = params, params.adversarial
        torch.manual_seed(torch_seed(seed, "vae/discriminator"))
        widths = [len(weights) for weights in backbone.channel_weights]
        self.discriminator = Discriminator(widths, self.settings.channels).to(device)
        self.forward = data_parallel(self.discriminator, device)
        self.optimizer = torch.optim.AdamW(
            self.discriminator.parameters(),
            lr=self.settings.lr,
            betas=BETAS,
            weight_decay=params.weight_decay,
        )

    def step(self, seen: Sequence[Seen], nimg: int) -> Metrics:
        """Learn from the features of images and reconstructions, once its time has come."""
        if nimg <= self.settings.discriminator_nimg:
            return {}
        self.optimizer.zero_grad()
        scores, losses = [], []
        for found in seen:
            with synchronized(self.forward, found is seen[-1]):
                both = [torch.cat(pair) for pair in zip(*found.slices, strict=True)]
                real, fake = self.forward(both).chunk(2)
                loss = discriminator_loss(real, fake, self.settings.loss)
                if self.settings.lecam:
                    anchors = self.discriminator.anchors
                    loss = loss + self.settings.lecam * lecam(real, fake, anchors)
                (loss / len(seen)).backward()
            scores.append(torch.stack([real.detach(), fake.detach()]))
            losses.append(loss.detach())
        nonfinite = zero_nonfinite(self.discriminator.parameters())
        factor = warmup_cosine(nimg, self.params.warmup_nimg, self.params.duration_nimg)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * factor
        self.optimizer.step()
        real, fake = torch.cat(scores, dim=1)
        self.discriminator.update_anchors(real, fake)
        right = torch.cat([real > 0, fake < 0]).float()
        return {
            "discriminator/loss": torch.stack(losses).mean(),
            "discriminator/images": real.mean(),
            "discriminator/reconstructions": fake.mean(),
            "discriminator/accuracy": right.mean(),
            "discriminator/nonfinite_gradients": nonfinite,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
