"""What DVC's commands show: its tables of metrics and experiments, and its plots, without network."""

import json
import re
import shutil

import pytest
import vl_convert
from dvc.repo import Repo
from dvc_render import VegaRenderer, render_html
from ruamel.yaml import YAML
from tiny import PER_CONFIG, REPLICATE, ROOT, STAGES, write_params

from edm2.params.loading import fields
from edm2.params.tree import Params
from edm2.pipeline.declaration import read_declaration

PLOTS = ROOT / ".dvc/plots"
BEST = {"fd_classifier_1k": 1.78, "ema_length": 0.18}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A project of DVC with the pipeline's files of metrics, and no stage that has run."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    write_params(tmp_path / "params.yaml", {})
    for name in ("best/A", "best/G", "shared", "metrics", "vae/metrics", "features/metrics"):
        path = tmp_path / f"reports/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(BEST if "best" in name else {name: 1.0}))
    monkeypatch.chdir(tmp_path)
    return Repo.init(".", no_scm=True)


def test_metrics_have_a_row_per_config_and_one_for_what_configs_share(workspace):
    shown = workspace.metrics.show()[""]["data"]
    assert {path: file["data"] for path, file in shown.items()} == {
        "reports/best/A.json": BEST,
        "reports/best/G.json": BEST,
        "reports/shared.json": {"shared": 1.0},
    }


@pytest.mark.parametrize("page", ["README.md", "docs/start.md", "docs/guides/sweeps.md"])
def test_the_shown_command_leaves_out_the_columns_of_files_and_no_other(page):
    commands = re.findall(r"^dvc exp show.*$", (ROOT / page).read_text(), re.MULTILINE)
    assert commands
    files = {
        path.as_posix()
        for name in STAGES
        for path in read_declaration(
            name, REPLICATE if name in PER_CONFIG else None, ROOT / "dvc.yaml"
        ).deps
    }
    others = {key for key, _ in fields(Params)}
    others |= {"fd_classifier_1k", "reports/best/A.json:fd_classifier_1k"}  # of several configs
    for command in commands:
        (pattern,) = re.findall(r"--drop '(.*?)'", command)
        assert {name for name in files | others if re.match(pattern, name)} == files


def rows(*revisions, configs="AG", seeds=(0, 1)):
    """Rows of both tables, as DVC passes them to a template: values are text."""
    return [
        {"rev": revision, "config": config, "training_seed": str(seed), "low": low, "high": "4.0"}
        | {"ema_length": x, "nimg": x, "value": "3.5", "weighted_mse": "0.5", "metric": "fd"}
        | {"trainings": "2"}
        for revision in revisions
        for config in configs
        for seed in seeds
        for x, low in (("0.1", "3.0"), ("0.2", ""))
    ]


def declared_plots():
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
    return [next(iter(plot.values())) for plot in stages["report"]["plots"]]


def plots_of_configs():
    return [plot for plot in declared_plots() if plot["template"] != "vae"]


def drawn(plot, data):
    """The text in the picture of a declared plot."""
    renderer = VegaRenderer(data, "plot", template_dir=str(PLOTS), **plot)
    svg = vl_convert.vegalite_to_svg(renderer.get_filled_template())
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


@pytest.mark.parametrize("plot", plots_of_configs(), ids=lambda plot: plot["template"])
def test_plots_of_one_revision_have_a_line_per_config(plot):
    text = drawn(plot, rows("workspace"))
    assert {"config A", "config G"} <= set(text)
    assert "workspace" not in text
    assert text.count("config A") == 1  # in the legend; all configs are in one panel


@pytest.mark.parametrize("plot", plots_of_configs(), ids=lambda plot: plot["template"])
def test_plots_of_several_revisions_name_them_and_have_a_panel_per_config(plot):
    text = drawn(plot, rows("main", "frail-rift"))
    assert {"main", "frail-rift", "config A", "config G"} <= set(text)


@pytest.mark.parametrize("revisions", [("workspace",), ("main", "frail-rift")])
def test_the_plot_of_the_vae_has_a_panel_per_metric(revisions):
    (plot,) = (plot for plot in declared_plots() if plot["template"] == "vae")
    values = [
        {"rev": revision, "metric": metric, "nimg": str(nimg), "value": str(nimg / 10)}
        for revision in revisions
        for metric in ("PSNR in dB", "SSIM")
        for nimg in (100, 200)
    ]
    text = drawn(plot, values)
    assert {"PSNR in dB", "SSIM"} <= set(text)
    assert (set(revisions) <= set(text)) == (len(revisions) > 1)


def test_the_page_of_plots_is_in_the_repository_and_loads_nothing(tmp_path):
    config = (ROOT / ".dvc/config").read_text()
    (name,) = re.findall(r"html_template = (.*)", config)
    plot = declared_plots()[0]
    renderer = VegaRenderer(rows("main"), "plot", template_dir=str(PLOTS), **plot)
    render_html([renderer], tmp_path / "index.html", ROOT / ".dvc" / name)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    scripts = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert re.search(r"\bvegaEmbed\b", page)
    assert not re.findall(r'(?:src|href)="(?!data:)', scripts)
