"""`runtime` and `tracking`: how and where things run, and where they are logged.

Except for `precision`, `reading` and `skip_images` they do not change results.
"""

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from edm2.params.number_types import Images, Minutes, Processes, ProcessesOrNone, Seconds
from edm2.params.section import Section
from edm2.params.text_types import Command, PathText

Reading = Literal["random", "blocks"]
MAX_LANES = 256


def lanes(batch: int) -> int:
    """Lanes of the order of images with `reading: blocks`: the largest divisor of the batch up to 256."""
    return next(count for count in range(min(batch, MAX_LANES), 0, -1) if batch % count == 0)


def _known_device(name: object) -> object:
    if not isinstance(name, str) or not re.fullmatch(r"auto|cpu|cuda|cuda:\d{1,3}", name):
        raise PydanticCustomError("literal_device", "'auto', 'cpu', 'cuda' or 'cuda:N'")
    return name


class Runtime(Section):
    device: Annotated[str, BeforeValidator(_known_device)] = Field(
        description="auto: a GPU where there is one; or cpu, cuda, cuda:N"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        description="precision of activations; parameters stay fp32; auto: fp32 or bf16, whichever a stage "
        "measures to be faster on this device when it begins"
    )
    compile: bool = Field(
        description="use torch.compile for trained networks (denoiser, VAE); not faster on CPUs"
    )
    channels_last: bool = Field(
        description="NHWC memory layout of denoiser and VAE; faster in 16 bits"
    )
    data_parallel: Literal["ddp", "fsdp"] = Field(
        description="how several ranks train a denoiser; ddp: each has all of it; fsdp: each has a part of "
        "parameters, averages and optimizer state, for networks too large for one GPU"
    )
    activation_checkpointing: bool = Field(
        description="when a denoiser is trained, compute activations again in the backward pass instead "
        "of keeping them: less memory, a third more computation"
    )
    threads: Processes | None = Field(
        description="CPU threads of a process; null: PyTorch's choice"
    )
    workers: ProcessesOrNone | None = Field(
        description="worker processes of a rank that prepare images and read batches; 0: none, the rank "
        "does it; null: one for each of its CPU cores, none for small datasets"
    )
    reading: Reading = Field(
        description="order in which trainings read; random: a uniform permutation, one read per image; "
        "blocks: blocks of neighbors in random order, shuffled over a distance, for slow disks"
    )
    checkpoint_seconds: Seconds = Field(
        description="seconds from the end of a checkpoint to the next: about what is lost if a stage is "
        "killed; 0: after each step"
    )
    timeout_minutes: Minutes = Field(
        description="of several ranks: minutes after which one that does not respond, or that does not "
        "arrive where the others wait for it in a step, ends the launch"
    )
    skip_images: PathText | None = Field(
        description="file that lists damaged images of vae.images to skip, relative to the project root"
    )
    nonfinite_patience: Images | None = Field(
        description="images of steps in a row with a loss or gradients that are not finite, after "
        "which a training stops; null: only weights that are not finite stop it"
    )


class Tracking(Section):
    mlflow: bool = Field(description="log to MLflow besides the local files")
    uri: Command | None = Field(
        description="MLflow store, like http://host:5000 or sqlite:///file.db (from the project root); "
        "null: MLFLOW_TRACKING_URI, or SQLite below .mlflow/ of the project"
    )
    experiment: Annotated[str, Field(min_length=1, max_length=500)] = Field(
        description="MLflow experiment"
    )
    log_model: bool = Field(
        description="log the best network of the report to MLflow as a model, with its weights and its card; "
        "false where a store of all networks would become too large"
    )
