"""The whole report, from invented outputs of the stages."""

import io
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from network_rows import concatenated, network_rows
from page_text import page_text
from PIL import Image

from edm2.params.errors import UserError
from edm2.params.replicates import Replicate
from edm2.reporting.facts import Facts
from edm2.reporting.latents_section import latents_section
from edm2.reporting.report import write_report
from edm2.reporting.samples_section import samples_section
from edm2.reporting.sections import vae_section
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.training_sections import dynamics_section
from edm2.reporting.verdict_section import verdict_section
from edm2.runtime.checksums import write_checksum
from edm2.runtime.clipping import clipped_values
from edm2.runtime.manifest import write_manifest

BUCKETS = ("enc-8x8", "dec-8x8")
TRAINING = {
    "nimg": [500, 1000],
    "train/loss": [2.0, 1.0],
    "train/weighted_mse": [1.0, 0.5],
    "train/lr": [0.01, 0.01],
    "train/nonfinite_gradients": [0.0, 0.0],
    "weighted_mse/sigma_1": [1.0, 0.5],
    **{
        f"{quantity}_{kind}/{bucket}": [1.0, 1.2]
        for quantity in ("weights", "activations", "updates")
        for kind in ("mean", "max")
        for bucket in BUCKETS
    },
}
METRICS = {
    "features": {"accuracy_held_out": 0.98, "accuracy_of_chance": 0.1, "at_chance": False},
    "vae": {"evaluated_images": 270, "psnr": 30.0, "ssim": 0.9, "perceptual_classifier": 0.1},
    "baselines": {"held_out/fd_classifier_200": 5.0, "reconstructions/fd_classifier_200": 6.0},
}


VAE_EMA = """ema_length,nimg,error,weight_sum,snapshots,evaluated_images,psnr,ssim
0.0,1000,0.0,1.0,0,270,30.0,0.9
0.1,1000,0.0,1.0,8,270,31.0,0.8
"""
LATENTS = {
    "spectrum": pd.DataFrame(
        {"signal": ["latents"] * 3, "frequency": [0, 1, 2], "power": [2.0, 1.5, 0.5], "sigma": 0.5}
    ),
    "channels": pd.DataFrame(
        {"channel": [0], "mean": [0.1], "std": [2.0], "noise_sigma": [0.0703]}
    ),
    "robustness": pd.DataFrame({"sigma": [0.0, 0.1], "psnr": [np.inf, 27.5], "ssim": [1.0, 0.9]}),
}
FACTS = Facts(
    {"Data set": "digits: 1,528 training images"},
    pd.DataFrame({"stage": ["prepare"], "seconds": [1.5]}),
    "digits",
    pd.DataFrame({"param": ["seeds"], "preset digits": ["[0]"], "here": ["[0, 1]"]}),
)


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def write_result(path, text):
    path.write_text(text, encoding="utf-8")
    write_checksum(path)


@pytest.fixture
def stage_outputs(tmp_path):
    """Outputs of the stages for some configs; each is swept over time, tensors and guidance."""

    def write(*configs, seeds=(0,), trained=True, at_chance=False, steps=None):
        for folder in ("fid", "training", "latents", *METRICS):
            (tmp_path / folder).mkdir()
        for stage, metrics in METRICS.items():
            if stage == "features":
                metrics = metrics | {"at_chance": at_chance}
            write_result(tmp_path / stage / "metrics.json", json.dumps(metrics))
        write_result(tmp_path / "vae/curves.csv", "nimg\n")
        write_result(tmp_path / "vae/ema.csv", VAE_EMA)
        for name, table in LATENTS.items():
            write_result(tmp_path / f"latents/{name}.csv", table.to_csv(index=False))
        write_picture(tmp_path / "vae/reconstructions.png")
        (tmp_path / "vae/progress").mkdir()
        write_manifest(tmp_path / "vae/progress")
        training = pd.DataFrame(TRAINING if trained else {"nimg": []})
        if steps is not None:
            training["train/nonfinite_steps"] = steps
        replicates = [Replicate(config, seed) for config in configs for seed in seeds]
        for replicate in replicates:
            table = concatenated(
                network_rows((3.0, 1.0, 2.0)),
                network_rows((4.0, 2.0, 3.0), nimg=500),
                network_rows((2.0, 1.5, 3.0), tensors="*-affine"),
                network_rows((2.0, 0.5, 1.0), guidance=2.0),
            )
            table = table.assign(
                config=replicate.config,
                training_seed=replicate.seed,
                at_chance=at_chance,
                value=table["value"] + replicate.seed,
            )
            write_result(tmp_path / f"fid/{replicate}.csv", table.to_csv(index=False))
            write_result(tmp_path / f"training/{replicate}.csv", training.to_csv(index=False))
            for network in table["network"].unique():
                for name in (network, f"{network}-w2"):
                    write_picture(tmp_path / f"samples/{replicate}/{name}.png")
        return StageOutputs(tmp_path, replicates, [str(k) for k in range(10)])

    return write


