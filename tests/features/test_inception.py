"""Inception-v3 as a detector, with random weights, compared with pytorch-fid's network."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_fid.inception
import torch
import torch_fidelity.feature_extractor_inceptionv3 as theirs
from random_detectors import random_inception

from edm2.features import inception
from edm2.features.inception import INCEPTION_WEIGHTS, Inception, load_inception
from edm2.params import UserError

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random_inception()


@pytest.fixture(scope="module")
def ours(state) -> Inception:
    return Inception(state, "a fingerprint")


@pytest.fixture(scope="module")
def independent(state) -> pytorch_fid.inception.InceptionV3:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *a, **k: state)
        network = pytorch_fid.inception.InceptionV3([3], resize_input=False, normalize_input=False)
    return network.eval()


def pixels(*shape: int) -> torch.Tensor:
    """Images of blobs: neighboring pixels are similar but not equal."""
    coarse = torch.randint(0, 256, (shape[0], 3, 3, 3)).float()
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    return (smooth + torch.randint(-20, 20, smooth.shape)).clamp(0, 255).to(torch.uint8)


def tensorflow_resize(images: torch.Tensor, side: int = 299) -> np.ndarray:
    """Bilinear; output pixel i is at input position i·(old / new), and the last row repeats."""

    def weights(old: int) -> np.ndarray:
        matrix = np.zeros((side, old))
        for i in range(side):
            position = i * old / side
            low = int(position)
            matrix[i, low] += 1 - (position - low)
            matrix[i, min(low + 1, old - 1)] += position - low
        return matrix

    rows, columns = (weights(n) for n in images.shape[2:])
    return rows @ images.numpy().astype(np.float64) @ columns.T


@pytest.mark.parametrize("size", [(16, 16), (300, 40), (299, 299)])
def test_features_agree_with_pytorch_fid_after_tensorflows_resizing(ours, independent, size):
    """Followed by (x − 128) / 128, as in TensorFlow's graph."""
    images = pixels(2, *size)
    x = torch.from_numpy((tensorflow_resize(images) - 128) / 128).float()
    with torch.no_grad():
        expected = independent(x)[0][:, :, 0, 0]
    features, tolerance = ours.features(images), 1e-4 * float(expected.abs().max())
    assert expected.std(0).mean() > 1e-3 * expected.abs().mean()
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=tolerance)


def test_url_and_checksum_are_those_of_torch_fidelity_and_pytorch_fid():
    assert INCEPTION_WEIGHTS.url == theirs.URL_INCEPTION_V3
    assert INCEPTION_WEIGHTS.file == INCEPTION_WEIGHTS.url.rpartition("/")[2]
    for name in (INCEPTION_WEIGHTS.file, pytorch_fid.inception.FID_WEIGHTS_URL):
        assert Path(name).stem.endswith(f"2015-12-05-{INCEPTION_WEIGHTS.sha256}")


def test_features_do_not_depend_on_the_size_where_resizing_is_exact(ours):
    """Without antialiasing, resizing an image of doubled pixels takes every second pixel."""
    image = pixels(1, 299, 299)
    doubled = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(ours.features(doubled), ours.features(image))
    constant = [torch.full((1, 3, h, w), 90, dtype=torch.uint8) for h, w in ((7, 5), (64, 300))]
    torch.testing.assert_close(*map(ours.features, constant))


def test_convolutions_do_not_use_tf32(ours):
    allowed = []
    hook = ours.network.Conv2d_1a_3x3.register_forward_hook(
        lambda *_: allowed.append(torch.backends.cudnn.allow_tf32)
    )
    before = torch.backends.cudnn.allow_tf32
    ours.features(pixels(1, 8, 8))
    hook.remove()
    assert allowed == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_probabilities_are_from_the_last_layer_without_its_bias(ours, state):
    features = torch.rand(3, 2048)
    logits = features.double().numpy() @ state["fc.weight"].double().numpy().T
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    probabilities = ours.probabilities(features)
    assert probabilities.shape == (3, 1008)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    assert np.abs(expected - 1 / 1008).max() > 1e-3


class Malicious:
    def __reduce__(self):
        return exec, ("import builtins; builtins.executed = True",)


def test_code_in_a_weights_file_is_never_executed(tmp_path: Path, monkeypatch):
    """Even if the file has the expected checksum."""
    import builtins

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"fc.weight": Malicious()}, protocol=2))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "INCEPTION_WEIGHTS", replace(INCEPTION_WEIGHTS, sha256=digest))
    with pytest.raises(UserError, match=str(path)):
        load_inception(path, CPU)
    assert not hasattr(builtins, "executed")
