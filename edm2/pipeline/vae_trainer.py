"""The training of a VAE and its evaluation on held-out images, of the pipeline or on its own."""

from dataclasses import dataclass
from math import inf
from pathlib import Path

import torch

from edm2.data.images import ImageDataset
from edm2.features.backbone import Backbone
from edm2.params.runtime import Runtime
from edm2.params.vae import Vae
from edm2.pipeline.vae_averages import VaeAverages
from edm2.pipeline.vae_pictures import ProgressPictures, draw_reconstructions, grid_images
from edm2.runtime.clipping import clipped_values
from edm2.runtime.device import activation_dtype
from edm2.runtime.distributed import barrier, is_main_process
from edm2.runtime.loop import Every, train
from edm2.runtime.randomness import torch_seed
from edm2.runtime.state import State
from edm2.runtime.tracking import Run
from edm2.vae.batches import batches
from edm2.vae.codec import Codec, TrainedVae, save_vae
from edm2.vae.evaluation import SetDistance, evaluate
from edm2.vae.initialization import initialize
from edm2.vae.network import Autoencoder
from edm2.vae.training import VaeTask


@dataclass(frozen=True)
class HeldOut:
    """Held-out images, by which codecs are judged.

    Attributes:
        limit: largest number of images that metrics are computed from; None: all.
        distance: between the set of these images and that of reconstructions; None: left out.
    """

    images: ImageDataset
    backbone: Backbone
    device: torch.device
    limit: int | None
    distance: SetDistance | None

    def measure(self, codec: Codec) -> dict[str, float]:
        """See `edm2.vae.evaluation.evaluate`; every rank must call this."""
        return evaluate(codec, self.images, self.backbone, self.device, self.limit, self.distance)

    def final_metrics(self, codec: Codec) -> dict[str, float]:
        """`measure` as JSON can have it: without `psnr` if the reconstructions are exact."""
        metrics = self.measure(codec)
        if metrics.get("psnr") == inf:  # JSON has none; the report mentions exact reconstructions
            del metrics["psnr"]
        return metrics

    def draw(self, codec: Codec, path: Path, mask: bool) -> None:
        """Write the first images above their reconstructions and the differences.

        Args:
            mask: also the mask of the low-pass loss.
        """
        images, _ = self.images.batch(range(grid_images(self.images, mask)))
        draw_reconstructions(path, codec, images, self.device, mask)


def quality(metrics: dict[str, float]) -> str:
    """The final metrics in a few words."""
    texts = {"PSNR {:.2f} dB": metrics.get("psnr", inf), "SSIM {:.4g}": metrics["ssim"]}
    shown = [text.format(value) for text, value in texts.items()]
    return ", ".join(shown + clipped_values(metrics))


@dataclass(frozen=True)
class VaeTraining:
    """One training of a VAE.

    Attributes:
        title: name of the training, for logs.
        root: folder that relative paths in `params` start from.
        state: keeps checkpoints and the log.
        out: the folder of the trained VAE.
        snapshots: that of the snapshots of its weights' averages (`vae.ema`).
        pictures: the folder of pictures of held-out images, one for each evaluation.
    """

    title: str
    params: Vae
    runtime: Runtime
    root: Path
    images: ImageDataset
    held_out: HeldOut
    device: torch.device
    state: State
    run: Run
    out: Path
    snapshots: Path
    pictures: Path

    def train(self) -> VaeAverages:
        """Train, from the latest checkpoint if there is one, and save the VAE; every rank must call this.

        Returns:
            the averages of its weights.
        """
        network = self._network()
        averages = VaeAverages(network, self.params, self.snapshots)
        codec = TrainedVae(network, self.params)
        pictures = ProgressPictures(self.pictures, self.params, self.held_out.images, self.device)

        def evaluate_held_out(nimg: int) -> dict[str, float]:
            metrics = self.held_out.measure(codec)
            if is_main_process() and (picture := pictures.draw(codec, nimg)):
                self.run.log_artifact(picture, "progress")
            return {f"held_out/{key}": value for key, value in metrics.items()}

        def rollback(nimg: int) -> None:
            pictures.rollback(nimg)
            averages.rollback(nimg)

        train(
            self.title,
            averages.track(self._task(network)),
            batches(self.images, self.params, self.params.seed, self.runtime, self.device),
            self.params,
            self.state,
            self.run,
            checkpoint_seconds=self.runtime.checkpoint_seconds,
            nonfinite_patience=self.runtime.nonfinite_patience,
            remedy=self._remedy(),
            every=[Every(self.params.evaluate_nimg, evaluate_held_out), *averages.every],
            rollback=rollback,
        )
        if is_main_process():
            pictures.finish()
            chosen, metadata = averages.finish()
            save_vae(chosen.cpu(), self.params, self.out, **metadata)
        barrier()
        return averages

    def _network(self) -> Autoencoder:
        """The network that the training starts from."""
        torch.manual_seed(torch_seed(self.params.seed, "vae/init"))
        network = Autoencoder(self.params)
        if self.params.init.path is not None:
            initialize(network, self.params, self.root / self.params.init.path)
        network = network.to(self.device)
        if self.runtime.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network

    def _task(self, network: Autoencoder) -> VaeTask:
        return VaeTask(
            network,
            self.params,
            self.held_out.backbone,
            self.params.seed,
            self.device,
            activation_dtype(self.runtime),
            self.runtime.compile,
        )

    def _remedy(self) -> str:
        """What to do if the training diverges."""
        vae = self.params
        precision = "" if self.runtime.precision == "fp32" else ", or set runtime.precision to fp32"
        return (
            f"Lower vae.lr ({vae.lr:g}) or vae.lr_input ({vae.lr_input:g}), lengthen vae.warmup_nimg "
            f"({vae.warmup_nimg}){precision}."
        )