@pytest.fixture
def blank_figures(monkeypatch):
    """Charts are specified, but not rendered, which takes most of a report's time."""
    blank = io.BytesIO()
    Image.new("RGB", (8, 8)).save(blank, format="png")
    monkeypatch.setattr("vl_convert.vegalite_to_svg", lambda *_, **__: "<svg/>")
    monkeypatch.setattr("vl_convert.vegalite_to_png", lambda *_, **__: blank.getvalue())


def write_page(outputs):
    write_report(outputs, outputs.folder, FACTS)
    return page_text((outputs.folder / "index.html").read_text(encoding="utf-8"))


HEADINGS = [
    "EMA length",
    "Ablation",
    "Training time",
    "Per-tensor EMA length",
    "Guidance",
    "Samples",
    "Baselines",
    "VAE",
    "EMA of the VAE",
    "Latents",
    "Training",
    "Training dynamics",
    "All networks",
    "Glossary",
]


@pytest.mark.slow
@pytest.mark.parametrize(("configs", "names"), [("AH", ["EDM baseline", ""]), ("H", [""])])
def test_the_report_needs_no_config_of_the_paper(stage_outputs, tmp_path, configs, names, request):
    if len(configs) > 1:  # all kinds of charts are rendered once
        request.getfixturevalue("blank_figures")
    page = write_page(stage_outputs(*configs))
    expected = HEADINGS if len(configs) == 1 else ["Does it help?", *HEADINGS]
    assert re.findall("<h2>(.*?)</h2>", page) == expected
    assert "nan" not in re.sub('src="[^"]*"', "", page).lower()
    ablation = pd.read_csv(tmp_path / "ablation.csv")
    assert ablation["config"].tolist() == list(configs)
    assert ablation["ours: EMA length"].tolist() == [0.1] * len(configs)
    assert ablation["name"].fillna("").tolist() == names
    assert pd.read_csv(tmp_path / "dynamics.csv")["config"].tolist() == list(configs)
    for sweep in ("nimg", "tensors", "guidance"):
        assert set(pd.read_csv(tmp_path / f"sweeps/{sweep}.csv")["config"]) == set(configs)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert {f"{config}/best/fd_classifier_1k" for config in configs} <= metrics.keys()
    assert metrics["vae/psnr"] == 30


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_dynamics_are_compared_with_the_papers(stage_outputs, tmp_path):
    """Weights that grow by 1.2, and activations that stay bounded; the paper has no config H."""
    ((_, body),) = dynamics_section(stage_outputs("D", "G", "H"), tmp_path)
    assert "Weights agree with the paper in config D." in body
    assert "Weights disagree with the paper in config G." in body
    assert "Activations agree with the paper in config D, G." in body


@pytest.mark.parametrize(
    "skipped", [{}, {"skipped_images/shards": 2, "skipped_images/held_out": 1}]
)
@pytest.mark.usefixtures("blank_figures")
def test_skipped_images_are_told(stage_outputs, tmp_path, skipped):
    outputs = stage_outputs()
    write_result(tmp_path / "vae/metrics.json", json.dumps(METRICS["vae"] | skipped))
    ((_, body),) = vae_section(outputs, tmp_path)
    assert ("3 damaged images" in body) == bool(skipped)


