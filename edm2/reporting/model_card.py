"""The model card of an exported network: README.md, with the header that the Hugging Face Hub reads."""

import io
import re
from collections.abc import Mapping
from shlex import quote
from typing import Any

from ruamel.yaml import YAML

TASK = (
    "unconditional-image-generation"  # the Hub's name for all that is not made from text or images
)
SHOWN_CLASSES = 10
CODECS = {
    "trained": "the latents of a VAE that was trained for it (`codec/`)",
    "stable_diffusion": "the latents of Stable Diffusion's VAE (MIT license)",
    "rgb": "pixels",
}
DETECTORS = {
    "classifier": "The detector is a classifier that was trained on the same images as this network. Its "
    "distances are not FID, and can only be compared with others of the same classifier.",
    "inception": "The detector is the Inception network of FID.",
    "dinov2": "The detector is DINOv2 ViT-L/14; its distances are not FID.",
}
LOWER, HIGHER = ("fd", "fid", "kid"), ("precision", "recall", "is")
PYTHON = """\
import torch
from edm2.pipeline.portable import read_portable
from edm2.sampling import heun

network = read_portable("{name}")
noise = torch.randn({count}, {channels}, {resolution}, {resolution})
labels = {labels}
latents = heun(lambda x, sigma: network.denoiser(x, sigma, labels), noise, steps={steps})
codec = network.codec.load(torch.device("cpu"))
images = codec.decode(network.normalization.denormalize(latents))  # uint8 [{count}, 3, H, W]"""


def model_card(name: str, description: Mapping[str, Any]) -> str:
    """The card in Markdown with a YAML header.

    Args:
        name: of the network, that of its folder.
        description: what its `config.json` says.
    """
    provenance = description["provenance"]
    sections = [
        f"# {name}",
        _summary(description),
        "## Samples",
        _usage(name, description),
        "## Quality",
        _quality(description),
        "## Training",
        _training(description),
        "## Limits",
        _limits(provenance),
        "## License",
        _license(description),
    ]
    return f"---\n{_header(name, description)}---\n\n" + "\n\n".join(sections) + "\n"


def _header(name: str, description: Mapping[str, Any]) -> str:
    provenance, conditional = description["provenance"], bool(description["classes"])
    data = data_name(provenance)
    tags = ["edm2", "diffusion", "image-generation"]
    header: dict[str, Any] = {
        "library_name": "edm2",
        "pipeline_tag": TASK,
        "tags": [*tags, "class-conditional" if conditional else "unconditional", "post-hoc-ema"],
    }
    if provenance.get("license"):
        header = {"license": provenance["license"], **header}
    if data:
        header["datasets"] = [re.sub(r"[^\w./-]+", "-", data)]
    metrics = (provenance.get("evaluation") or {}).get("metrics", {})
    if metrics:
        result = {
            "task": {"type": TASK},
            "dataset": {
                "name": data or "unknown",
                "type": re.sub(r"[^\w./-]+", "-", data) or "unknown",
            },
            "metrics": [{"type": m, "name": m, "value": value} for m, value in metrics.items()],
        }
        header["model-index"] = [{"name": name, "results": [result]}]
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(header, text)
    return text.getvalue()


def data_name(provenance: Mapping[str, Any]) -> str:
    """The name of the data set: that of its folder or file, or of its source; empty if unknown."""
    data = provenance.get("data") or {}
    return str(data.get("path") or data.get("source") or "")


def _summary(description: Mapping[str, Any]) -> str:
    provenance, classes = description["provenance"], description["classes"]
    shape = description["denoiser"]["shape"]
    size = f"{shape['in_channels']}×{shape['resolution']}×{shape['resolution']}"
    kind = description["codec"]["kind"]
    resolution = (provenance.get("data") or {}).get("resolution")
    images = f"{resolution}×{resolution} images" if resolution else "images"
    shown = ", ".join(classes[:SHOWN_CLASSES]) + (", …" if len(classes) > SHOWN_CLASSES else "")
    program = provenance.get("program", "the framework `edm2`")
    what = f"of {len(classes)} classes ({shown})" if classes else "without classes"
    return (
        f"A diffusion model that makes {images} {what}, trained with "
        f"[EDM2](https://arxiv.org/abs/2312.02696)'s methods in {program}. It is config "
        f"{provenance.get('config', 'G')} ({description['denoiser']['config']['name']}) with "
        f"{shape['channels']} channels at the first level, and works on {size} values: "
        f"{CODECS.get(kind, f'the latents of a codec of kind {kind}')}."
    )


