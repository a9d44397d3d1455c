"""A codec from the snapshots of a VAE's training: `edm2 vae average`."""

from dataclasses import asdict
from pathlib import Path

import torch

from edm2.diffusion.pretrained import new_folder
from edm2.ema.reconstruct import Reconstruction, reconstruct
from edm2.ema.store import SnapshotStore
from edm2.params import UserError
from edm2.params.vae_manifest import stored_options
from edm2.pipeline.paths import VAE_SNAPSHOTS
from edm2.runtime.manifest import load_manifest
from edm2.vae.codec import save_vae, trained_vae


def save_average(snapshots: Path, ema_length: float, nimg: int | None, out: Path) -> Reconstruction:
    """Write the VAE at an EMA length as a codec, like models/vae; the folder appears when it is complete.

    Args:
        snapshots: models/vae_snapshots of a project.
        nimg: time in images at which the average ends; None: the end of the training.

    Raises:
        UserError: `out` exists; or the snapshots are missing, damaged or not of a VAE, or end before `nimg`.
    """
    if (snapshots / VAE_SNAPSHOTS).is_dir():
        raise UserError(
            f"{snapshots}: a whole training. Expected its snapshots: {snapshots / VAE_SNAPSHOTS}."
        )
    store = SnapshotStore(snapshots)
    manifest = load_manifest(snapshots)
    if "vae" not in manifest:
        raise UserError(
            f"{snapshots}: its manifest describes no VAE. Expected models/vae_snapshots of a "
            "project, or of `edm2 vae train`."
        )
    params = stored_options(manifest["vae"])
    ((average, tensors),) = reconstruct(store, [ema_length], nimg)
    average.warn(f"EMA length {ema_length:g}", "vae.ema.snapshot_nimg")
    network = trained_vae(params, tensors, torch.device("cpu")).network
    with new_folder(out) as partial:
        save_vae(network, params, partial, average=asdict(average))
    return average
