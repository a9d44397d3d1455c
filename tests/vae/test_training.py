"""Training of the VAE."""

import copy
from collections.abc import Callable
from functools import partial
from itertools import islice
from statistics import geometric_mean
from typing import Any

import pytest
import torch
from tiny_autoencoder import (
    BATCH,
    CPU,
    FULL_VAE,
    RUNTIME,
    TINY,
    copies,
    floats,
    images_of,
    make_backbone,
    make_batch,
    make_network,
    make_task,
    same,
    vae_params,
)
from torch import nn

from edm2.data.images import ImageShards
from edm2.data.order import RandomOrder
from edm2.features.classifier import Classifier
from edm2.params.vae import Vae
from edm2.runtime.checkpoint import load_tree, save_tree
from edm2.vae.batches import batches
from edm2.vae.codec import TrainedVae
from edm2.vae.evaluation import evaluate
from edm2.vae.network import Autoencoder
from edm2.vae.training import VaeTask

pytestmark = pytest.mark.slow


@pytest.fixture
def task_of(backbone: Classifier) -> Callable[[Vae], VaeTask]:
    def make(params: Vae) -> VaeTask:
        torch.manual_seed(0)
        return VaeTask(Autoencoder(params), params, backbone, 0, CPU)

    return make


def test_the_learning_rate_is_divided_by_the_width_except_in_the_first_layer(
    tiny, task_of, images: ImageShards
) -> None:
    params = tiny(channels=16, lr=0.08, lr_input=3e-4)
    task = task_of(params)
    task.step(next(batches(images, params, 0, RUNTIME, CPU)(0)), nimg=16)  # half of the warm-up
    rates = {p: group["lr"] for group in task.optimizer.param_groups for p in group["params"]}
    first = task.network.first_parameters()
    assert [rates.pop(parameter) for parameter in first] == [pytest.approx(3e-4 / 2)] * 2
    assert set(rates) == set(task.network.parameters()) - set(first)
    assert list(rates.values()) == [pytest.approx(0.08 / 16 / 2)] * len(rates)
    assert sum(len(group["params"]) for group in task.optimizer.param_groups) == len(rates) + 2


def test_batches_have_fresh_noise_for_each_image(tiny, images: ImageShards) -> None:
    params = tiny(channel_mult=(1, 2, 2), latent_channels=3)
    first = list(islice(batches(images, params, 0, RUNTIME, CPU)(0), 4))
    later = list(islice(batches(images, params, 0, RUNTIME, CPU)(16), 2))
    pixels, noise = first[0]
    assert (pixels.shape, pixels.dtype) == ((8, 3, 8, 8), torch.uint8)
    assert (noise.shape, noise.dtype) == ((8, 3, 2, 2), torch.float32)
    for a, b in zip(first[2:], later, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    noises = torch.cat([noise for _, noise in first])
    assert len(noises.unique(dim=0)) == 32


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"wavelet": True}, (2, 4, 4)),
        ({"high_resolution": True}, (2, 2, 2)),
        ({"variance": "learned", "latent_channels": 6}, (6, 4, 4)),
    ],
)
def test_noise_has_the_shape_of_the_latents(tiny, images: ImageShards, changes, shape) -> None:
    pixels, noise = next(batches(images, tiny(**changes), 0, RUNTIME, CPU)(0))
    assert noise.shape[1:] == shape
    assert make_network(tiny(**changes)).encode(pixels / 127.5 - 1)[0].shape == noise.shape


def augmented(params: Vae, **changes: float) -> Vae:
    return params.model_copy(update={"images": params.images.model_copy(update=changes)})


def take(
    images: ImageShards, params: Vae, count: int, nimg: int = 0, seed: int = 0
) -> torch.Tensor:
    return torch.cat(
        [x for x, _ in islice(batches(images, params, seed, RUNTIME, CPU)(nimg), count)]
    )


def test_without_augmentation_batches_are_the_stored_images(tiny, images: ImageShards) -> None:
    """In the order that depends on the seed only."""
    order = RandomOrder(12, seed=0).indices(range(24))
    assert torch.equal(take(images, tiny(), 3), images.batch(order)[0])


def test_augmentation_depends_on_the_number_of_the_image_in_the_training(
    tiny, images: ImageShards
) -> None:
    params = augmented(tiny(), min_area=0.4, flip=0.5)
    first = take(images, params, 6)  # 48 images: four epochs
    assert torch.equal(take(images, params, 2, nimg=32), first[32:])
    split = params.model_copy(update={"batch": 4})
    assert torch.equal(take(images, split, 12), first)
    # different in each epoch, though crops of smooth images can be equal
    assert len(first.unique(dim=0)) > 36
    assert not torch.equal(take(images, params, 6, seed=1), first)