def _usage(name: str, description: Mapping[str, Any]) -> str:
    shape, sampling = description["denoiser"]["shape"], description["sampling"] or {}
    classes, count = shape["num_classes"], 16
    python = PYTHON.format(
        name=name,
        count=count,
        channels=shape["in_channels"],
        resolution=shape["resolution"],
        labels=f"torch.arange({count}) % {classes}" if classes else "None",
        steps=sampling.get("steps", 32),
    )
    strength = (description["provenance"].get("evaluation") or {}).get("guidance", 1)
    guided = f" --strength {strength:g}" if strength != 1 else ""
    lines = [
        f"`{name}` is this folder, or its repository on the Hugging Face Hub, owner/name.",
        f"```sh\nedm2 sample {quote(name)} --seeds 0-63 --out samples{guided}\n```",
        f"```python\n{python}\n```",
    ]
    if sampling:
        settings = ", ".join(
            f"{key} {value}"
            for key, value in sampling.items()
            if value is not None and key != "batch"
        )
        lines.append(f"Recommended, and used by `edm2 sample`: {settings}.")
    return "\n\n".join(lines)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _quality(description: Mapping[str, Any]) -> str:
    evaluation = description["provenance"].get("evaluation")
    interval = description.get("guidance_interval")
    if not evaluation:
        return "This network was not evaluated."
    rows = [
        f"| `{name}` | {value:.6g} | {_better(name)} |"
        for name, value in evaluation["metrics"].items()
    ]
    detector = evaluation["detector"]
    parts = [
        "| metric | value | better |\n|---|---|---|\n" + "\n".join(rows),
        f"The main metric is {evaluation['interval']}.",
        DETECTORS.get(detector, f"The detector is {detector}."),
        f"A metric's name has the detector and the number of generated images. Guidance strength: "
        f"{evaluation['guidance']:g}{' (no guidance)' if evaluation['guidance'] == 1 else ''}.",
    ]
    if interval and evaluation["guidance"] != 1:
        parts.append(f"Guidance acts at noise levels from {interval[0]:g} to {interval[1]:g}.")
    if "value" in evaluation:
        chosen = f", and is {evaluation['chosen']}" if "chosen" in evaluation else ""
        parts.append(f"The network was chosen by this metric{chosen}: {evaluation['value']}.")
    return "\n\n".join(parts)


def _better(name: str) -> str:
    kind = name.partition("_")[0]
    return "lower" if kind in LOWER else "higher" if kind in HIGHER else ""


def _training(description: Mapping[str, Any]) -> str:
    provenance = description["provenance"]
    data, average = provenance.get("data") or {}, provenance.get("average") or {}
    lines = []
    if data:
        images = data["images"]
        lines.append(
            f"Data: {data_name(provenance)} (source `{data['source']}`), {images['train']:,} training images "
            f"and {images['held_out']:,} held-out ones, {data['classes']} classes."
        )
    if "seed" in provenance:
        lines.append(f"Training seed: {provenance['seed']}.")
    if "nimg" in average:
        lines.append(f"Images seen in training: {average['nimg']:,}.")
    if average.get("average") == "none":
        lines.append("The weights are those of the end of the training, not an average.")
    if "ema_length" in average:
        error = average.get("error")
        exact = "" if error is None else f", reconstructed with a relative error of {error:.2g}"
        lines.append(f"EMA length: {average['ema_length']:g} of the training{exact}.")
    if "tensors_base" in average:
        lines.append(
            f"Only the tensors `{average['tensors']}` have it; the others have {average['tensors_base']:g}."
        )
    if "code" in provenance:
        lines.append(f"Made with edm2 {provenance['edm2']}, {provenance['code']}.")
    text = "\n".join(f"- {line}" for line in lines) or "Nothing is known of its training."
    return "\n\n".join(filter(None, (text, _changes(provenance))))


def _changes(provenance: Mapping[str, Any]) -> str:
    if "preset" not in provenance:
        return ""
    preset, changes = provenance["preset"], provenance["changes"]
    if not changes:
        return f"All params are those of the preset `{preset}`."
    rows = "\n".join(f"| `{key}` | `{value}` |" for key, value in changes.items())
    return f"Params that differ from the preset `{preset}`:\n\n| param | value |\n|---|---|\n{rows}"


def _limits(provenance: Mapping[str, Any]) -> str:
    evaluation = provenance.get("evaluation") or {}
    lines = [f"{text[0].upper()}{text[1:]}." for text in evaluation.get("doubts", ())]
    if "seed" in provenance:
        lines.append("It is one training; others of the same config differ from it.")
    if provenance.get("guide", "none") not in ("none", "unlabeled"):
        lines.append("Its guide is another network, which is not part of this folder.")
    lines.append(
        "It makes images like those it was trained on, and may reproduce some of them. Whoever can "
        "see samples can learn about the training images."
    )
    return "\n".join(f"- {line}" for line in lines)


def _license(description: Mapping[str, Any]) -> str:
    provenance = description["provenance"]
    license_id = provenance.get("license")
    lines = [
        f"License of the weights: {license_id}."
        if license_id
        else "The license of the weights is not stated, so that they may not be used by others: the owner "
        "chooses one with `edm2 export network --license`, or as `license:` in the header of this file."
    ]
    if provenance.get("published"):
        lines.append(
            "They are made from networks that the authors of EDM2 published under CC BY-NC-SA 4.0, whose "
            "terms apply to them."
        )
    if description["codec"]["kind"] == "stable_diffusion":
        lines.append("The published VAE of Stable Diffusion has the MIT license.")
    lines.append("The license of the program edm2 (Apache-2.0) is not that of the weights.")
    return " ".join(lines)
