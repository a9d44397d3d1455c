"""Post-hoc EMA (EDM2 Section 3 and Appendix C): any averaging length, chosen after training.

Works on any mapping of named tensors; nothing here knows a network.
"""

from edm2.ema.profile import gamma_to_sigma_rel, sigma_rel_to_gamma
from edm2.ema.reconstruct import Reconstruction, reconstruct, stored
from edm2.ema.solve import solve_weights
from edm2.ema.store import Snapshot, SnapshotStore
from edm2.ema.tracker import PowerEMA, TraditionalEMA

__all__ = [
    "PowerEMA",
    "Reconstruction",
    "Snapshot",
    "SnapshotStore",
    "TraditionalEMA",
    "gamma_to_sigma_rel",
    "reconstruct",
    "sigma_rel_to_gamma",
    "solve_weights",
    "stored",
]