def test_augmentation_depends_on_the_seed(tiny, images: ImageShards) -> None:
    params, patterns = augmented(tiny(), flip=0.5), []
    for seed in (0, 1):
        originals = images.batch(RandomOrder(12, seed).indices(range(48)))[0]
        flipped = (take(images, params, 6, seed=seed) != originals).flatten(1).any(1)
        patterns.append(flipped.tolist())
    assert 10 < sum(patterns[0]) < 38
    assert patterns[0] != patterns[1]


def test_flips_reverse_the_columns(tiny, images: ImageShards) -> None:
    flipped = take(images, augmented(tiny(), flip=1.0), 3)
    assert torch.equal(flipped, take(images, tiny(), 3).flip(3))


def test_training_improves_reconstructions(tiny, task_of, images, backbone: Classifier) -> None:
    params = tiny(variance=0.01, kl=0.001, pooled=1.0)
    task = task_of(params)
    frozen = [p.clone() for p in backbone.parameters()]
    codec = TrainedVae(task.network, params)
    before = evaluate(codec, images, backbone, CPU)
    rows = [
        task.step(batch, 8 * (step + 1))
        for step, batch in enumerate(islice(batches(images, params, 0, RUNTIME, CPU)(0), 20))
    ]
    after = evaluate(codec, images, backbone, CPU)
    assert rows[-1]["train/mse"] < 0.7 * rows[0]["train/mse"]
    assert after["psnr"] > before["psnr"]
    for old, parameter in zip(frozen, backbone.parameters(), strict=True):
        assert parameter.grad is None
        assert torch.equal(parameter, old)


def test_only_losses_with_a_weight_are_logged(tiny, task_of, images: ImageShards) -> None:
    params = tiny(perceptual=0.0)
    metrics = task_of(params).step(next(batches(images, params, 0, RUNTIME, CPU)(0)), 8)
    assert set(metrics) == {
        "train/pooled",
        "gradient/pooled",
        "train/kl",
        "train/mse",
        "train/nonfinite_gradients",
    }


def test_the_weight_of_kl_scales_its_gradient_only(tiny, task_of, images: ImageShards) -> None:
    def gradient(weight: float) -> torch.Tensor:
        params = tiny(kl=weight, attention=False)
        task = task_of(params)
        task.step(next(batches(images, params, 0, RUNTIME, CPU)(0)), 8)
        return task.network.first_parameters()[0].grad

    zero, one, three = (gradient(weight) for weight in (0.0, 1.0, 3.0))
    assert (one - zero).norm() > 0
    torch.testing.assert_close(three - zero, 3 * (one - zero), rtol=1e-3, atol=1e-5)


def test_a_resumed_training_equals_an_uninterrupted_one(
    tiny, task_of, images: ImageShards, tmp_path
) -> None:
    params = tiny(attention=True)
    stream = list(islice(batches(images, params, 0, RUNTIME, CPU)(0), 4))
    whole, resumed = task_of(params), task_of(params)
    for step in (0, 1):
        whole.step(stream[step], 8 * (step + 1))
    save_tree(tmp_path / "checkpoint", whole.state_dict())
    resumed.load_state_dict(load_tree(tmp_path / "checkpoint"))
    for task in (whole, resumed):
        for step in (2, 3):
            task.step(stream[step], 8 * (step + 1))
    for a, b in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(a, b)


def output_changes(width: int, lr: float) -> dict[str, float]:
    """Root mean square of the change of each layer's output by the first update, for the same input.

    Of layers with at least as many input channels as the first level.
    """
    params = vae_params(TINY, channels=width, attention=True, lr=lr, warmup_nimg=BATCH)
    torch.manual_seed(0)
    task = VaeTask(Autoencoder(params), params, make_backbone(), 0, CPU)
    before, changes = copy.deepcopy(task.network), {}
    batch = make_batch(params)
    task.step(batch, BATCH)
    after = dict(task.network.named_modules())

    def hook(module: nn.Module, inputs: Any, out: torch.Tensor, name: str) -> None:
        changes[name] = float((after[name](inputs[0]) - out).square().mean().sqrt())

    for name, module in before.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels >= width:
            module.register_forward_hook(partial(hook, name=name))
    with torch.no_grad():
        before(images_of(batch), batch[1])
    return changes


def ratios(divided: bool) -> list[float]:
    """Output changes of 64 channels over those of 16, layer by layer.

    Args:
        divided: whether the learning rate is divided by the width, as in training.
    """
    narrow, wide = (
        output_changes(width, 0.01 if divided else 0.01 * width / 16) for width in (16, 64)
    )
    return [wide[name] / narrow[name] for name in narrow]


