"""Named tensors in the files of other programs."""

import argparse
import re
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from edm2.ema.checkpoints import read_checkpoint
from edm2.params import UserError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.5, -2])}
RANDOM_STATE = torch.zeros(8, dtype=torch.uint8)


class Foreign:
    """A class that only the program that wrote a file has."""


@pytest.fixture
def save(tmp_path):
    def write(content, **options):
        torch.save(content, tmp_path / "ckpt.pt", **options)
        return tmp_path / "ckpt.pt"

    return write


def assert_weights(tensors, expected=WEIGHTS):
    assert list(tensors) == list(expected)
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "ema.safetensors")
    assert_weights(
        dict(sorted(read_checkpoint(tmp_path / "ema.safetensors").items(), reverse=True))
    )


@pytest.mark.parametrize("zipped", [True, False])
def test_the_only_dict_of_tensors_is_found(save, zipped):
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    content = {
        "step": 7,
        "args": argparse.Namespace(lr=0.1),
        "rng": RANDOM_STATE,
        "rngs": {"torch": RANDOM_STATE},
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "state": {"model": OrderedDict(WEIGHTS)},
    }
    assert_weights(read_checkpoint(save(content, _use_new_zipfile_serialization=zipped)))


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"model": {"a": torch.ones(1)}, "ema": WEIGHTS}, "ema"),
        ({"state": {"model": {"a": torch.ones(1)}, "ema": WEIGHTS}}, "state.ema"),
        ({"state.ema": WEIGHTS, "state": {"ema": {"a": torch.ones(1)}}}, "state.ema"),
        ({"x": {"a": torch.ones(1)}, "ema": {"decay": 0.9, "shadow": WEIGHTS}}, "ema"),
        ({"model.b": torch.ones(1), **{f"ema.{n}": t for n, t in WEIGHTS.items()}}, "ema"),
        ({"s": {"b": torch.ones(1), **{f"e.m.{n}": t for n, t in WEIGHTS.items()}}}, "s.e.m"),
    ],
)
def test_a_key_chooses_a_dict_or_the_first_parts_of_names(save, content, key):
    assert_weights(read_checkpoint(save(content), key))


def test_modules_that_hold_an_average_give_the_names_of_the_model(save):
    average = AveragedModel(torch.nn.Linear(3, 2))
    assert set(read_checkpoint(save({"ema": average.state_dict()}))) == {"weight", "bias"}
    karras = {f"ema_model.{name}": tensor for name, tensor in WEIGHTS.items()}
    marks = {"initted": torch.tensor(1.0), "step": torch.tensor(5.0)}
    assert_weights(read_checkpoint(save(marks | karras)))


@pytest.mark.parametrize(
    ("content", "key", "parts"),
    [
        ({"model": WEIGHTS, "ema": WEIGHTS}, "", ["2 dicts", "model, ema", "--key"]),
        ({"model": WEIGHTS}, "ema", ["--key ema", "model (dict)"]),
        ({"lr": 0.1, "names": ["a"]}, "", ["lr (float)", "names (list)"]),
        ({"ema": {"a": torch.ones(1), "n": 3}}, "ema", ["--key ema", "ema (dict)"]),
        (torch.ones(2), "", ["a Tensor"]),
        ({}, "", ["nothing"]),
    ],
)
def test_other_contents_are_described(save, content, key, parts):
    path = save(content)
    with pytest.raises(UserError) as error:
        read_checkpoint(path, key)
    assert all(part in str(error.value) for part in [str(path), *parts])


def test_a_file_that_could_run_code_is_refused_by_the_name_of_its_class(save):
    path = save({"ema": WEIGHTS, "args": Foreign()})
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: refused: .*\.Foreign"):
        read_checkpoint(path)


@pytest.mark.parametrize("name", ["ema.safetensors", "ema.pt"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"plain text"])
def test_a_damaged_file_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{re.escape(str(path))}: cannot be read"):
        read_checkpoint(path)
    path.unlink()
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_checkpoint(path)
