"""`runtime` and `tracking`: how a run runs and where it is logged; neither changes what is learned,
`precision` excepted.
"""

from typing import Annotated, Literal

from pydantic import Field

from edm2.params.section import Count, NonNegative, Section


class Runtime(Section):
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda|cuda:\d+)$")] = Field(
        description="auto: a GPU where there is one; or cpu, cuda, cuda:N"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        description="precision of activations; parameters stay fp32"
    )
    compile: bool = Field(
        description="torch.compile what is trained (denoiser, VAE); gains nothing on CPUs"
    )
    channels_last: bool = Field(
        description="keep activations of denoiser and VAE as NHWC in memory; faster in 16 bits"
    )
    threads: Count | None = Field(description="CPU threads of a process; null: PyTorch's choice")
    checkpoint_seconds: NonNegative = Field(
        description="seconds between two checkpoints; what a kill -9 can lose at the most"
    )


class Tracking(Section):
    mlflow: bool = Field(description="log to MLflow besides the local files")
    uri: str | None = Field(description="MLflow store; null: SQLite below .mlflow/ of the project")
    experiment: Annotated[str, Field(min_length=1)] = Field(description="MLflow experiment")
