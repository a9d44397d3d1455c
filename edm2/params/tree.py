"""The whole of params.yaml."""

from typing import Annotated

from pydantic import Field

from edm2.params.codec import CodecChoice
from edm2.params.configs import CONFIGS, ConfigName, TrainingConfig
from edm2.params.dataset import Dataset
from edm2.params.diffusion import Diffusion
from edm2.params.ema import Ema, Sweep
from edm2.params.errors import UserError
from edm2.params.evaluation import Evaluation, Sampling
from edm2.params.features import Features
from edm2.params.guidance import Guidance
from edm2.params.latents import Latents
from edm2.params.launch import Launch
from edm2.params.number_types import Seeds
from edm2.params.replicates import Replicate, find_replicate
from edm2.params.resolution import resolve
from edm2.params.runtime import Runtime, Tracking
from edm2.params.seams import DETECTORS
from edm2.params.section import Section
from edm2.params.text_types import PathText
from edm2.params.vae import Vae

ConfigNames = Annotated[tuple[ConfigName, ...], Field(strict=False, min_length=1, max_length=100)]


class Params(Section):
    """All params. See `load`."""

    plugins: Annotated[tuple[PathText, ...], Field(strict=False, max_length=100)] = Field(
        description="Python files (relative to the project root) or modules that add members to "
        "the seams: configs, backbones, objectives, samplers, sources, codecs, detectors, metrics"
    )
    configs: ConfigNames = Field(description="training configs to run and compare")
    seeds: Seeds = Field(
        description="seeds of the denoisers' trainings: each config is trained once with each"
    )
    launch: Launch = Field(
        description="launcher of the stages: a command like python or torchrun --nproc_per_node=8, or "
        "commands by stage with `default` for the others; variables like $SLURM_NNODES are replaced"
    )
    dataset: Dataset = Field(description="where images come from")
    features: Features = Field(description="the classifier of the dataset")
    codec: CodecChoice = Field(description="from images to latents and back")
    vae: Vae = Field(description="the VAE that makes the latents, if codec.kind is trained")
    latents: Latents = Field(description="how latents are stored")
    diffusion: Diffusion = Field(description="the denoiser and its training")
    ema: Ema = Field(description="averages tracked while training")
    sweep: Sweep = Field(description="EMA lengths chosen after training")
    sampling: Sampling = Field(description="the sampler")
    guidance: Guidance = Field(description="a second network that guides the sampler")
    evaluation: Evaluation = Field(description="metrics of generated images")
    runtime: Runtime = Field(description="device, precision, checkpoints")
    tracking: Tracking = Field(description="MLflow")

    @property
    def detector_dims(self) -> int:
        """Width of the feature vectors that the metrics compare."""
        return DETECTORS[self.evaluation.detector].dims or self.features.dims

    def require_config(self, config: str, named: str, file: object) -> None:
        """Check that a config is one of `configs`.

        Args:
            named: how the user named it, for the error.
            file: of these params.

        Raises:
            UserError: it is not, or there is no such config.
        """
        if config not in CONFIGS:
            raise UserError(
                f"{named}: no such training config. Expected one of `configs` in {file}: "
                f"{', '.join(self.configs)}."
            )
        if config not in self.configs:
            raise UserError(
                f"{named}: not one of `configs` in {file} ({', '.join(self.configs)}). Add it there, "
                "or name one of these."
            )

    @property
    def replicates(self) -> tuple[Replicate, ...]:
        """All trainings: every config with every seed."""
        return tuple(Replicate(config, seed) for config in self.configs for seed in self.seeds)

    def replicate(self, name: str, named: str, file: object) -> Replicate:
        """The training that a user names; see `find_replicate`."""
        return find_replicate(self.replicates, name, named, file)

    def of(self, config: ConfigName) -> "Params":
        """The params of one config: its entry in `diffusion.per_config` merged in."""
        return self.model_copy(update={"diffusion": self.diffusion.of(config)})

    def resolved(self, config: ConfigName) -> TrainingConfig:
        """The complete config: its options, the paper's numbers, and the values of these params."""
        return resolve(config, self.diffusion)

    def guide_of(self, config: ConfigName) -> "Params":
        """The params of the training of a config's guide: `guidance.changes` also merged in."""
        guide = self.diffusion.of(config).changed(self.guidance.changes)
        return self.model_copy(update={"diffusion": guide})
