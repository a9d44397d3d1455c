"""Presets: complete params files of known experiments.

Each is the digits' params.yaml with the changes of some files in this folder, and of a row below.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from io import StringIO
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RoundTripRepresenter

from edm2.params.errors import UserError
from edm2.params.remedies import did_you_mean
from edm2.params.sizes import PaperDataset, Size
from edm2.params.tree import Params

PaperMetric = Literal["fid", "fd_dinov2"]
BASE = "digits"
M = 2**20  # "Mimg" of the paper
DURATIONS: dict[PaperDataset, dict[Size, int]] = {  # Mimg, EDM2 Tables 2, 3 and 6
    "imagenet-512": {
        "XXS": 2048,
        "XS": 2048,
        "S": 2048,
        "M": 2048,
        "L": 1792,
        "XL": 1280,
        "XXL": 896,
    },
    "imagenet-64": {"S": 1024, "M": 2048, "L": 1024, "XL": 640},
}
MICROBATCHES: dict[Size, int] = {  # that fit 80 GB (`edm2 plan`)
    "XXS": 256,
    "XS": 256,
    "S": 128,
    "M": 64,
    "L": 64,
    "XL": 32,
    "XXL": 32,
}


class _Representer(RoundTripRepresenter):
    """Writes null as it is written in params.yaml."""

    def represent_none(self, data: None) -> ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_Representer.add_representer(type(None), _Representer.represent_none)


@dataclass(frozen=True)
class Autoguidance:
    """A pair of networks with the lowest value of a metric in its row (arXiv 2406.02507, Table 1).

    Attributes:
        metric, value: the metric and its lowest value.
        guide_mimg: length of the guide's training.
        ema_length, guide_ema_length: of the network and of its guide.
    """

    dataset: PaperDataset
    size: Size
    guide: Size
    guide_mimg: int
    ema_length: float
    guide_ema_length: float
    strength: float
    metric: PaperMetric
    value: float
    conditional: bool = True

    @property
    def name(self) -> str:
        suffix = "" if self.conditional else "-unconditional"
        return f"autoguidance-{_name(self.dataset, self.size)}{suffix}"


AUTOGUIDANCE = (
    Autoguidance("imagenet-512", "S", "XS", 128, 0.070, 0.125, 2.10, "fid", 1.34),
    Autoguidance("imagenet-512", "S", "XS", 128, 0.120, 0.165, 2.45, "fd_dinov2", 36.67),
    Autoguidance("imagenet-512", "XXL", "M", 256, 0.075, 0.155, 2.05, "fid", 1.25),
    Autoguidance("imagenet-512", "XXL", "M", 256, 0.130, 0.205, 2.30, "fd_dinov2", 24.18),
    Autoguidance("imagenet-512", "S", "XS", 128, 0.070, 0.110, 2.85, "fid", 3.86, False),
    Autoguidance("imagenet-512", "S", "XS", 128, 0.090, 0.125, 2.90, "fd_dinov2", 90.39, False),
    Autoguidance("imagenet-64", "S", "XS", 128, 0.045, 0.110, 1.70, "fid", 1.01),
    Autoguidance("imagenet-64", "S", "XS", 128, 0.105, 0.175, 2.20, "fd_dinov2", 31.85),
)


@dataclass(frozen=True)
class Preset:
    """A complete params file.

    Attributes:
        about: one line.
        layers: files of this folder that change the digits' params, in order.
        changes: values by key path, set after those.
    """

    about: str
    layers: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


def _name(dataset: PaperDataset, size: Size) -> str:
    return f"{dataset.replace('-', '')}-{size.lower()}"


def _imagenet(dataset: PaperDataset, size: Size) -> Preset:
    duration = DURATIONS[dataset][size] * M
    return Preset(
        f"EDM2-{size} on {dataset}: {duration / 1e6:.1f} million images of training",
        ("imagenet", dataset.replace("-", "")),
        {
            "diffusion.size": size,
            "diffusion.microbatch": MICROBATCHES[size],
            "diffusion.duration_nimg": duration,
        },
    )


def _autoguidance(pair: Autoguidance) -> Preset:
    main = _imagenet(pair.dataset, pair.size)
    condition = "" if pair.conditional else ", both without classes"
    return Preset(
        f"EDM2-{pair.size} on {pair.dataset} guided by {pair.guide} after "
        f"{pair.guide_mimg * M / 1e6:.1f} million images{condition}",
        main.layers,
        {
            **main.changes,
            "diffusion.conditional": pair.conditional,
            "sweep.ema_lengths": [pair.ema_length],
            "guidance.guide": "trained",
            "guidance.strength": [1.0, pair.strength],
            "guidance.ema_length": pair.guide_ema_length,
            "guidance.changes": {"size": pair.guide, "duration_nimg": pair.guide_mimg * M},
        },
    )


PRESETS: dict[str, Preset] = {
    BASE: Preset("handwritten digits, on a CPU in five minutes: the params.yaml of the repository"),
    "photos": Preset("crops of ten photographs at 32×32, without a download", ("photos",)),
    "ladder-digits": Preset(
        "all seven configs on the digits, with five seeds: two hours on two CPU cores",
        ("ladder", "ladder-digits"),
    ),
    "ladder-photos": Preset(
        "all seven configs on photographs, with three seeds: two hours on two CPU cores",
        ("photos", "ladder", "ladder-photos"),
    ),
    "folder": Preset("your own images at 64×64, on one GPU: set dataset.path", ("folder",)),
    **{
        _name(dataset, size): _imagenet(dataset, size)
        for dataset, durations in DURATIONS.items()
        for size in durations
    },
    **{pair.name: _autoguidance(pair) for pair in AUTOGUIDANCE if pair.metric == "fid"},
}


# of `edm2 vae train`: fX is the factor between sides of images and latents, dY the latents' channels
VAE_PRESETS: dict[str, Preset] = {
    "f8d4": Preset("latents 8× smaller, 4 channels, as Stable Diffusion's", ("vae", "vae-f8d4")),
    "f8d16": Preset("latents 8× smaller, 16 channels, as FLUX's", ("vae", "vae-f8d16")),
    "f16d32": Preset("latents 16× smaller, 32 channels", ("vae", "vae-f16d32")),
}


@cache
def preset_text(name: str) -> str:
    """The params file of a preset, with comments.

    Raises:
        UserError: there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(
            f"preset {name!r}: no such preset. {did_you_mean(name, PRESETS)}"
            "`edm2 params preset` lists all."
        )
    return _text(name, PRESETS[name])