@pytest.mark.usefixtures("blank_figures")
def test_clipped_values_are_told(stage_outputs, tmp_path):
    outputs = stage_outputs()
    clipped = {"clipped/latents": 0.5, "clipped/images": 0.0123}
    write_result(tmp_path / "vae/metrics.json", json.dumps(METRICS["vae"] | clipped))
    ((_, body),) = vae_section(outputs, tmp_path)
    assert "50.00% of the latents" in body
    assert "1.23% of the decoded values" in body
    assert clipped_values({"clipped/images": 1e-6})[0].startswith("less than 0.01% of the decoded")


def test_latents_have_charts_of_what_a_logarithmic_axis_can_show(stage_outputs, tmp_path):
    """Not of frequency and noise 0, which are in the tables; exact images have an infinite PSNR."""
    outputs = stage_outputs()
    ((heading, body),) = latents_section(outputs, tmp_path)
    assert heading == "Latents"
    specs = [json.loads(text) for text in re.findall("<script[^>]*json.>(.*?)</script>", body)]
    shown = [
        [row[x] for row in spec["layer"][0]["data"]["values"]]
        for spec, x in zip(specs, ("frequency", "sigma"), strict=True)
    ]
    assert shown == [[1, 2], [0.1]]
    assert "<td>inf</td>" in body
    assert "<td>0.0703</td>" in body
    assert (tmp_path / "latents.png").exists()
    write_result(tmp_path / "latents/robustness.csv", "sigma\n")
    ((_, body),) = latents_section(outputs, tmp_path)
    assert "is not known" in body
    write_result(tmp_path / "latents/spectrum.csv", "signal,frequency\na,1\n")
    with pytest.raises(UserError, match=r"spectrum\.csv: column power"):
        latents_section(outputs, tmp_path)


