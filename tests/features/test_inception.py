"""Inception-v3 as a detector, with random weights; pytorch-fid's network beside it."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytorch_fid.inception
import torch
import torch_fidelity.feature_extractor_inceptionv3 as theirs
from random_detectors import random_inception, write_inception

from edm2.features import inception
from edm2.features.inception import TENSORFLOW, Inception, load_inception
from edm2.params import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return random_inception()


@pytest.fixture(scope="module")
def ours(state) -> Inception:
    return Inception(state, "some file")


@pytest.fixture(scope="module")
def independent(state) -> pytorch_fid.inception.InceptionV3:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *a, **k: state)
        network = pytorch_fid.inception.InceptionV3([3], resize_input=False, normalize_input=False)
    return network.eval()


def pixels(*shape: int) -> torch.Tensor:
    """Images of blobs, so that neighbors are alike but not equal."""
    coarse = torch.randint(0, 256, (shape[0], 3, 3, 3)).float()
    smooth = torch.nn.functional.interpolate(coarse, shape[1:], mode="bilinear")
    return (smooth + torch.randint(-20, 20, smooth.shape)).clamp(0, 255).to(torch.uint8)


def as_tensorflow_resized(images: torch.Tensor, side: int = 299) -> np.ndarray:
    """Bilinear, pixel i of the result being at i·(old / new) of the original; the last row repeats."""

    def weights(old: int) -> np.ndarray:
        found = np.zeros((side, old))
        for i in range(side):
            place = i * old / side
            low = int(place)
            found[i, low] += 1 - (place - low)
            found[i, min(low + 1, old - 1)] += place - low
        return found

    rows, columns = (weights(n) for n in images.shape[2:])
    return rows @ images.numpy().astype(np.float64) @ columns.T


@pytest.mark.parametrize("size", [(16, 16), (300, 40), (299, 299)])
def test_features_are_pytorch_fids_of_images_resized_as_tensorflow_did(ours, independent, size):
    """Then (x − 128) / 128, as TensorFlow's graph has it."""
    images = pixels(2, *size)
    x = torch.from_numpy((as_tensorflow_resized(images) - 128) / 128).float()
    with torch.no_grad():
        expected = independent(x)[0][:, :, 0, 0]
    found = ours.features(images)
    assert expected.std(0).mean() > 1e-3 * expected.abs().mean()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_address_and_checksum_are_those_that_others_declare():
    assert TENSORFLOW.url == theirs.URL_INCEPTION_V3
    assert TENSORFLOW.file == TENSORFLOW.url.rpartition("/")[2]
    for name in (TENSORFLOW.file, pytorch_fid.inception.FID_WEIGHTS_URL):
        assert Path(name).stem.endswith(f"2015-12-05-{TENSORFLOW.sha256}")


def test_size_changes_nothing_where_resizing_loses_nothing(ours):
    """Each pixel doubled: of 598 pixels every second one is taken, as there is no antialiasing."""
    image = pixels(1, 299, 299)
    doubled = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(ours.features(doubled), ours.features(image))
    flat = [torch.full((1, 3, h, w), 90, dtype=torch.uint8) for h, w in ((7, 5), (64, 300))]
    torch.testing.assert_close(ours.features(flat[0]), ours.features(flat[1]))


def test_convolutions_keep_float32(ours):
    seen = []
    hook = ours.network.Conv2d_1a_3x3.register_forward_hook(
        lambda *_: seen.append(torch.backends.cudnn.allow_tf32)
    )
    before = torch.backends.cudnn.allow_tf32
    ours.features(pixels(1, 8, 8))
    hook.remove()
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


def test_probabilities_are_those_of_the_last_layer_without_its_bias(ours, state):
    features = torch.rand(3, 2048)
    scores = features.double().numpy() @ state["fc.weight"].double().numpy().T
    expected = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    found = ours.probabilities(features)
    assert found.shape == (3, 1008)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert np.abs(expected - 1 / 1008).max() > 1e-3


def test_loaded_from_a_path_and_from_the_cache(ours, tmp_path: Path, monkeypatch):
    path, images = write_inception(tmp_path / "mine.pth", monkeypatch), pixels(1, 8, 8)
    loaded = load_inception(path, CPU)
    assert torch.equal(loaded.features(images), ours.features(images))
    assert loaded.fingerprint == hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    path.rename(tmp_path / "cache" / TENSORFLOW.file)
    assert torch.equal(load_inception(None, CPU).features(images), ours.features(images))
    with (tmp_path / "cache" / TENSORFLOW.file).open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UserError, match=f"{TENSORFLOW.file}: expected .* truncated"):
        load_inception(None, CPU)


def test_without_weights_address_and_place_are_told(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("EDM2_CACHE", str(tmp_path))
    nowhere = replace(TENSORFLOW, url="http://127.0.0.1:1/weights.pth")
    monkeypatch.setattr(inception, "TENSORFLOW", nowhere)
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(UserError) as error:
        load_inception(None, CPU)
    for said in (nowhere.url, str(tmp_path / nowhere.file), "evaluation.detector_path"):
        assert said in str(error.value)


class Trap:
    def __reduce__(self):
        return exec, ("import builtins; builtins.sprung = True",)


def test_what_a_file_wants_to_run_is_not_run(tmp_path: Path, monkeypatch):
    """Even if its checksum is as expected."""
    import builtins

    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"fc.weight": Trap()}, protocol=2))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "TENSORFLOW", replace(TENSORFLOW, sha256=digest))
    with pytest.raises(UserError, match="expected the tensors of"):
        load_inception(path, CPU)
    assert not hasattr(builtins, "sprung")
