"""How many networks a sweep has, and how often sampling one image evaluates them."""

from collections import Counter
from dataclasses import dataclass
from itertools import product

import torch

from edm2.diffusion.names import PAPER_TENSORS
from edm2.metrics.search import PILOT, Search
from edm2.params import Params
from edm2.params.configs import ConfigName
from edm2.params.seams import SAMPLERS
from edm2.sampling.guidance import ConditionalDenoise, DenoisePair, guided
from edm2.sampling.solver import Churn

OTHER_GUIDES = ("snapshot", "trained", "published")  # guides that are a network of their own


@dataclass(frozen=True)
class Sweep:
    """The networks of a sweep.

    Attributes:
        networks: that are evaluated.
        guides: of the same training that are no networks of the sweep; of another training: all.
        images: generated images by guidance strength, with those that confirm the best; of a search, if it
            needs all of its seed blocks.
        fewest, most: images of a search, without those; 0 without one.
    """

    networks: int
    guides: int
    images: dict[float, int]
    fewest: int = 0
    most: int = 0


def sweep_of(config: ConfigName, params: Params) -> Sweep:
    """The networks that params list, as the stage `sweep_ema` makes them."""
    sweep, guidance, evaluation = params.sweep, params.guidance, params.evaluation
    end = params.diffusion.of(config).duration_nimg
    if sweep.search is not None:
        return _search_of(config, params)
    traditional = params.resolved(config).average == "traditional"
    lengths = ("fixed",) if traditional else sweep.ema_lengths
    whole = list(product(sweep.nimg or (end,), lengths))
    entries = () if traditional else sweep.tensors
    patterns = sum(len(PAPER_TENSORS) if entry == "paper" else 1 for entry in entries)
    tensors = [(end, sweep.tensors_base)] * (patterns * len(lengths))
    guides = set()
    if guidance.guide in OTHER_GUIDES:
        same = guidance.guide == "snapshot"
        guides = {
            (guidance.nimg or (nimg if same else end), guidance.ema_length or length)
            for nimg, length in whole + tensors
        }
        guides -= set(whole) if same else set()
    networks, per_network = len(whole) + len(tensors), evaluation.seed_blocks * evaluation.samples
    images = dict.fromkeys(guidance.strength, networks * per_network)
    if evaluation.confirm:
        for best in {strength == 1: strength for strength in guidance.strength}.values():
            images[best] += per_network
    return Sweep(networks, len(guides), images)


def _search_of(config: ConfigName, params: Params) -> Sweep:
    """A search: its networks have no files."""
    assert params.sweep.search is not None
    evaluation = params.evaluation
    strengths = params.guidance.strength
    search = Search(
        **params.sweep.search.model_dump(), max_blocks=evaluation.seed_blocks, strengths=strengths
    )
    blocks = search.evaluations(evaluation.seed_blocks) + evaluation.confirm * search.max_blocks
    fewest = search.evaluations(PILOT)
    most = search.most_evaluations
    if params.resolved(config).average == "traditional":  # one network, on as many blocks
        blocks, fewest, most = PILOT * (1 + evaluation.confirm), PILOT, PILOT
    samples = evaluation.samples
    costly = strengths[0] if len(strengths) == 1 else max(strengths)  # as unguided images cost less
    return Sweep(0, 0, {costly: blocks * samples}, fewest * samples, most * samples)


def search_text(params: Params) -> str:
    """How many images the searches of all configs generate, in a sentence; empty without a search."""
    if params.sweep.search is None:
        return ""
    sweeps = [sweep_of(config, params.of(config)) for config in params.configs]
    fewest, most = (sum(count) for count in zip(*((s.fewest, s.most) for s in sweeps), strict=True))
    return (
        f"Searches (sweep.search) generate {fewest} images if {PILOT} seed blocks are enough, and at most "
        f"{most}, for each seed; the table has those that need all seed blocks, with the confirmations."
    )


def evaluations(params: Params, strength: float) -> tuple[int, int]:
    """How often one image evaluates the main network, and a guide that is another one.

    The sampler itself is run, on one number and with a network that only counts.
    """
    counts: Counter[str] = Counter()

    def network(name: str) -> ConditionalDenoise:
        def denoise(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            counts[name] += 1
            return x * 0

        return denoise

    main = network("main")
    other = network("guide" if params.guidance.guide in OTHER_GUIDES else "main")
    pair: DenoisePair = lambda *args: (main(*args), other(*args))  # noqa: E731
    denoise = guided(main, pair, strength, params.guidance.interval)
    sampling, x = params.sampling, torch.zeros(1, 1, 1, 1)
    labels = torch.zeros(1, dtype=torch.int64)
    SAMPLERS[sampling.solver](
        lambda x, sigma: denoise(x, sigma, labels),
        x,
        sampling.steps,
        sampling.sigma_min,
        sampling.sigma_max,
        sampling.rho,
        churn=Churn(sampling.churn, lambda step: x, sampling.churn_interval, sampling.churn_noise),
    )
    return counts["main"], counts["guide"]
