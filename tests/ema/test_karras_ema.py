"""Comparison with ema-pytorch's post-hoc EMA, of parameters that are known functions of the step."""

import numpy as np
import pytest
import torch

from edm2.ema import reconstruct, sigma_rel_to_gamma, solve_weights
from edm2.ema.checkpoint_files import find_checkpoints
from edm2.ema.checkpoint_names import Averages, identify
from edm2.ema.importing import Selection, import_snapshots
from edm2.ema.karras_ema import profile_length, profile_time

ema_pytorch = pytest.importorskip("ema_pytorch")
karras = pytest.importorskip("ema_pytorch.post_hoc_ema")

STEPS, EVERY, LENGTHS, TARGETS = 200, 25, (0.05, 0.28), (0.08, 0.1, 0.2)


def parameter(step):
    return np.sin(step / 60)


def exact(length, edges, steps):
    """∫ p(τ) θ(τ) dτ of θ that is constant between edges; the profile ends at the last one."""
    shares = (edges / edges[-1]) ** (sigma_rel_to_gamma(length) + 1)
    return float((np.diff(shares, prepend=0) * parameter(steps)).sum())


@pytest.mark.parametrize(("update_every", "rtol"), [(1, 1e-12), (2, 1e-5), (5, 1e-5)])
def test_profiles_are_those_of_the_averages(update_every, rtol):
    """With an update in each step exactly; else up to the square of the first interval over the time."""
    model, steps = torch.nn.Linear(1, 1, bias=False).double(), 1001
    average = karras.KarrasEMA(model, sigma_rel=0.05, update_every=update_every)
    for step in range(1, steps + 1):
        model.weight.data.fill_(parameter(step))
        average.update()
    updates = np.arange(1, steps + 1, update_every)
    ends = np.array([profile_time(int(step), update_every) for step in updates])
    expected = exact(profile_length(0.05, update_every), ends, updates)
    assert average.ema_model.weight.item() == pytest.approx(expected, rel=rtol)


class OneHot(torch.nn.Module):
    """Its parameters are 1 at the number of the step, so averages of them are response functions."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(STEPS, dtype=torch.float64))


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The library's post-hoc EMA after a training, its checkpoints, and a store of them."""
    folder, model = tmp_path_factory.mktemp("training"), OneHot()
    ema = ema_pytorch.PostHocEMA(
        model,
        sigma_rels=LENGTHS,
        update_every=1,
        checkpoint_every_num_steps=EVERY,
        checkpoint_folder=str(folder / "checkpoints"),
        checkpoint_dtype=torch.float64,
    )
    exact = {
        length: karras.KarrasEMA(model, sigma_rel=length, update_every=1) for length in TARGETS
    }
    for step in range(STEPS):
        model.weight.data.zero_()[step] = 1
        for average in (ema, *exact.values()):
            average.update()
    responses = {length: average.ema_model.weight.detach() for length, average in exact.items()}
    files = find_checkpoints([folder / "checkpoints"], None, folder / "store").fields
    averages = Averages(lengths=LENGTHS, update_every=1, post_hoc_ema=True)
    snapshots = {path: identify(path, fields, averages) for path, fields in files.items()}
    store = import_snapshots(snapshots, folder / "store", Selection().read, "")
    return ema, files, store, responses


def test_with_the_steps_as_times_the_sums_are_those_of_the_library(training):
    """Not divided by the sum of the weights, as there."""
    ema, files, _, _ = training
    weights = solve_weights(
        [fields["step"] for fields in files.values()],
        [LENGTHS[int(fields["index"])] for fields in files.values()],
        [STEPS],
        [0.1],
        normalize=False,
    )[:, 0]
    values = torch.stack([torch.load(path)["ema_model.weight"] for path in files])
    theirs = ema.synthesize_ema_model(sigma_rel=0.1).ema_model.weight.detach()
    torch.testing.assert_close(torch.tensor(weights) @ values, theirs, rtol=1e-6, atol=1e-9)


def error_of(response, expected):
    """Relative L2 error over time; the first parameters count for two steps, the others for one."""
    steps = torch.ones(STEPS, dtype=torch.float64)
    steps[0] = 2
    norm = (expected**2 / steps).sum()
    return float((((response - expected) ** 2 / steps).sum() / norm).sqrt())


@pytest.mark.parametrize("length", TARGETS)
def test_the_error_of_a_reconstruction_is_that_of_its_response_function(training, length):
    """And smaller than the library's, which takes the steps as times."""
    ema, _, store, responses = training
    for normalize in (True, False):
        ((average, tensors),) = reconstruct(store, [length], normalize=normalize)
        error = error_of(tensors["weight"].double(), responses[length])
        assert error == pytest.approx(average.error, rel=0.02)
    theirs = ema.synthesize_ema_model(sigma_rel=length).ema_model.weight.detach()
    assert error < error_of(theirs, responses[length])
