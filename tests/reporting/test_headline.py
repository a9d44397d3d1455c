"""The first sentence of the report."""

from pathlib import Path

import pytest
from network_rows import concatenated, network_rows

from edm2.reporting.headline import headline, ladder_sentence
from edm2.reporting.stage_outputs import StageOutputs


def outputs_of(*rows):
    outputs = StageOutputs(Path(), [], [])
    outputs.__dict__["networks"] = concatenated(*rows)
    outputs.__dict__["training"] = {}
    return outputs


def trainings(config, value, spread=0.01, **columns):
    """Three trainings, whose values at length 0.1 are around `value`; 7 and 8 elsewhere."""
    return concatenated(
        *(
            network_rows(
                (7.0, value + spread * (seed - 1), 8.0),
                config=config,
                training_seed=seed,
                **columns,
            )
            for seed in (0, 1, 2)
        )
    )


def test_one_training_has_its_length_and_value_and_no_interval():
    text = headline(outputs_of(network_rows((3.0, 1.25, 2.0))))
    assert "Config G makes its best images with an EMA length of 0.1," in text
    assert "about 10% of the training" in text
    assert "1.25 (fd_classifier_1k, on 1,000 generated images of one training" in text
    assert "says nothing about others" in text


def test_one_training_on_seed_blocks_has_an_interval_over_these():
    """Of 1.0, 1.2 and 1.4: standard error 0.2 / √3; Student's t of two degrees of freedom is 4.303."""
    blocks = [
        network_rows((3.0, value, 4.0), first_seed=1000 * k)
        for k, value in enumerate((1.0, 1.2, 1.4))
    ]
    half = 4.30265 * 0.2 / 3**0.5
    text = headline(outputs_of(*blocks))
    assert f"1.2 (95 % interval {1.2 - half:.4g} to {1.2 + half:.4g} over 3 seed blocks" in text


def test_several_trainings_have_an_interval_over_them():
    half = 4.30265 * 0.1 / 3**0.5
    text = headline(outputs_of(trainings("G", 1.0, spread=0.1)))
    assert f"1 (95 % interval {1 - half:.4g} to {1 + half:.4g} over 3 trainings" in text
    assert "says nothing about others" not in text


def test_a_ladder_says_which_steps_help_and_which_config_is_best():
    """C differs between trainings as much as from B; its values are paired with those of B by seed."""
    unsettled = concatenated(
        *(
            network_rows((7.0, value, 8.0), config="C", training_seed=seed)
            for seed, value in enumerate((1.5, 2.5, 2.05))
        )
    )
    rows = trainings("A", 4.0), trainings("B", 2.0), unsettled, trainings("D", 5.0, spread=0.02)
    text = ladder_sentence(outputs_of(*rows))
    assert text.startswith(
        "Of 3 steps from a config to the next one, 1 improves the images (A → B)"
    )
    assert "1 makes them worse (C → D), 1 is not settled (B → C)" in text
    assert "that of config B: 2 " in text


def test_configs_that_were_evaluated_differently_have_a_sentence():
    other = trainings("G", 1.0).assign(metric="fd_dinov2_1k")
    assert "evaluated differently" in ladder_sentence(outputs_of(trainings("F", 2.0), other))


@pytest.mark.parametrize(
    ("values", "columns", "caution"),
    [
        ((1.0, 2.0, 3.0), {}, "edge of the grid"),
        ((3.0, 1.0, 2.0), {"at_chance": True}, "at chance"),
        ((3.0, 1.0, 2.0), {"singular": True}, "singular"),
        ((3.0, 1.0, 2.0), {}, "images that chose"),
    ],
)
def test_what_makes_a_value_mean_less_is_beside_it(values, columns, caution):
    text = headline(outputs_of(network_rows(values, **columns)))
    assert caution in text.partition('class="caution"')[2]
