"""The words of the report that newcomers may not know, and where a page explains them."""

import html
import re
from collections.abc import Iterator

TERMS = {  # as in docs/glossary.md, in as few words as a reader of the page needs
    "baseline": "The Fréchet distance of real held-out images, and of their copies after the VAE. A perfect "
    "generator would reach the first.",
    "95 % interval": "The range in which the true value lies in 95 of 100 such experiments.",
    "class": "A kind of image, like one digit. It is an input of the network.",
    "config": "One of the paper's seven variants A to G of network and training. Each changes a few options "
    "of the one before it: A is the older EDM, G the final EDM2.",
    "decibel": "A logarithmic ratio, dB: 10 dB more is a tenth of the squared error.",
    "detector": "A network that turns an image into a list of numbers, its features, so that sets of images "
    "can be compared. Its name is part of a metric's name.",
    "EMA length": "How far back the average of a network's weights reaches: 0.10 means about 10 % of the "
    "training. In formulas σ_rel. Samples come from that average, not from the last weights.",
    "fd": "The Fréchet distance; the rest of such a name is the detector and the number of generated images, "
    "as in fd_classifier_1k.",
    "Fréchet distance": "How far generated images are from real ones, measured on features of a detector: "
    "the distance of two normal distributions. Lower is better; 0 would be the same. With the Inception "
    "network it is the FID.",
    "fresh seeds": "Images made for the value alone: none of them took part in choosing the network.",
    "guidance": "A second, weaker network shows which way the main one is going, and sampling goes further "
    "that way by the strength w.",
    "held-out images": "Real images that nothing is trained on.",
    "learning rate": "How large the steps of the training are.",
    "loss": "What training makes small: here the weighted squared error of the denoised image.",
    "magnitude": "The root mean square of a layer's weights or activations; 1 for unit normal data. EDM2 "
    "keeps magnitudes constant.",
    "nimg": "Training time: the number of images that the network has seen.",
    "noise level": "How much noise was added to an image, σ; the network is trained to remove it.",
    "paired trainings": "Trainings of two configs with the same training seed. They see the same images and "
    "noise, and are compared pair by pair.",
    "perceptual distance": "How different two images look to a trained network; lower is better.",
    "PSNR": "Peak signal-to-noise ratio of a reconstruction, in dB; higher is better.",
    "reconstruction error": "How exactly the averaged network was rebuilt from stored snapshots, relative to "
    "its weights; 0 is exact.",
    "rfd": "The Fréchet distance between held-out images and their reconstructions; 0 if these are exact. "
    "The rest of such a name is the detector and the number of images, as in rfd_classifier_270.",
    "seed block": "A set of consecutive seeds, one generated image each, that a network is measured on. "
    "Several blocks show how much the value depends on chance.",
    "settled": "A change is settled if its effect differs from 0 at a significance of 5 %, corrected for all "
    "comparisons made at once.",
    "snapshot": "The average of the weights as it stood at one time of the training.",
    "SSIM": "Structural similarity of a reconstruction and its image, at most 1; higher is better.",
    "training seed": "The number that determines start, order of images and noise of a training. Trainings "
    "that differ in it alone show how much is chance.",
    "VAE": "Variational autoencoder: the network that turns images into small arrays (latents) and back.",
    "σ_rel": "The EMA length in formulas: standard deviation of the average's weights over training time, "
    "relative to the length of the training.",
}
MARKUP = re.compile(r"(<script.*?</script>|<[^>]*>)", re.DOTALL)
OPAQUE = ("a", "code", "td", "button", "summary", "h1", "h2", "h3", "th")  # no links in these
BEGINNINGS = ("fd", "rfd")  # of names of metrics
# longest first, as a term may be a part of another one; with a plural, or with the rest of a metric's name
_NAMES = sorted(TERMS, key=len, reverse=True)
_WORDS = re.compile(
    r"(?<![\w/-])("
    + "|".join(
        rf"{name}_\w+" if name in BEGINNINGS else re.escape(name) + r"(?:e?s)?" for name in _NAMES
    )
    + r")(?![\w/-]|\.\w)",
    re.IGNORECASE,
)


def with_terms(body: str) -> str:
    """HTML in which the first use of each term is a link to the glossary."""
    return "".join(_pieces(body))


def _pieces(body: str) -> Iterator[str]:
    used: set[str] = set()
    opaque: list[str] = []

    def link(match: re.Match[str]) -> str:
        term = term_of(match[0])
        if term is None or term in used:
            return match[0]
        used.add(term)
        return f'<a class="term" href="#{term_id(term)}">{match[0]}</a>'

    for piece in MARKUP.split(body):
        if piece.startswith("<"):
            name = re.match(r"</?(\w*)", piece)
            if name is not None and name[1] in OPAQUE:
                if piece.startswith("</"):
                    opaque.pop()
                else:
                    opaque.append(name[1])
            yield piece
        else:
            yield piece if opaque else _WORDS.sub(link, piece)


def term_of(word: str) -> str | None:
    """The term that a word in a text is a form of."""
    lower = word.lower()
    for name in BEGINNINGS:
        if lower.startswith((f"{name}_", f"{name} ")):
            return name
    forms = {name.lower() + ending: name for name in TERMS for ending in ("", "s", "es")}
    return forms.get(lower)


def term_id(term: str) -> str:
    return "term-" + re.sub(r"\W+", "-", term.lower())


def glossary() -> str:
    """All terms with their definitions."""
    rows = "".join(
        f'<div id="{term_id(term)}"><dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd></div>'
        for term, text in sorted(TERMS.items(), key=lambda item: item[0].lower())
    )
    return f'<dl class="glossary">{rows}</dl>'
