"""VAEs of several experiments side by side."""

from edm2.reporting.vae_variants import variants, variants_table


def vae(psnr, **params):
    """Metrics of a VAE, and its flat params."""
    flat = {"vae.seed": 0, "vae.variance": 0.1, "vae.losses.mse": 0.0, **params}
    return {"psnr": psnr, "latent/std": 2.0, "latent/mean_0": 0.3}, flat


VAES = {
    "b1": vae(31.0, **{"vae.seed": 1}),
    "b0": vae(29.0),
    "v0": vae(35.0, **{"vae.variance": 0}),
    "p1": vae(20.0, **{"vae.seed": 1, "vae.losses.mse": 0.1, "vae.variance": "learned"}),
    "b2": vae(30.0, **{"vae.seed": 2}),
}


def test_experiments_that_differ_only_in_their_seed_are_one_variant():
    assert variants(VAES) == {
        "base": ["b0", "b1", "b2"],
        "vae.losses.mse=0.1, vae.variance=learned": ["p1"],
        "vae.variance=0": ["v0"],
    }


def test_a_variant_has_mean_and_standard_deviation_over_its_seeds():
    table = variants_table(VAES).set_index("variant")
    assert table["seeds"].tolist() == [3, 1, 1]
    assert table.loc["base", "psnr"] == "30 ± 1"  # sample standard deviation of 29, 30, 31
    assert table.loc["vae.variance=0", "psnr"] == "35"
    assert list(table.columns) == ["seeds", "psnr", "latent/std"]


def test_a_metric_that_a_seed_does_not_have_has_no_mean():
    """Exact reconstructions have no PSNR."""
    metrics, params = VAES["b1"]
    others = {key: value for key, value in metrics.items() if key != "psnr"}
    table = variants_table({**VAES, "b1": (others, params)}).set_index("variant")
    assert table.loc["base", "psnr"] == "nan ± nan"


def test_a_classifier_at_chance_marks_a_variant():
    """Its perceptual distances and those of its reconstructions are those of an untrained network."""
    metrics, params = VAES["v0"]
    marked = {**VAES, "v0": ({**metrics, "at_chance": True}, params)}
    table = variants_table(marked).set_index("variant")
    assert table["classifier at chance"].to_dict()["vae.variance=0"] == "yes"
    assert table["classifier at chance"].count() == 1
