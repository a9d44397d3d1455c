"""What the ranks of an evaluation send to the main process."""

import pickle

import torch
from tiny import REPLICATE

from edm2.params import load
from edm2.pipeline import evaluator
from edm2.pipeline.evaluator import Evaluator
from edm2.pipeline.networks import load_networks
from edm2.pipeline.paths import sweep_folder


class Silent:
    def advance(self, count): ...


def test_ranks_send_only_the_images_of_the_grid(project, monkeypatch):
    """Views into a batch would be pickled with the whole batch."""
    project(sampling__batch=300)
    sent = []
    monkeypatch.setattr(evaluator, "gather_object", lambda value: sent.append(value) or [value])
    one = Evaluator(load("params.yaml").of("G"), "G", torch.device("cpu"))
    generated = one.generate(sweep_folder(REPLICATE), load_networks(REPLICATE)[0], 1.0, 0, Silent())
    ((_, images),) = sent
    pixels = generated.images.numel()
    assert sum(len(pickle.dumps(image)) for image in images.values()) < 2 * pixels + 1000 * len(
        images
    )
    assert len(images) == len(generated.labels) == 20
