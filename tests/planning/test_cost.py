"""Operations and memory of workloads on fake tensors."""

import pytest
import torch
from tiny import ROOT

from edm2.diffusion.setup import denoiser_for
from edm2.params import load
from edm2.params.presets import preset_text
from edm2.planning.cost import CPU, Meter, cost_of
from edm2.planning.dataset import DatasetSize
from edm2.planning.workloads import denoiser_training, denoising, vae_training
from edm2.runtime.precision import with_precision

MIB = 2**20
IMAGENET = DatasetSize(1000, 10, 1000, 512, (4, 64, 64), 1.0, False)
DIGITS = DatasetSize(1528, 269, 10, 16, (4, 4, 4), 600.0, True)


def preset(name, tmp_path):
    """A preset's params without their files, for the layout of tensors on a GPU."""
    (tmp_path / "params.yaml").write_text(preset_text(name), encoding="utf-8")
    params = load(tmp_path / "params.yaml", ("dataset.path", "runtime.compile"))
    runtime = params.runtime.model_copy(update={"channels_last": False})
    return params.model_copy(update={"runtime": runtime})


def test_operations_of_a_layer_and_its_backward_pass():
    def build(device):
        layer, x = torch.nn.Linear(3, 5), torch.ones(2, 3, requires_grad=True)
        return lambda passes: layer(x).sum().backward()

    # y = xW is 2·2·3·5; so is each of its gradients, of x and of W
    assert cost_of(build).flops == 3 * 2 * 2 * 3 * 5


def test_memory_is_that_of_tensors_alive_at_once():
    def build(device):
        kept = torch.empty(MIB, dtype=torch.uint8)

        def run(passes):
            for _ in range(2):  # the first is gone when the second is made
                torch.empty(2 * MIB, dtype=torch.uint8)
            kept.view(-1)[: MIB // 2]  # no memory of its own
            torch.empty(1, dtype=torch.uint8)  # a block of the allocator

        return run

    cost = cost_of(build)
    assert (cost.resting_bytes, cost.peak_bytes) == (MIB, 3 * MIB)


def test_modules_of_fake_tensors_may_be_asked_to_move():
    def build(device):
        layer = torch.nn.Conv2d(1, 1, 1).to(device).to(memory_format=torch.channels_last)
        return lambda passes: layer(torch.ones(1, 1, 2, 2))

    assert cost_of(build).flops == 2 * 2 * 2
    assert torch.nn.Linear(1, 1).to(torch.float64).weight.dtype == torch.float64  # from then on


@pytest.mark.parametrize("backbone", ["classifier", "efficientnet"])
def test_the_vae_costs_more_with_a_discriminator(backbone):
    params = load(ROOT / "params.yaml")
    operations = []
    for weight in (0.0, 0.3):
        losses = params.vae.losses.model_copy(update={"adversarial": weight})
        vae = params.vae.model_copy(update={"backbone": backbone, "losses": losses})
        adversarial = params.model_copy(update={"vae": vae})
        operations.append(cost_of(vae_training(adversarial, DIGITS, 1, images=2).build).flops)
    assert operations[0] < operations[1]


def test_fake_tensors_need_the_memory_of_real_ones():
    params = load(ROOT / "params.yaml")
    workload = denoiser_training("G", params, DIGITS, ranks=1, images=64)
    with torch.random.fork_rng(devices=[]), Meter() as meter:
        run = workload.build(CPU)
        meter.peak = meter.now
        run(2)
        peak, resting = meter.peak, meter.now
    cost = cost_of(workload.build, 2)
    assert cost.peak_bytes == pytest.approx(peak, rel=0.01)
    assert cost.resting_bytes == pytest.approx(resting, rel=0.01)


def test_sampling_holds_the_denoiser_and_its_form_for_sampling():
    params = load(ROOT / "params.yaml")
    latent, classes = DIGITS.latent_shape, DIGITS.classes
    denoiser = denoiser_for("G", with_precision(params, "fp32"), latent, classes)
    size = sum(p.nbytes for p in denoiser.parameters())
    cost = cost_of(denoising("G", with_precision(params, "fp32"), DIGITS, images=1).build)
    assert cost.resting_bytes > 2 * size


def test_nothing_is_computed_or_drawn():
    state = torch.random.get_rng_state()
    cost_of(lambda device: lambda passes: torch.empty(2**40).normal_())  # 4 TiB
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_a_forward_pass_has_the_published_operations(tmp_path):
    params = preset("imagenet512-xxl", tmp_path)

    def build(device):
        with device:
            denoiser = denoiser_for("G", params, IMAGENET.latent_shape, IMAGENET.classes).eval()
            x = torch.empty(2, *IMAGENET.latent_shape)
            labels = torch.zeros(2, dtype=torch.int64)
        return lambda passes: denoiser(x, torch.ones(2), labels)

    cost = cost_of(build)
    published = 552.1  # 10⁹ multiply-adds and element-wise operations of an image, EDM2 Table 2
    assert 0.98 * published < cost.flops / 2 / 2 / 1e9 < published


@pytest.mark.slow
def test_a_training_step_at_full_size(tmp_path):
    params = preset("imagenet512-xs", tmp_path)
    workload = denoiser_training("G", params, IMAGENET, ranks=8, images=16)
    assert (workload.images, workload.passes) == (16, 16)
    cost = cost_of(workload.build)
    parameters = 124_713_125  # EDM2 Table 2
    # the backward pass has twice the operations of the forward pass, except at the input; PyTorch 2.11
    # does not count attention's
    assert cost.flops / 16 / 6 / 1e9 == pytest.approx(44.95, rel=0.01)
    # in float32 the parameters, their gradients, Adam's two moments and two averages
    assert cost.resting_bytes == pytest.approx(24 * parameters, rel=0.01)
    assert cost.peak_bytes > cost.resting_bytes + 16 * 64 * 64 * 128 * 2 * 10  # activations
