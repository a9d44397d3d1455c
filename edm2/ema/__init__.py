"""Post-hoc EMA (EDM2 Section 3 and Appendix C): any averaging length, chosen after training.

Works on any mapping of named tensors; nothing here depends on a network.
"""

from edm2.ema.checkpoints import read_checkpoint
from edm2.ema.fixed import copy_files
from edm2.ema.profile import gamma_to_sigma_rel, sigma_rel_to_gamma
from edm2.ema.reconstruct import (
    Reconstruction,
    Target,
    reconstruct,
    reconstruct_files,
)
from edm2.ema.snapshot import Snapshot, write_snapshot
from edm2.ema.solve import solve_weights
from edm2.ema.store import SnapshotStore
from edm2.ema.tracker import PowerEMA, TraditionalEMA

__all__ = [
    "PowerEMA",
    "Reconstruction",
    "Snapshot",
    "SnapshotStore",
    "Target",
    "TraditionalEMA",
    "copy_files",
    "gamma_to_sigma_rel",
    "read_checkpoint",
    "reconstruct",
    "reconstruct_files",
    "sigma_rel_to_gamma",
    "solve_weights",
    "write_snapshot",
]
