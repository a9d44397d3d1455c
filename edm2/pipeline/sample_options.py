"""What a command line sets instead of params, or of what a network recommends."""

from dataclasses import dataclass
from typing import Any

from edm2.params import Params
from edm2.params.evaluation import Sampling
from edm2.params.loading import changed
from edm2.params.runtime import Runtime

SAMPLING = {"steps": "--steps", "solver": "--solver", "churn": "--churn", "batch": "--batch"}
RUNTIME = {"precision": "--dtype", "device": "--device"}


@dataclass(frozen=True)
class SampleOptions:
    """Options of `edm2 sample`; None: not set.

    Attributes:
        steps, solver, churn, batch: see `Sampling`.
        dtype: precision of activations, `runtime.precision`.
        device: see `Runtime`.
    """

    steps: int | None = None
    solver: str | None = None
    churn: float | None = None
    batch: int | None = None
    dtype: str | None = None
    device: str | None = None

    def sampling(self, sampling: Sampling) -> Sampling:
        """A sampler with these values. Raises UserError; the message names the option."""
        changes = {name: getattr(self, name) for name in SAMPLING}
        return changed(sampling, "sampling", _without_none(changes), SAMPLING)

    def runtime(self, runtime: Runtime) -> Runtime:
        """As `sampling`, of `runtime`."""
        changes = {"precision": self.dtype, "device": self.device}
        return changed(runtime, "runtime", _without_none(changes), RUNTIME)

    def params(self, params: Params) -> Params:
        """The params of a project with these values."""
        sampling, runtime = self.sampling(params.sampling), self.runtime(params.runtime)
        return params.model_copy(update={"sampling": sampling, "runtime": runtime})


def _without_none(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changes.items() if value is not None}
