"""The report in a browser: nothing is clipped, hard to read, logged or asked for."""

import re

import pytest
from browser.visit import VIEWS, WIDTHS, Visit
from network_rows import concatenated, network_rows

from edm2.metrics.effects import effect
from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.forest import forest_chart
from edm2.reporting.page import chart, render
from edm2.reporting.verdict import Verdict


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", WIDTHS)
def test_all_text_can_be_read(report, width, view):
    report.show(width, view)
    assert report.faults() == []


@pytest.fixture(scope="module")
def comparison(chromium, tmp_path_factory):
    """Figures of several configs and trainings: the longest legend that curves have, and verdicts."""
    trainings = [
        network_rows([3.0 + seed, 1.0 + seed, 2.0], config="G", training_seed=seed)
        for seed in (0, 1)
    ]
    traditional = [
        network_rows([2.9 + seed], [0.0629], config="A", average="traditional", training_seed=seed)
        for seed in (0, 1)
    ]
    pairs = {0: -0.1, 1: 0.2}
    change = effect({0: 2.0, 1: 2.0}, {0: 1.9, 1: 2.2})
    verdicts = [
        Verdict("A", "G", "fd_classifier_1k", choice, "other blocks", change, (2, 2), pairs)
        for choice in ("own best", "common")
    ]
    figures = (ema_curves_chart(concatenated(*traditional, *trainings)), forest_chart(verdicts))
    body = "".join(chart(figure, "caption") for figure in figures)
    path = tmp_path_factory.mktemp("comparison") / "index.html"
    path.write_text(render("Comparison", [("Figures", body)]))
    return Visit(chromium, path, 1400)


@pytest.mark.parametrize("width", WIDTHS)
def test_figures_of_several_configs_can_be_read(comparison, width):
    comparison.show(width, "light")
    assert comparison.faults() == []
    assert comparison.messages == comparison.requests == []


def test_the_page_is_quiet_and_complete(report):
    assert report.messages == report.requests == []


def test_the_page_is_small(finished):
    page = (finished / "reports/index.html").read_text()
    figures = re.findall("<figure.*?</figure>", page, re.DOTALL)
    assert len(page.encode()) <= 5e6
    assert len(figures) >= 5
    assert max(len(figure.encode()) for figure in figures) <= 1e6


def test_print_has_the_static_figures_and_no_controls(report):
    report.show(1400, "print")
    figures = report.page.locator("figure.chart")
    assert figures.count() >= 1
    for figure in figures.all():
        static = figure.locator("img.static")
        assert static.is_visible()
        assert static.evaluate("image => image.complete && image.naturalWidth > 100")
        assert not figure.locator(".live").is_visible()
    controls = report.page.locator("input, nav, figure.chart summary")
    assert not any(control.is_visible() for control in controls.all())


def test_without_scripts_the_static_figures_stay(chromium, finished):
    path = finished / "reports/index.html"
    visit = Visit(chromium, path, 1400, java_script_enabled=False)
    assert visit.page.locator("figure.chart img.static").first.is_visible()


FAULTY = """<!doctype html><title>x</title><style>body { background: white; margin: 0 }</style>
<p style="color: #777">pale</p><p style="color: #767676">plain</p>
<div style="background: #333"><b style="color: #888">dim</b><b style="color: #fff">clear</b></div>
<p style="color: #000; opacity: .3">faint</p>
<p style="width: 20px">overflowing</p><p style="width: 20px; overflow: auto">scrollable</p>
<p style="width: 20px; overflow: hidden">hidden</p>
<svg width="50" height="20"><text x="40" y="15">outside</text></svg>
<p style="width: 900px">wide</p><p style="display: none; color: white">unseen</p>
<figure class="chart drawn"><div class="live"><svg width="200" height="40">
<g class="role-axis"><g class="role-axis-label"><text x="5" y="20">0.5</text></g></g></svg></div></figure>
<script>console.warn("careful"); new Image().src = "http://127.0.0.1:9/a.png"</script>"""


def test_faults_are_found(chromium, tmp_path):
    """#767676 is the lightest gray with 4.5 on white; #888 on #333 has 3.6, and black of 30 % has 2.1."""
    path = tmp_path / "faulty.html"
    path.write_text(FAULTY)
    visit = Visit(chromium, path, 400)

    def words(check):
        return [fault.split('"')[1] for fault in visit.faults(check) if '"' in fault]

    assert words("contrast") == ["pale", "dim", "faint"]
    assert words("clipped") == ["overflowing", "hidden", "outside"]
    assert "page of 900 px in a window of 400" in visit.faults("wide")
    assert words("untitled") == ["0.5"]
    assert visit.requests == ["http://127.0.0.1:9/a.png"]
    assert visit.messages[0] == "warning: careful"
    visit.page.context.close()
