"""Experiments side by side."""

import pandas as pd
import pytest
from PIL import Image

from edm2.params import UserError
from edm2.reporting import compare
from edm2.reporting.compare import compare_experiments, draw_comparison, variants, variants_table


def curves(lowest, metric="fd_classifier_1k"):
    """One config's EMA curve, lowest at the given length."""
    rows = [
        {
            "config": "G",
            "ema_length": s,
            "tensors": "all",
            "average": "power",
            "nimg": 64,
            "seeds": "sweep",
            "guidance": 1.0,
            "seed_blocks": 1,
            "metric": metric,
            "value": 1 + abs(s - lowest),
            "error": 0.01,
            "weight_sum": 1.0,
            "snapshots": 8,
            "samples": 1000,
        }
        for s in (0.05, 0.1, 0.15)
    ]
    return pd.DataFrame(rows)


def test_rows_have_what_differs_and_the_best_length():
    same = {"seed": 0, "diffusion.lr_ref": 0.01}
    found = compare_experiments(
        {
            "a": (curves(0.1), {**same, "diffusion.lr_decay_batches": 100}),
            "b": (curves(0.05), {**same, "diffusion.lr_decay_batches": 400}),
        }
    )
    assert "seed" not in found
    assert found["diffusion.lr_decay_batches"].tolist() == [100, 400]
    assert found["best EMA length"].tolist() == [0.1, 0.05]
    assert found["at edge of grid"].tolist() == ["no", "yes"]
    assert found["1/(lr_ref² lr_decay), relative"].tolist() == pytest.approx([1, 0.25])


def test_the_rate_is_that_of_the_config():
    own = {"diffusion.lr_decay_batches": 100, "diffusion.lr_ref": 0.01}
    found = compare_experiments(
        {
            "a": (curves(0.1), own),
            "b": (curves(0.1), {**own, "diffusion.per_config.G.lr_ref": 0.02}),
        }
    )
    assert found["1/(lr_ref² lr_decay), relative"].tolist() == pytest.approx([1, 0.25])


def test_metrics_never_mix():
    with pytest.raises(UserError, match="a fd_classifier_1k, b fd_classifier_2k"):
        compare_experiments({"a": (curves(0.1), {}), "b": (curves(0.1, "fd_classifier_2k"), {})})


def test_the_legend_tells_what_differs(tmp_path, monkeypatch):
    """If it is little; the names of experiments say nothing."""
    lines, draw = [], compare.draw_curve
    monkeypatch.setattr(
        compare, "draw_curve", lambda axes, name, line: lines.append(name) or draw(axes, name, line)
    )
    a, b = {"x.y": 1, "seed": 0}, {"x.y": 2, "seed": 0}
    draw_comparison({"a": (curves(0.1), a), "b": (curves(0.05), b)}, tmp_path / "compare.png")
    assert lines == ["a G (y 1)", "b G (y 2)"]
    assert Image.open(tmp_path / "compare.png").width > 800
    lines.clear()
    many = {f"p{k}": k for k in range(4)}
    draw_comparison({"a": (curves(0.1), many), "b": (curves(0.05), {})}, tmp_path / "compare.png")
    draw_comparison({"a": (curves(0.1), a)}, tmp_path / "compare.png")
    assert lines == ["a G", "b G", "a G"]


def measured(psnr, **params):
    """Of an autoencoder: what was measured, and its flat params."""
    flat = {"seed": 0, "vae.variance": 0.1, "vae.losses.mse": 0.0, **params}
    return {"psnr": psnr, "latent/std": 2.0, "latent/mean_0": 0.3}, flat


AUTOENCODERS = {
    "b1": measured(31.0, seed=1),
    "b0": measured(29.0),
    "v0": measured(35.0, **{"vae.variance": 0}),
    "p1": measured(20.0, seed=1, **{"vae.losses.mse": 0.1, "vae.variance": "learned"}),
    "b2": measured(30.0, seed=2),
}


def test_experiments_that_differ_in_their_seed_are_one_variant():
    assert variants(AUTOENCODERS) == {
        "base": ["b0", "b1", "b2"],
        "vae.losses.mse=0.1, vae.variance=learned": ["p1"],
        "vae.variance=0": ["v0"],
    }


def test_a_variant_has_mean_and_spread_over_its_seeds():
    table = variants_table(AUTOENCODERS).set_index("variant")
    assert table["seeds"].tolist() == [3, 1, 1]
    assert table.loc["base", "psnr"] == "30 ± 1"  # sample standard deviation of 29, 30, 31
    assert table.loc["vae.variance=0", "psnr"] == "35"
    assert list(table.columns) == ["seeds", "psnr", "latent/std"]
