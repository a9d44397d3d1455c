"""The networks that are run to find the fastest precision."""

from types import SimpleNamespace

import pytest
import torch
from tiny import ROOT
from tiny_autoencoder import vae_params
from tiny_denoiser import CLASSES, diffusion_params

from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.inference import InferenceDenoiser
from edm2.diffusion.precision import denoiser_precision
from edm2.diffusion.setup import denoiser_for
from edm2.params import load
from edm2.runtime import precision
from edm2.vae.network import Autoencoder
from edm2.vae.precision import vae_precision

CPU = torch.device("cpu")
LATENTS = SimpleNamespace(shape=(4, 8, 8), classes=["class"] * CLASSES)


@pytest.fixture
def auto():
    """Params of tiny networks with `runtime.precision: auto`."""
    params = load(ROOT / "params.yaml")
    runtime = params.runtime.model_copy(update={"precision": "auto"})
    sections = {"diffusion": diffusion_params(), "vae": vae_params({}), "runtime": runtime}
    return params.model_copy(update=sections)


@pytest.fixture
def runs(monkeypatch):
    """Run with 3 images in float32 and bfloat16, which is made the faster one.

    The dtypes of outputs and whether gradients were computed, by class of network.
    """
    seen = []

    def record(network, inputs, output):
        if isinstance(network, Autoencoder | Denoiser | InferenceDenoiser):
            raw = output[0] if isinstance(network, Autoencoder) else output
            seen.append((type(network), inputs[0].shape, raw.dtype, raw.requires_grad))

    def measure(run, device, max_images):
        for dtype in (torch.float32, torch.bfloat16):
            run(dtype, 3)
        seen.append(max_images)
        return {"fp32": 2.0, "bf16": 1.0}

    monkeypatch.setattr(precision, "measure", measure)
    handle = torch.nn.modules.module.register_module_forward_hook(record)
    yield seen
    handle.remove()


@pytest.mark.parametrize("trains", [True, False])
def test_a_denoiser_is_run_as_it_is_used(auto, runs, tmp_path, trains):
    torch.manual_seed(3)
    resolved = denoiser_precision(auto, "G", LATENTS, tmp_path, CPU, trains=trains)
    assert resolved.runtime.precision == "bf16"
    assert resolved.model_copy(update={"runtime": auto.runtime}) == auto
    batch = auto.diffusion.batch if trains else auto.sampling.batch
    network = Denoiser if trains else InferenceDenoiser
    assert runs == [*[(network, (3, 4, 8, 8), torch.float32, trains)] * 2, batch]
    random = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(random, torch.rand(()))  # what is initialized after it is as without it


def test_a_vae_is_run_as_it_is_trained(auto, runs, tmp_path):
    resolved = vae_precision(auto, tmp_path, CPU)
    assert resolved.runtime.precision == "bf16"
    shape = (3, 3, auto.dataset.resolution, auto.dataset.resolution)
    dtypes = (torch.float32, torch.bfloat16)
    assert runs == [*((Autoencoder, shape, dtype, True) for dtype in dtypes), auto.vae.batch]


def test_a_network_is_not_built_before_its_precision_is_known(auto):
    with pytest.raises(ValueError, match="auto"):
        denoiser_for("G", auto, (4, 8, 8), CLASSES)
