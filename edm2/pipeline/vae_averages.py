"""The averages of the VAE's weights: tracked while it trains, compared when it is trained."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from edm2.ema.index import write_index
from edm2.ema.reconstruct import Reconstruction, reconstruct
from edm2.ema.snapshot import remove_snapshots_after
from edm2.ema.store import SnapshotStore
from edm2.ema.tracker import PowerEMA
from edm2.ema.training import AveragedTask, snapshots_every
from edm2.params.vae import Vae
from edm2.runtime.distributed import broadcast_tensors, is_main_process
from edm2.runtime.loop import Every, Task
from edm2.runtime.manifest import write_manifest
from edm2.vae.batches import Batch
from edm2.vae.codec import TrainedVae, network_options, trained_vae
from edm2.vae.network import Autoencoder

Metrics = Mapping[str, float]
Tensors = Mapping[str, torch.Tensor]
COLUMNS = ("ema_length", "nimg", "error", "weight_sum", "snapshots")  # before those of metrics
OF_AVERAGE = ("sigma_rel", *COLUMNS[1:])  # the same as attributes of a `Reconstruction`
OF_LATENTS = "latent/"  # metrics that say nothing about the quality of reconstructions


class VaeAverages:
    """The averages of the weights of a network while it trains, with snapshots in a folder.

    Without lengths to track (`tracked`) there are none, and nothing is computed.
    """

    def __init__(self, network: Autoencoder, params: Vae, folder: Path) -> None:
        self.network, self.params, self.ema, self.folder = network, params, params.ema, folder
        self.tracked = bool(self.ema.ema_lengths)
        self.tracker = PowerEMA(network, self.ema.ema_lengths)
        folder.mkdir(parents=True, exist_ok=True)

    def track(self, task: Task[Batch]) -> Task[Batch]:
        """The training, whose steps update the averages too."""
        return AveragedTask(task, self.tracker, self.params.batch) if self.tracked else task

    @property
    def every(self) -> list[Every]:
        """Snapshots, at their times."""
        if not self.tracked:
            return []
        return [snapshots_every(self.ema.snapshot_nimg, self.tracker, self.folder)]

    def rollback(self, nimg: int) -> None:
        """Remove the snapshots after the time at which the training continues."""
        remove_snapshots_after(self.folder, nimg)

    def finish(self) -> tuple[Autoencoder, dict[str, Any]]:
        """Describe the snapshots and the network beside them; on the main process, after the training.

        Returns:
            the network that becomes the codec, and what its manifest notes about it.
        """
        if not self.tracked:
            write_manifest(self.folder)
            return self.network, {}
        store = SnapshotStore(self.folder)
        write_index(store, vae=network_options(self.params))
        if self.ema.length is None:
            return self.network, {}
        ((average, tensors),) = reconstruct(store, [self.ema.length])
        self._warn(average)
        network = trained_vae(self.params, tensors, torch.device("cpu")).network
        return network, {"average": asdict(average)}

    def compare(
        self, evaluate: Callable[[TrainedVae], Metrics], of_codec: Metrics, device: torch.device
    ) -> list[dict[str, float]]:
        """The metrics of the final weights, as EMA length 0, and of the averages, by length.

        Every rank must call this, after `finish`.

        Args:
            evaluate: gives the metrics of a codec on the main process; every rank calls it.
            of_codec: those of the network that `finish` returned.

        Returns:
            On the main process a row for each, with COLUMNS; nothing without averages to evaluate.
        """
        if not self.tracked or not self.ema.evaluate_lengths:
            return []
        chosen, rows = self.ema.length or 0.0, []
        for columns, tensors in self._weights(sorted({*self.ema.evaluate_lengths, chosen} - {0.0})):
            metrics = of_codec
            if columns["ema_length"] != chosen:
                tensors = broadcast_tensors(tensors)
                metrics = evaluate(trained_vae(self.params, tensors, device))
            quality = {k: v for k, v in metrics.items() if not k.startswith(OF_LATENTS)}
            rows.append(columns | quality)
        return rows if is_main_process() else []

    def _weights(self, lengths: Sequence[float]) -> Iterator[tuple[dict[str, float], Tensors]]:
        """The first columns of each row, and on the main process the weights, on the CPU."""
        final = (0.0, self.params.duration_nimg, 0.0, 1.0, 0)
        yield dict(zip(COLUMNS, final, strict=True)), self.network.cpu().state_dict()
        if not is_main_process():
            yield from (({"ema_length": length}, {}) for length in lengths)
            return
        for average, tensors in reconstruct(SnapshotStore(self.folder), lengths):
            self._warn(average)
            values = [getattr(average, name) for name in OF_AVERAGE]
            yield dict(zip(COLUMNS, values, strict=True)), tensors

    def _warn(self, average: Reconstruction) -> None:
        average.warn(f"the VAE at EMA length {average.sigma_rel:g}", "vae.ema.snapshot_nimg")
