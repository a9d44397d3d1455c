"""A tiny project: the whole pipeline with tiny networks, in a temporary folder."""

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ruamel.yaml import YAML

from edm2.params.replicates import Replicate

ROOT = Path(__file__).parent.parent
REPLICATE = Replicate("G", 0)  # the only training of the tiny project
STAGES = (
    "prepare",
    "train_features",
    "reference",
    "train_vae",
    "baselines",
    "encode_latents",
    "train_diffusion",
    "train_guide",
    "snapshot_emas",
    "sweep_ema",
    "fid",
    "report",
)
PER_CONFIG = ("train_diffusion", "train_guide", "snapshot_emas", "sweep_ema", "fid")
TINY: dict[str, Any] = {
    "features.channels": 8,
    "features.slices": 2,
    "features.dims": 8,
    "features.duration_nimg": 512,
    "features.log_nimg": 256,
    "vae.channels": 8,
    "vae.norm_groups": 2,  # the same in all norms, so that the VAE can be exported
    "vae.duration_nimg": 512,
    "vae.log_nimg": 128,
    "vae.warmup_nimg": 128,
    "vae.evaluate_nimg": 256,
    "vae.ema.snapshot_nimg": 128,
    "vae.ema.evaluate_lengths": [0.1],
    "diffusion.channels": 8,
    "diffusion.batch": 64,
    "diffusion.duration_nimg": 1024,
    "diffusion.log_nimg": 256,
    "diffusion.magnitudes_nimg": 512,
    "diffusion.lr_rampup_nimg": 256,
    "ema.snapshot_nimg": 256,
    "sweep.ema_lengths": [0.05, 0.1, 0.2],
    "sampling.steps": 3,
    "sampling.batch": 100,
    "evaluation.samples": 300,
    "evaluation.grid_columns": 2,
    "runtime.device": "cpu",
    "runtime.threads": 1,
    "tracking.mlflow": False,
}
FULL_VAE: dict[str, Any] = {  # all options of the VAE
    "vae.channel_mult": [1, 2],
    "vae.wavelet": True,
    "vae.high_resolution": True,
    "vae.attention": True,
    "vae.variance": "learned",
    "vae.clamp": 4.0,
    "vae.microbatch": 32,
    "vae.losses.adversarial": 0.5,
    "vae.losses.low_pass": 0.5,
    "vae.losses.mse": 0.5,
    "vae.losses.flip": 0.5,
    "vae.adversarial.lecam": 0.1,
    "vae.adversarial.lr": 0.02,
    "vae.adversarial.discriminator_nimg": 128,
    "vae.adversarial.generator_nimg": 256,
    "vae.equivariance.flip": 0.5,
    "vae.equivariance.flip_channels": 1,
    "vae.equivariance.crop": 0.5,
    "vae.equivariance.scale": 0.5,
    "vae.images.min_area": 0.7,
    "vae.images.flip": 0.5,
}


class ParsedOnce:
    """YAML's safe parser with a memory: a params.yaml takes 20 ms, and tests read hundreds."""

    trees: ClassVar[dict[str, Any]] = {}  # by their text

    def load(self, text: str) -> Any:
        if text not in self.trees:
            self.trees[text] = YAML(typ="safe").load(text)
        return deepcopy(self.trees[text])


def write_params(path: Path, changes: dict[str, Any]) -> Path:
    """Write params.yaml with changes by key path."""
    tree = default_params()
    for key, value in changes.items():
        node, parts = tree, key.split(".")
        for part in parts[:-1]:
            node = node[part]
        assert parts[-1] in node, key
        node[parts[-1]] = value
    text = "".join(f"{line}\n" for line in yaml_lines(tree))
    ParsedOnce.trees[text] = json.loads(json.dumps(tree))
    path.write_text(text, encoding="utf-8")
    return path


def yaml_lines(tree: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A tree as YAML whose values are JSON, which is YAML: ruamel would take 15 ms for params.yaml."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:"
            yield from yaml_lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"


def default_params() -> dict[str, Any]:
    """The tree of params.yaml."""
    tree: dict[str, Any] = ParsedOnce().load((ROOT / "params.yaml").read_text())
    return tree


def make_project(folder: Path, changes: dict[str, Any], results_of: Path | None = None) -> Path:
    """A project with changed params and, optionally, a copy of the results of another project."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dvc.yaml", folder)
    for code in ("edm2", "stages"):
        (folder / code).symlink_to(ROOT / code)
    write_params(folder / "params.yaml", changes)
    if results_of is not None:
        for results in ("data", "models", "reports"):
            shutil.copytree(results_of / results, folder / results)
    return folder


@contextmanager
def entered(folder: Path) -> Iterator[None]:
    """Within the block, `folder` is the current folder and DVC_ROOT."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        yield


def run_stage(
    name: str,
    config: str = "",
    external_inputs: str = "",
    watched_inputs: str = "",
    seed: int = 0,
) -> None:
    """Run a stage in this process, in the current folder."""
    from edm2.params import load
    from edm2.pipeline import runner

    replicate = Replicate(config, seed) if config else None
    stage = importlib.import_module(f"stages.{name}")
    inputs = (lambda _: external_inputs, lambda _: watched_inputs)
    share = getattr(stage, "share", None)
    runner.run_stage(name, stage.run, load("params.yaml"), replicate, *inputs, share)


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start a module of the project in a new process."""
    environment = {**os.environ, "DVC_ROOT": str(folder), "PYTHONPATH": str(folder), **variables}
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_on_two_ranks(folder: Path, *stages: str) -> None:
    """Run stages in one pair of processes, for example `run_on_two_ranks(folder, "fid@G-0", "report")`.

    They have torchrun's environment variables; torchrun itself would take as long as a third process.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in stages]
        ports = [free.getsockname()[1] for free in sockets]
    arguments = [f"{port}={stage}" for port, stage in zip(ports, stages, strict=True)]
    both = {
        "PYTHONPATH": os.pathsep.join(map(str, (folder, ROOT / "tests"))),
        "MASTER_ADDR": "127.0.0.1",
        "WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        start(folder, "stages_on_rank", *arguments, RANK=rank, LOCAL_RANK=rank, **both)
        for rank in ("0", "1")
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)


def write_autoencoder(folder: Path, **changes: Any) -> Path:
    """A tiny VAE of Stable Diffusion's architecture with random weights; latents are 4× smaller."""
    from diffusers import AutoencoderKL

    config = {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 4,
        "norm_num_groups": 4,
    }
    AutoencoderKL(**{**config, **changes}).save_pretrained(folder, safe_serialization=True)
    return folder
