"""The card of a network: what the Hub reads from it, and what people do."""

import pytest

from edm2.reporting.model_card import model_card

DESCRIPTION = {
    "denoiser": {
        "config": {"name": "Magnitude-preserving fixed-function layers"},
        "shape": {"resolution": 8, "in_channels": 4, "num_classes": 2, "channels": 16},
    },
    "codec": {"kind": "stable_diffusion"},
    "classes": ["cat", "dog"],
    "sampling": {"solver": "heun", "steps": 7, "churn_interval": None, "batch": 5},
    "guidance_interval": [0.25, 5.0],
    "provenance": {
        "edm2": "1.2.3",
        "code": "commit 0123456789ab",
        "license": "cc-by-4.0",
        "config": "G",
        "seed": 4,
        "average": {"ema_length": 0.125, "nimg": 4096, "error": 0.01},
        "data": {
            "source": "folder",
            "path": "my cats",
            "resolution": 64,
            "images": {"train": 1200, "held_out": 34},
            "classes": 2,
        },
        "preset": "digits",
        "changes": {"diffusion.channels": 16},
        "guide": "trained",
        "evaluation": {
            "metrics": {"fd_classifier_1k": 1.25, "recall_classifier_1k": 0.5},
            "main_metric": "fd_classifier_1k",
            "interval": "1.25 (95 % interval 1 to 1.5)",
            "detector": "classifier",
            "guidance": 1.5,
            "doubts": ["the detector is at chance"],
            "value": "fd_classifier_1k = 1.25 on fresh seeds",
            "chosen": "the best of 3 trainings",
        },
    },
}


def changed(**provenance):
    return {**DESCRIPTION, "provenance": {**DESCRIPTION["provenance"], **provenance}}


def header_of(card):
    hub = pytest.importorskip("huggingface_hub")
    return hub.ModelCard(card).data


def test_the_header_has_license_data_and_metrics_under_their_full_names():
    data = header_of(model_card("cats", DESCRIPTION))
    assert (data.license, data.library_name) == ("cc-by-4.0", "edm2")
    assert data.pipeline_tag == "unconditional-image-generation"
    assert data.datasets == ["my-cats"]
    assert "class-conditional" in data.tags
    assert data.model_name == "cats"
    results = {
        r.metric_type: (r.metric_name, r.metric_value, r.dataset_name) for r in data.eval_results
    }
    assert results == {
        "fd_classifier_1k": ("fd_classifier_1k", 1.25, "my cats"),
        "recall_classifier_1k": ("recall_classifier_1k", 0.5, "my cats"),
    }


@pytest.mark.parametrize(
    "words",
    [
        "64×64 images of 2 classes (cat, dog)",
        "edm2 sample cats --seeds 0-63 --out samples --strength 1.5",
        "solver heun, steps 7",
        "1,200 training images and 34 held-out ones",
        "EMA length: 0.125",
        "Images seen in training: 4,096",
        "1.25 (95 % interval 1 to 1.5)",
        "`recall_classifier_1k` | 0.5 | higher",
        "Guidance acts at noise levels from 0.25 to 5.",
        "the best of 3 trainings",
        "edm2 1.2.3, commit 0123456789ab",
        "`diffusion.channels` | `16`",
        "The detector is at chance.",
        "guide is another network, which is not part of this folder",
        "License of the weights: cc-by-4.0.",
        "MIT",
    ],
)
def test_people_learn(words):
    assert words in model_card("cats", DESCRIPTION)


def test_only_inception_is_fid():
    card = model_card("cats", DESCRIPTION)
    assert "not FID" in card
    assert "fid_" not in card


def test_without_a_license_none_is_stated():
    card = model_card("cats", changed(license=None))
    assert header_of(card).license is None
    assert "not stated" in card


def test_networks_of_published_ones_keep_their_license():
    assert "CC BY-NC-SA 4.0" in model_card("cats", changed(published=True))


def test_a_network_of_which_nothing_is_known_has_a_card():
    bare = {**DESCRIPTION, "provenance": {}, "classes": [], "sampling": None}
    bare["denoiser"] = {
        **bare["denoiser"],
        "shape": {**bare["denoiser"]["shape"], "num_classes": 0},
    }
    card = model_card("cats", bare)
    data = header_of(card)
    assert "unconditional" in data.tags
    assert not data.eval_results
    assert "was not evaluated" in card
    assert "labels = None" in card


def test_a_name_with_spaces_is_quoted_in_the_command():
    assert "edm2 sample 'my cats' --seeds" in model_card("my cats", DESCRIPTION)
