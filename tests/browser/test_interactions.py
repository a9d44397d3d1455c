"""The report in a browser: what charts, tables, pictures and terms do when they are used."""

import pandas as pd
import pytest
from browser.visit import Visit
from network_rows import concatenated, network_rows

from edm2.reporting.curves import ema_curves_chart
from edm2.reporting.page import chart, render, table

LENGTHS = (0.05, 0.1, 0.2)


@pytest.fixture(scope="module")
def small(chromium, tmp_path_factory):
    """A page with the EMA curves of two configs, 6, 4, 5 of F and then 3, 1, 2 of G, and a table."""
    networks = concatenated(network_rows((3, 1, 2)), network_rows((6, 4, 5), config="F"))
    numbers = pd.DataFrame({"name": list("abcde"), "value": [10.0, 9.0, float("nan"), 2e-05, -1.0]})
    body = chart(ema_curves_chart(networks), "caption") + table(numbers)
    path = tmp_path_factory.mktemp("small") / "index.html"
    path.write_text(render("Small", [("EMA length", body)]))
    return Visit(chromium, path, 1400)


@pytest.fixture(autouse=True)
def without_messages(request):
    """No interaction makes the page complain or ask the network."""
    yield
    for name in {"small", "report"} & set(request.fixturenames):
        visit = request.getfixturevalue(name)
        assert visit.messages == visit.requests == []


def lines(visit):
    """Whether each curve is shown, by its config, in the order of the legend."""
    opacities = visit.page.locator(".live .mark-line path").evaluate_all(
        "paths => paths.map(path => Number(path.getAttribute('opacity') ?? 1))"
    )
    return [opacity > 0.5 for opacity in opacities]


def point(visit, index):
    """The center of a point of the curves, in pixels of the window."""
    box = visit.page.locator(".live .mark-symbol.role-mark path").nth(index).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def ticks(visit):
    return visit.page.locator(".live .role-axis-label text").all_inner_texts()


def test_a_click_on_the_legend_hides_the_other_curve(small):
    label = small.page.locator(".live .role-legend-label text", has_text="config G")
    assert lines(small) == [True, True]
    label.click()
    small.settle()
    assert lines(small) == [False, True]
    label.click()
    small.settle()
    assert lines(small) == [True, True]


def test_hovering_shows_values(small):
    """The fifth point is that of config G at 0.1, whose value is 1."""
    small.page.mouse.move(*point(small, 4))
    tip = small.page.locator("#vg-tooltip-element.visible")
    cells = tip.locator("td").all_inner_texts()
    values = dict(zip(cells[::2], cells[1::2], strict=True))
    assert values["EMA length"] == "0.1"
    assert values["fd_classifier_1k"] == "1"
    assert values["curve"].startswith("config G")
    small.page.mouse.move(1, 1)
    tip.wait_for(state="hidden")


def test_zoom_and_reset(small):
    """Ctrl and the wheel zoom, a double click resets; the wheel alone leaves the chart as it is."""
    before = ticks(small)
    small.page.mouse.move(*point(small, 1))
    small.page.mouse.wheel(0, -200)
    small.settle()
    assert ticks(small) == before
    small.page.keyboard.down("Control")
    small.page.mouse.wheel(0, -200)
    small.page.keyboard.up("Control")
    small.settle()
    assert ticks(small) != before
    x, y = point(small, 1)
    small.page.mouse.dblclick(x + 40, y - 40)
    small.settle()
    assert ticks(small) == before


def test_a_click_on_a_header_sorts_by_number(small):
    """Not as text, where 10 is before 9; the empty cell stays last."""
    head = small.page.locator("th", has_text="value")
    cells = small.page.locator(".scroll tbody td:nth-child(2)")
    assert head.get_attribute("aria-sort") is None
    for order, expected in (
        ("ascending", ["-1", "2e-05", "9", "10", ""]),
        ("descending", ["10", "9", "2e-05", "-1", ""]),
    ):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == order
        assert cells.all_inner_texts() == expected


def test_the_filter_leaves_rows_with_all_words(report):
    report.show(1400, "light")
    box = report.page.locator(".filter", has=report.page.locator("input")).first
    rows = box.locator("xpath=following-sibling::div[1]").locator("tbody tr")
    count = rows.count()
    first = rows.first.locator("td").first.inner_text()
    assert count > 1
    box.locator("input").fill(first)
    shown = [row.inner_text() for row in rows.all() if row.is_visible()]
    assert 0 < len(shown) < count
    assert all(first in text for text in shown)
    assert f"{len(shown)} of {count}" in box.inner_text()
    box.locator("input").fill("")
    assert all(row.is_visible() for row in rows.all())


def test_a_click_enlarges_a_picture_and_escape_closes_it(report):
    report.show(400, "light")
    image = report.page.locator("figure img.sharp").first
    width = image.bounding_box()["width"]
    dialog = report.page.locator("dialog")
    assert not dialog.is_visible()
    image.click()
    assert dialog.is_visible()
    assert dialog.locator("img").bounding_box()["width"] > width
    assert dialog.locator("img").get_attribute("alt") == image.get_attribute("alt")
    report.page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_the_slider_shows_the_same_seeds_at_another_ema_length(report):
    """At its end the slider names another length than at its start, and the first strip has other pixels."""
    report.show(1400, "light")
    control = report.page.locator(".slider", has_text="EMA length")
    slider = control.locator("input")
    strip = report.page.locator(".strips .enlarge").first
    shown = {}
    slider.focus()
    for key, length in (("Home", LENGTHS[0]), ("End", LENGTHS[-1])):
        slider.press(key)
        assert control.locator("output").inner_text().startswith(f"{length:g}:")
        shown[length] = strip.screenshot()
    assert len(set(shown.values())) == 2


def test_a_slider_shows_one_picture_over_the_vaes_training_at_a_time(report):
    report.show(1400, "light")
    control = report.page.locator(".slider", has_text="Images seen")
    frames = report.page.locator(".frames figure")
    assert frames.count() == 2
    for key, number, label in (("Home", 0, "256: PSNR"), ("End", 1, "512: PSNR")):
        control.locator("input").press(key)
        assert control.locator("output").inner_text().startswith(label)
        assert [frame.is_visible() for frame in frames.all()] == [number == 0, number == 1]
        assert label in frames.nth(number).inner_text()


def test_terms_are_explained_on_focus(report):
    """Each term that is marked in the text shows what the glossary says of it."""
    report.show(1400, "light")
    tip = report.page.locator("#tip")
    texts = {}
    for term in report.page.locator("a.term").all():
        if term.get_attribute("href") not in texts and term.is_visible():
            term.focus()
            texts[term.get_attribute("href")] = tip.inner_text()
    definitions = report.page.locator(".glossary > div").evaluate_all(
        "rows => rows.map(row => ['#' + row.id, row.querySelector('dd').textContent])"
    )
    assert len(texts) >= 5
    assert texts == {term: text for term, text in definitions if term in texts}
    report.page.keyboard.press("Escape")
    assert not tip.is_visible()
