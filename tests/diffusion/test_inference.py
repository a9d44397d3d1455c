"""The form for sampling computes the same function as the denoiser."""

from dataclasses import replace

import pytest
import torch
from tiny_denoiser import CLASSES, diffusion_params, make_denoiser, perturb
from torch.nn import functional as F

from edm2.diffusion.denoiser import build_denoiser
from edm2.diffusion.inference import prepare_for_inference
from edm2.diffusion.inference_blocks import upsampling_kernel
from edm2.diffusion.layers import upsample
from edm2.params.configs import CONFIGS


def network(config, precision="fp32", **changes):
    """With noise on all parameters: gains and ends of branches are not zero."""
    denoiser = make_denoiser(config, diffusion_params(**changes), precision)
    return perturb(denoiser, 0.3).eval().requires_grad_(False)


def arguments(count=6):
    rng = torch.Generator().manual_seed(1)
    x = 3 * torch.randn(count, 4, 8, 8, generator=rng)
    sigma = torch.logspace(-2, 1, count)
    return x, sigma, torch.arange(count) % (CLASSES + 1) - 1  # −1: no class


def assert_equal(denoiser, prepared, *args, tolerance=3e-5):
    """Up to a part of the change that the network makes to c_skip·x."""
    expected, result = denoiser(*args), prepared(*args)
    assert result.dtype == torch.float32
    assert result.shape == expected.shape
    x, sigma = args[:2]
    skipped = denoiser.objective.precondition(sigma).c_skip[:, None, None, None] * x
    scale = float((expected - skipped).detach().abs().max())
    assert scale > 0.1
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_in_fp32(config, memory_format):
    denoiser = network(config)
    x, sigma, labels = arguments()
    prepared = prepare_for_inference(denoiser, memory_format=memory_format)
    assert_equal(denoiser, prepared, x, sigma, labels)
    assert_equal(denoiser, prepared, x, sigma, F.one_hot(labels.clamp(0), CLASSES).float())
    assert_equal(denoiser, prepared, x, sigma, None)


@pytest.mark.parametrize("config", CONFIGS)
def test_every_config_in_16_bits(config):
    """Both forms are as far from fp32 as 16 bits are; `dtype` is by default that of the denoiser."""
    denoiser, args = network(config, "bf16"), arguments()
    exact = network(config)
    assert_equal(exact, prepare_for_inference(denoiser), *args, tolerance=5e-2)
    prepared = prepare_for_inference(exact, torch.bfloat16)
    assert torch.equal(prepared(*args), prepare_for_inference(denoiser)(*args))


@pytest.mark.parametrize(
    "options",
    [
        {"magnitude_preserving": True, "scaled_labels": True},
        {"magnitude_preserving": True, "pixel_norm": True, "weight_norm": "forced"},
        {"ones_channel": True, "attention": "cosine", "embedding_layers": 1},
    ],
)
def test_options_apart_from_their_configs(options):
    """Magnitude preservation with biases: shares of sums scale biases, SiLU's constant does not."""
    torch.manual_seed(0)
    denoiser = build_denoiser(
        replace(CONFIGS["B"], **options, attention_resolutions=(4,)),
        channels=8,
        resolution=8,
        num_classes=CLASSES,
        channel_mult=(1, 2),
        res_blocks=1,
    )
    perturb(denoiser, 0.3).eval().requires_grad_(False)
    assert_equal(denoiser, prepare_for_inference(denoiser), *arguments())


def test_an_unconditional_network():
    denoiser = build_denoiser("G", channels=8, resolution=8, num_classes=0, res_blocks=1).eval()
    perturb(denoiser, 0.3)
    assert_equal(denoiser, prepare_for_inference(denoiser), *arguments()[:2])


def test_large_activations_are_clamped():
    """The last block ends at ±256."""
    denoiser = network("A")
    last = list(denoiser.unet.dec.values())[-1]
    last.conv1.weight.mul_(1e4)
    outputs = []
    last.register_forward_hook(lambda *args: outputs.append(args[2]))
    denoiser(*arguments())
    assert outputs[0].abs().max() == 256
    assert_equal(denoiser, prepare_for_inference(denoiser), *arguments())


def test_it_has_its_own_weights_and_leaves_the_denoiser_as_it_is():
    denoiser, args = network("G"), arguments()
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    prepared = prepare_for_inference(denoiser)
    result = prepared(*args)
    assert not result.requires_grad
    result.add_(1)  # may be changed by its caller
    assert all(torch.equal(denoiser.state_dict()[name], before[name]) for name in before)
    perturb(denoiser)
    for buffer in denoiser.buffers():
        buffer.add_(1)
    assert torch.equal(prepared(*args) + 1, result)


def test_a_class_beyond_the_last_is_an_error():
    prepared = prepare_for_inference(network("G"))
    x, sigma, _ = arguments()
    with pytest.raises(IndexError):
        prepared(x, sigma, torch.full((6,), CLASSES))


def test_networks_of_plug_ins_are_left_as_they_are():
    denoiser = network("G")
    denoiser.unet = torch.nn.Identity()
    assert prepare_for_inference(denoiser) is denoiser


@pytest.mark.parametrize("shape", [(3, 2, 4, 6), (1, 5, 1, 1)])
def test_upsampling_kernel(shape):
    """At the borders too, where the upsampled image is padded with zeros."""
    x, weight = torch.randn(shape).double(), torch.randn(7, shape[1], 3, 3).double()
    result = F.conv_transpose2d(x, upsampling_kernel(weight), stride=2, padding=1)
    torch.testing.assert_close(result, F.conv2d(upsample(x), weight, padding=1))