@pytest.mark.slow
def test_without_training_there_are_no_training_curves(stage_outputs, tmp_path):
    page = write_page(stage_outputs("G", trained=False))
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings == [h for h in HEADINGS if h != "Training dynamics"]
    for name in ("training", "magnitudes", "updates", "forest"):  # outs of the stage
        assert (tmp_path / f"{name}.png").exists()
    assert "training 0" not in page  # there are no others
    assert not [name for name in pd.read_csv(tmp_path / "ablation.csv") if "training" in name]
    metrics = [
        key for key in json.loads((tmp_path / "metrics.json").read_text()) if "/best/" in key
    ]
    assert metrics == ["G/best/fd_classifier_1k", "G/best/ema_length"]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_detector_at_chance_is_said_wherever_its_numbers_are(stage_outputs):
    page = write_page(stage_outputs("G", at_chance=True))
    sections = dict(re.findall("<h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL))
    with_note = {heading for heading, body in sections.items() if "untrained network" in body}
    assert with_note == {"EMA length", "Ablation", "Baselines", "VAE", "All networks"}
    assert "vae.backbone and vae.detector to efficientnet" in sections["VAE"]


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_steps_that_are_not_finite_are_said(stage_outputs, tmp_path):
    page = write_page(stage_outputs("G", steps=[None, 0.5]))
    sections = dict(re.findall("<h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL))
    for heading in ("Ablation", "Training"):
        assert "25.00% of the steps, first before 1000 images" in sections[heading]
    (mark,) = pd.read_csv(tmp_path / "ablation.csv")["ours: training not finite"]
    assert mark.startswith("25.00%")


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_training_that_was_never_finite_has_a_report(
    stage_outputs, monkeypatch, tmp_path, value, request
):
    """Its curves are empty and named, and its dynamics have no verdict."""
    if math.isinf(value):  # its charts are the same
        request.getfixturevalue("blank_figures")
    finite = ("nimg", "train/lr", "train/nonfinite_gradients", "weights_max", "weights_mean")
    diverged = {k: v if k.startswith(finite) else [value] * 2 for k, v in TRAINING.items()}
    monkeypatch.setattr(f"{__name__}.TRAINING", diverged)
    page = write_page(stage_outputs("G", steps=[1.0, 1.0]))
    assert "100.00% of the steps, first before 500 images" in page
    assert (
        "config G, training 0: train/weighted_mse, train/loss, weighted_mse/sigma_1 (up to 2"
        in page
    )
    (row,) = pd.read_csv(tmp_path / "dynamics.csv").to_dict("records")
    assert row["activations: observed"] == row["relative update"] == "not finite"
    assert row["weights: observed"] == "grow"


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_several_trainings_have_means_intervals_and_verdicts(stage_outputs, tmp_path):
    """The values of seed 2 are 2 larger: own bests of 1 and 3, with a mean of 2."""
    page = write_page(stage_outputs("D", "G", seeds=(0, 2)))
    sections = dict(re.findall("<h2>(.*?)</h2>(.*?)</section>", page, re.DOTALL))
    assert next(iter(sections)) == "Does it help?"
    assert "D → G: the same values in all 2 paired trainings." in sections["Does it help?"]
    verdict = pd.read_csv(tmp_path / "verdict.csv")
    assert verdict[["base", "change", "difference", "trainings"]].values.tolist() == [
        ["D", "G", 0, 2]
    ] * len(verdict)
    shown, *collapsed = sections["Samples"].split("<details>")
    assert "Best network of config D, training 0" in shown
    assert "training 2" not in shown
    assert "Best network of config G, training 2" in collapsed[-1]
    assert "means over 2 trainings" in sections["Training dynamics"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    best = {key: value for key, value in metrics.items() if key.startswith("G/best/fd_classifier")}
    half = 12.706 * 2**0.5 / 2**0.5  # Student's t of one degree of freedom; standard deviation √2
    assert best["G/best/fd_classifier_1k"] == 2
    assert best["G/best/fd_classifier_1k/low"] == pytest.approx(2 - half, abs=1e-3)
    assert best["G/best/fd_classifier_1k/high"] == pytest.approx(2 + half, abs=1e-3)
    rows, means = (pd.read_csv(tmp_path / f"ema_curves{name}.csv") for name in ("", "_mean"))
    assert rows["training_seed"].tolist() == ([0] * 3 + [2] * 3) * 2
    assert means["value"].tolist() == [4.0, 2.0, 3.0] * 2


def test_trainings_that_were_evaluated_differently_have_a_report(
    stage_outputs, tmp_path, monkeypatch
):
    outputs = stage_outputs("D", "G", seeds=(0, 1))
    table = pd.read_csv(tmp_path / "fid/G-1.csv")
    table = table[table["ema_length"] != 0.05]
    write_result(tmp_path / "fid/G-1.csv", table.to_csv(index=False))
    drawn = []
    monkeypatch.setattr(
        "edm2.reporting.verdict_section.write_chart", lambda _, *paths: drawn.extend(paths)
    )
    ((_, body),) = verdict_section(outputs, tmp_path)
    assert "were evaluated differently" in body
    assert drawn == [tmp_path / "forest.png", tmp_path / "forest.svg"]  # outs of the stage
    assert (tmp_path / "verdict.csv").exists()


@pytest.mark.parametrize(("configs", "shown"), [("ABG", "ABG"), ("ABFG", "B")])
def test_of_many_configs_only_the_best_one_has_its_strips_in_the_page(
    stage_outputs, configs, shown
):
    outputs = stage_outputs(*configs)
    for config in configs:
        for name in ("lengths/0003.png", "strengths/0003.png"):
            write_picture(outputs.folder / f"samples/{config}-0/{name}")
    table = pd.read_csv(outputs.folder / "fid/B-0.csv")
    text = table.assign(value=table["value"] / 2).to_csv(index=False)
    write_result(outputs.folder / "fid/B-0.csv", text)
    outputs = StageOutputs(outputs.folder, outputs.replicates, outputs.classes)
    [(_, body)] = samples_section(outputs, outputs.folder)
    for config in configs:
        linked = f'href="samples/{config}-0/lengths/0003.png">class 3, at all EMA lengths' in body
        assert linked == (config not in shown)
    assert body.count("<img") == len(configs) + 2 * len(shown)
