"""Terms of the report are links to their definitions."""

import re

import pytest

from edm2.reporting.glossary import BEGINNINGS, TERMS, glossary, term_id, term_of, with_terms
from edm2.reporting.page import render


def test_the_first_use_of_a_term_is_a_link_to_its_definition():
    body = with_terms("<p>The EMA length of config A, then another EMA length.</p>")
    assert body.count('<a class="term" href="#term-ema-length">EMA length</a>') == 1
    assert ">config</a> A" in body
    assert re.sub("<[^>]*>", "", body) == "The EMA length of config A, then another EMA length."


def test_nothing_but_text_gets_links():
    body = (
        '<img alt="EMA length"><h3>EMA length</h3><summary>EMA length</summary>'
        '<script>"EMA length<b>"</script><a href="#x">EMA length</a><td>EMA length</td> vae/vae.csv'
    )
    assert with_terms(body) == body


@pytest.mark.parametrize(
    ("word", "term"),
    [
        ("seed blocks", "seed block"),
        ("Fréchet distances", "Fréchet distance"),
        ("fd_classifier_1k", "fd"),
        ("rfd_classifier_270", "rfd"),
        ("classifier", None),
    ],
)
def test_forms_of_a_word(word, term):
    assert term_of(word) == term
    assert ('class="term"' in with_terms(f"<p>{word}</p>")) == (term is not None)


def test_every_link_has_a_definition():
    page = render("title", [("a", "<p>" + " ".join(TERMS) + "</p>")])
    links = set(re.findall('class="term" href="#([^"]*)"', page))
    assert links == {term_id(term) for term in TERMS if term not in BEGINNINGS}
    assert links <= set(re.findall('<div id="([^"]*)"', page))


def test_every_term_has_a_place_of_its_own():
    assert len({term_id(term) for term in TERMS}) == len(TERMS)
    assert glossary().count("<dt>") == len(TERMS)
