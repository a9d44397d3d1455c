"""Trainings that diverge: steps that are not finite are counted, marked, and end the training.

A step is not finite if one of its metrics is not, or if gradients were set to zero because they were
not. Steps are counted on the device; nothing waits for the count except log rows, actions and
checkpoints, where the process waits anyway.
"""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edm2.params.errors import NotFiniteError, OutOfRangeError, UserError
from edm2.params.section import Training
from edm2.runtime.distributed import all_reduce, is_main_process
from edm2.runtime.finite import listed, nonfinite_tensors
from edm2.runtime.log import NONFINITE_GRADIENTS, NONFINITE_STEPS
from edm2.runtime.tracking import Run


class DivergedError(UserError):
    """A training ended because it was not finite.

    Attributes:
        since: time in images of the first step in a row that was not finite.
        nimg: time in images at which the training ended.
    """

    def __init__(self, message: str, since: int, nimg: int) -> None:
        super().__init__(message)
        self.since, self.nimg = since, nimg


@dataclass(frozen=True)
class Streak:
    """The latest steps in a row that are not finite, over all ranks.

    Attributes:
        metrics: images of the steps whose metrics are not finite.
        gradients: images of the steps in which values of gradients were set to zero.
    """

    metrics: int = 0
    gradients: int = 0

    @property
    def images(self) -> int:
        return max(self.metrics, self.gradients)


class StepMonitor:
    """Watches the steps of one training."""

    def __init__(
        self,
        schedule: Training,
        patience: int | None,
        remedy: str,
        checkpoints: Callable[[], Sequence[Path]],
        run: Run,
        means: Callable[[], Mapping[str, float]],
    ) -> None:
        """
        Args:
            patience: images of steps in a row that are not finite, after which the training ends;
                None: it never does.
            remedy: which params to change, as sentences.
            checkpoints: the complete ones, the latest last.
            means: the metrics of the latest steps.
        """
        self.batch, self.end = schedule.batch, schedule.duration_nimg
        self.patience, self.remedy, self.run = patience, remedy, run
        self.checkpoints, self.means = checkpoints, means
        self.counts = torch.zeros(2, dtype=torch.int64)  # a Streak, on the device
        self.streak = Streak()  # as of the last check
        self.warned_of = 0  # time of the first step of the last streak with a warning

    def add(self, finite: torch.Tensor, metrics: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Count a step. Returns a metric: the part of the steps that are not finite.

        Args:
            finite: whether all metrics are finite, bool scalar.
            metrics: of the step, in which each NONFINITE_GRADIENTS is an int64 scalar.
        """
        zeroed = [n for key, n in metrics.items() if key.endswith(NONFINITE_GRADIENTS)]
        some = functools.reduce(torch.add, zeroed) > 0 if zeroed else torch.zeros_like(finite)
        failed = torch.stack([~finite, some])
        self.counts = (self.counts.to(failed.device) + self.batch) * failed
        return {NONFINITE_STEPS: failed.any()}

    def check_steps(self, nimg: int) -> bool:
        """Whether a checkpoint may be written at time `nimg`: not while steps are not finite, unless
        the patience is None. Every rank must call this.

        Raises:
            DivergedError: the patience is exhausted, or this is the end and the loss is not finite.
        """
        streak = self.streak = Streak(*all_reduce(self.counts.clone(), "max").tolist())
        self._warn(nimg)
        if self.patience is None:
            return True
        at_end = nimg >= self.end and streak.metrics > 0
        if at_end or streak.images >= min(self.patience, self.end):
            raise self._error("", nimg)
        return not streak.images

    def act(self, action: Callable[[int], Mapping[str, float]], nimg: int) -> Mapping[str, float]:
        """The metrics of an action at time `nimg`.

        Raises:
            DivergedError: as `check_steps`; or the action needs finite values, or images, and there are
                others.
        """
        self.check_steps(nimg)
        try:
            return action(nimg)
        except NotFiniteError as error:
            raise self._error(str(error), nimg) from None
        except OutOfRangeError as error:  # the last checkpoint may be of the same weights
            raise DivergedError(
                f"stopped at {nimg} images. {error} {self.remedy}", nimg, nimg
            ) from None

    def check_state(self, state: Mapping[str, Any], nimg: int) -> None:
        """
        Raises:
            DivergedError: weights, or other tensors of a task's state, are not finite. They would
                stay so, whatever the patience.
        """
        names = nonfinite_tensors(state)
        if all_reduce(torch.tensor(len(names)), "max"):
            what = listed(names) or "the state of another process"
            raise self._error(f"Not finite: {what}.", nimg)

    def _warn(self, nimg: int) -> None:
        """Warn of a new streak, and mark the run."""
        since = self._since(nimg)
        single = self.streak.images <= self.batch and not self.streak.metrics
        if since != self.warned_of and not single:
            self.warned_of = since
            self.run.set_tag("nonfinite", f"since {since} images")
            if is_main_process():
                print(f"warning: {self._describe(nimg)}", file=sys.stderr)

    def _error(self, reason: str, nimg: int) -> DivergedError:
        """
        Args:
            reason: what is not finite besides steps, as sentences.
        """
        checkpoints = self.checkpoints()
        way_back = (
            f"{checkpoints[-1]} is from before: the same command continues from it, also with another "
            "runtime.nonfinite_patience. Other changes start a new training."
            if checkpoints
            else "There is no checkpoint from before: the same command starts at 0 images."
        )
        steps = self._describe(nimg) if self.streak.images else ""
        parts = (f"stopped at {nimg} images.", steps, reason, self.remedy, way_back)
        return DivergedError(" ".join(filter(None, parts)), self._since(nimg), nimg)

    def _since(self, nimg: int) -> int:
        """Time of the first step of the streak; `nimg` if there is none."""
        return nimg - max(0, self.streak.images - self.batch)

    def _describe(self, nimg: int) -> str:
        since, means = self._since(nimg), self.means()
        if self.streak.metrics >= self.streak.gradients:
            names = [key for key, mean in means.items() if not math.isfinite(mean)]
            names.sort(key=lambda key: not key.startswith("train/"))
            return f"Not finite since {since} images: {listed(names) or 'another process'}."
        zeroed = sum(mean for key, mean in means.items() if key.endswith(NONFINITE_GRADIENTS))
        return (
            f"Gradients are not finite in any step since {since} images: {zeroed:.0f} of their values "
            "a step are set to zero."
        )