@cache
def vae_preset_text(name: str) -> str:
    """As `preset_text`, of the presets of `edm2 vae train`."""
    if name not in VAE_PRESETS:
        raise UserError(
            f"preset {name}: expected one of {', '.join(VAE_PRESETS)}. "
            f"{did_you_mean(name, VAE_PRESETS)}".rstrip()
        )
    return _text(name, VAE_PRESETS[name])


def vae_preset_sections(name: str, sections: Collection[str]) -> str:
    """Some sections of `vae_preset_text`, with their comments."""
    yaml = _yaml()
    tree = yaml.load(vae_preset_text(name))
    for section in set(tree) - set(sections):
        del tree[section]
    tree.yaml_set_start_comment(f"{name}: {VAE_PRESETS[name].about}.")
    out = StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _text(name: str, preset: Preset) -> str:
    text = _read(BASE)
    if not preset.layers:
        return text
    yaml = _yaml()
    tree = yaml.load(text)
    for layer in preset.layers:
        _merge(tree, yaml.load(_read(layer)))
    for key, value in preset.changes.items():
        *sections, last = key.split(".")
        section = tree
        for part in sections:
            section = section[part]
        _set(section, last, value)
    _close_up(tree)
    out = StringIO()
    yaml.dump(tree, out)
    return f"# {name}: {preset.about}.\n{out.getvalue()}"


@cache
def preset_params(name: str) -> Params:
    """The params of a preset; their combinations are not checked, as files may be missing."""
    return Params.complete(YAML(typ="safe").load(preset_text(name)))


def _read(name: str) -> str:
    return (files("edm2.params.presets") / f"{name}.yaml").read_text(encoding="utf-8")


def _yaml() -> YAML:
    """A parser that keeps comments, and writes null as it is in params.yaml."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 4096, True
    yaml.Representer = _Representer
    return yaml


def _merge(tree: CommentedMap, changes: CommentedMap) -> None:
    """Set the values of `changes`, and their comments where they have some.

    A mapping in braces replaces the one that is there; another one changes it.
    """
    for key, value in changes.items():
        if isinstance(value, CommentedMap) and value and not value.fa.flow_style():
            _merge(tree[key], value)
            continue
        _set(tree, key, value)
        if key in changes.ca.items:
            _set_comment(tree, key, changes.ca.items[key])


def _set(section: CommentedMap, key: str, value: Any) -> None:
    """Set a field that exists; lists and mappings stay in one line."""
    if key not in section:
        raise KeyError(key)
    if isinstance(value, list | dict):
        value = CommentedSeq(value) if isinstance(value, list) else CommentedMap(value)
        value.fa.set_flow_style()
    section[key] = value


def _set_comment(section: CommentedMap, key: str, tokens: list[Any]) -> None:
    """Set the comment behind a value; a blank line after it stays."""
    before = section.ca.items.get(key, [None] * 3)[2]
    blank = before is not None and before.value.endswith("\n\n")
    tokens[2].value = tokens[2].value.rstrip("\n") + "\n" * (1 + blank)
    section.ca.items[key] = tokens


def _close_up(tree: CommentedMap) -> None:
    """Put comments one space behind their values, which may have become shorter."""
    for tokens in tree.ca.items.values():
        for token in tokens:
            if token is not None and not isinstance(token, list):
                token.start_mark.column = 0
    for value in tree.values():
        if isinstance(value, CommentedMap):
            _close_up(value)
