"""A portable network called like a model of MLflow."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from ruamel.yaml import YAML
from tiny_network import tiny_network, write_network

from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.params.evaluation import Sampling
from edm2.params.presets import preset_text
from edm2.pipeline import image_model
from edm2.pipeline.image_model import ImageModel, signature
from edm2.sampling import heun
from edm2.sampling.generate import seed_noise

CPU = torch.device("cpu")
TABLE = YAML(typ="safe").load(preset_text("digits"))["sampling"]
SAMPLING = Sampling.model_validate({**TABLE, "steps": 3, "batch": 2})


@pytest.fixture
def model_of(tmp_path):
    def build(**changes):
        return ImageModel(write_network(tmp_path / "network", sampling=SAMPLING, **changes), CPU)

    return build


@pytest.fixture
def model(model_of):
    return model_of()


def rows(**columns):
    return pd.DataFrame(columns)


def expected(seed, label, steps, guidance=1.0):
    """An image [8, 8, 3], straight from the network and the sampler."""
    network = tiny_network()

    def denoise(x, sigma):
        own, none = (network.denoiser(x, sigma, torch.tensor([k])) for k in (label, -1))
        return guidance * own + (1 - guidance) * none

    latent = heun(
        denoise,
        seed_noise([seed], (3, 8, 8), CPU),
        steps=steps,
        sigma_min=SAMPLING.sigma_min,
        sigma_max=SAMPLING.sigma_max,
        rho=SAMPLING.rho,
    )
    image = network.codec.load(CPU).decode(network.normalization.denormalize(latent))
    return image[0].permute(1, 2, 0).numpy()


def assert_close(image, other):
    """Up to rounding, of which the form for sampling has another one."""
    assert np.abs(image.astype(int) - other.astype(int)).max() <= 1


def test_an_image_is_that_of_its_seed_and_class(model):
    images = model.predict(rows(seed=[7, 2, 3], label=[1, 0, 0]))
    assert (images.dtype, images.shape) == (np.uint8, (3, 8, 8, 3))
    for image, seed, label in zip(images, (7, 2, 3), (1, 0, 0), strict=True):
        assert_close(image, expected(seed, label, SAMPLING.steps))
    assert not np.array_equal(images[1], images[2])


def test_without_labels_seeds_take_the_classes_in_turn(model):
    images = model.predict(rows(seed=[0, 1, 2, 3]))
    assert np.array_equal(images, model.predict(rows(seed=[0, 1, 2, 3], label=[0, 1, 0, 1])))


def test_params_change_steps_and_guidance(model_of):
    guidable = model_of(provenance={"label_dropout": 0.1})
    (image,) = guidable.predict(rows(seed=[7], label=[1]), {"steps": 5, "guidance": 3.0})
    assert_close(image, expected(7, 1, steps=5, guidance=3.0))


def test_guidance_is_active_in_the_interval_of_the_network_only(model_of):
    outside = model_of(provenance={"label_dropout": 0.1}, guidance_interval=(1e5, 1e6))
    plain, guided = (
        outside.predict(rows(seed=[7]), {"guidance": strength}) for strength in (1.0, 3.0)
    )
    assert np.array_equal(plain, guided)


def test_what_cannot_be_sampled_is_an_error(model):
    for table, params, words in (
        (rows(seed=[0, 1], label=[1, 2]), {}, ["label: 2", "0 to 1"]),
        (rows(seed=[0], label=[-1]), {}, ["label: -1"]),
        (rows(seed=[-3]), {}, ["seed: [-3]"]),
        (rows(seed=[]), {}, ["seed"]),
        (rows(seed=[0]), {"guidance": 2.0}, ["guidance: 2", "dropout"]),
    ):
        with pytest.raises(UserError) as error:
            model.predict(table, params)
        assert all(word in str(error.value) for word in words)


def test_a_sample_that_is_not_finite_is_an_error(model):
    model.sampler.denoise = lambda *_: lambda x, sigma, labels: x * float("nan")
    with pytest.raises(NotFiniteError, match="seeds 5"):
        model.predict(rows(seed=[5]))


def test_a_folder_of_mlflow_is_loaded(tmp_path, model):
    loaded = image_model._load_pyfunc(str(tmp_path))
    table = rows(seed=[7, 8])
    assert np.array_equal(loaded.predict(table), model.predict(table))


def test_the_signature_has_the_columns_the_images_and_the_defaults():
    parts = {name: json.loads(part) for name, part in signature(16, 8, 1.5).items()}
    assert [(c["name"], c["required"]) for c in parts["inputs"]] == [
        ("seed", True),
        ("label", False),
    ]
    assert parts["outputs"][0]["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 16, 16, 3]}
    assert {p["name"]: p["default"] for p in parts["params"]} == {"steps": 8, "guidance": 1.5}