def test_the_first_update_changes_outputs_equally_at_any_width() -> None:
    """Adam moves each weight by the learning rate, and the changes add up over a layer's inputs. If
    the learning rate is divided by the width, the sum does not depend on the width.
    """
    divided = ratios(divided=True)
    assert len(divided) > 20
    assert geometric_mean(divided) == pytest.approx(1, rel=0.2)
    assert all(0.5 < ratio < 2 for ratio in divided)
    assert geometric_mean(ratios(divided=False)) > 3


@pytest.mark.parametrize(
    ("wavelet", "high_resolution", "layers"),
    [(True, False, "encoder"), (False, True, "both"), (True, True, "encoder")],
)
def test_the_first_layer_has_its_own_learning_rate(
    wavelet: bool, high_resolution: bool, layers: str
) -> None:
    """Adam's first step moves weights by the learning rate."""
    params = vae_params(
        FULL_VAE,
        wavelet=wavelet,
        high_resolution=high_resolution,
        lr=0.08,
        lr_input=3e-4,
        lr_input_layers=layers,
        weight_decay=0.0,
        equivariance__crop=0.0,
    )
    task = make_task(params)
    before = copies(task.network.parameters())
    task.step(make_batch(params), BATCH)
    steps = {
        p: (p.detach() - old).abs().median()
        for p, old in zip(task.network.parameters(), before, strict=True)
    }
    first = task.network.first_parameters(layers)
    assert first[0].shape[1] == (12 if wavelet else 3)
    assert len(first) == (4 if layers == "both" else 2)
    rates = [float(steps.pop(parameter)) for parameter in first]
    assert rates[::2] == pytest.approx([3e-4] * len(rates[::2]), rel=0.02)  # of weights
    weights = [float(step) for p, step in steps.items() if p.ndim == 4]
    assert weights == pytest.approx([0.08 / 8] * len(weights), rel=0.02)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adversarial.generator_nimg": 0}, "vae.adversarial.generator_nimg: 0: expected at least"),
        ({"warmup_nimg": 1000}, "vae.warmup_nimg: 1000: expected at most"),
        ({"losses.perceptual": 0.0, "losses.pooled": 0.0}, "vae.losses: .* a weight above 0"),
        ({"equivariance.flip_channels": 1}, "vae.equivariance.flip_channels: 1: expected"),
    ],
)
def test_params_that_train_nothing_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make_task(vae_params(TINY, changes))


def test_more_images_than_the_batch_are_refused() -> None:
    params = vae_params(TINY)
    images, noise = make_batch(params)
    with pytest.raises(ValueError, match="at most the 8 of this rank's batch"):
        make_task(params).step((torch.cat([images] * 2), torch.cat([noise] * 2)), BATCH)


def test_the_network_is_compiled_and_its_parameters_keep_their_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module: compiled.append(module) or module)
    params = vae_params(FULL_VAE)
    task = VaeTask(make_network(params), params, make_backbone(), 0, CPU, compiled=True)
    assert compiled == [task.network]
    assert set(task.state_dict()["network"]) == set(Autoencoder(params).state_dict())


def test_a_resumed_training_with_all_options_on_equals_an_uninterrupted_one(
    images: ImageShards, tmp_path
) -> None:
    """Discriminator and anchors are in the file; transforms and flips depend on seed and time."""
    params = vae_params(FULL_VAE, microbatch=2, images__min_area=0.5, images__flip=0.5)
    whole, resumed = make_task(params), make_task(params)
    stream = batches(images, params, 1, RUNTIME, CPU)
    for step, batch in enumerate(islice(stream(0), 3), 1):
        whole.step(batch, BATCH * step)
    save_tree(tmp_path / "checkpoint", whole.state_dict())
    for module in (resumed.network, resumed.discriminator_task.discriminator):
        for parameter in module.parameters():
            parameter.data.normal_()  # must be overwritten
    resumed.load_state_dict(load_tree(tmp_path / "checkpoint"))
    for step, batch in enumerate(islice(stream(3 * BATCH), 3), 4):
        expected, metrics = (floats(task.step(batch, BATCH * step)) for task in (whole, resumed))
        assert metrics == expected
    assert metrics["gradient/adversarial"] > 0
    discriminators = [task.discriminator_task.discriminator for task in (whole, resumed)]
    for a, b in ((whole.network, resumed.network), discriminators):
        assert all(same(a.state_dict().values(), b.state_dict().values()))
    assert discriminators[0].anchors.abs().min() > 0
