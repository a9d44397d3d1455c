"""A training on any number of ranks in a pipeline of its own, with all that trainings have, in a second."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ruamel.yaml import YAML
from tiny import TINY, write_params

if TYPE_CHECKING:
    import torch  # as in stages, imported by what needs it

NAME = "small_training"
OUTS = ("models/small_training.safetensors", "reports/small_training.csv")
BATCH, STEPS, ROW = 12, 20, 60  # images; rows of the log are five steps apart
SIGNAL = "EDM2_TEST_SIGNAL"  # environment variable: "RANK NIMG NUMBER TARGET", see `_send_signal`
WIDTH = 24


class Fit:
    """Fits the identity with Adam; logs a mean, a constant that rounds, and a sum over parts of the batch."""

    def __init__(self):
        import torch

        from edm2.runtime.moments import allocate_moments
        from edm2.runtime.parallel import data_parallel

        torch.manual_seed(0)
        layers = (torch.nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.network = torch.nn.Sequential(*layers)
        self.forward = data_parallel(self.network, torch.device("cpu"))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        allocate_moments(self.optimizer)

    def step(self, batch, nimg):
        self.optimizer.zero_grad()
        errors = (self.forward(batch) - batch).square().mean(1)
        errors.mean().backward()
        self.optimizer.step()
        positive = errors.detach()[batch[:, 0] > 0]
        parts = (positive.double().sum(), float(len(positive)))
        return {"train/loss": errors.detach().mean(), "train/lr": 0.04, "train/positive": parts}

    def state_dict(self):
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state):
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])


def batches(nimg: int) -> Iterator["torch.Tensor"]:
    """This rank's share of each batch; each image depends on its number alone."""
    import torch

    from edm2.runtime.distributed import ranks

    share = BATCH // ranks().world_size
    while True:
        _send_signal(nimg)
        first = nimg + share * ranks().rank
        images = range(first, first + share)
        seeds = (torch.Generator().manual_seed(image) for image in images)
        yield torch.stack([torch.randn(WIDTH, generator=seed) for seed in seeds])
        nimg += BATCH


def _send_signal(nimg: int) -> None:
    """Before the step from this time on: to this rank, or to the launcher that has started it."""
    from edm2.runtime.distributed import ranks

    rank, time, number, target = os.environ.get(SIGNAL, "-1 0 0 self").split()
    if (ranks().rank, nimg) != (int(rank), int(time)):
        return
    if target == "self":
        os.kill(os.getpid(), int(number))
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    os.kill(os.getppid(), int(number))
    os.read(reader, 1)  # until the launcher has passed it on


def run(context):
    """Train; write the weights and the curves."""
    import torch

    from edm2.ema.snapshot import write_tensors
    from edm2.params.section import Training
    from edm2.pipeline.outputs import write_curves
    from edm2.runtime.distributed import is_main_process
    from edm2.runtime.loop import Every, train

    task = Fit()
    train(
        context.title,
        task,
        batches,
        Training(batch=BATCH, duration_nimg=BATCH * STEPS, log_nimg=ROW),
        context.state,
        context.run,
        checkpoint_seconds=context.params.runtime.checkpoint_seconds,
        nonfinite_patience=context.params.runtime.nonfinite_patience,
        remedy="",
        every=[Every(2 * ROW, lambda nimg: {"held_out/bias": task.network[0].bias.sum().item()})],
    )
    if is_main_process():
        weights = {name: tensor.contiguous() for name, tensor in task.network.state_dict().items()}
        write_tensors(context.out(OUTS[0]), weights, torch.float32)
        write_curves(context, OUTS[1])
        context.run.log_summary({"weights": float(len(weights))})


def make_pipeline(folder: Path) -> Path:
    """A project whose only stage is this one; it saves after each step."""
    folder.mkdir(parents=True)
    declared = {
        "cmd": f"python -m {NAME}",
        "params": ["dataset"],
        "outs": [*OUTS, f"{OUTS[1]}.sha256"],
    }
    with (folder / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": {NAME: declared}}, file)
    write_params(folder / "params.yaml", {**TINY, "runtime.checkpoint_seconds": 0.0})
    return folder


if __name__ == "__main__":
    from edm2.pipeline.runner import main

    main(run)
