"""Networks in folders: `model.safetensors` with the weights, and `config.json` that describes them.

The weights are named as in the denoiser's state dict, or, in files of averages, as in that of its raw
network. A manifest beside them has the checksums, if the folder was exported. Other sections of
`config.json`, and the codec, are those of `edm2.pipeline.portable`; they are kept as they are.
"""

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.description import build, describe
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.runtime.checked_json import read_checked
from edm2.runtime.files import replacing, require_sha256, sha256, write_json
from edm2.runtime.finite import listed, nonfinite_tensors
from edm2.runtime.hub import local_network
from edm2.runtime.manifest import MANIFEST, write_manifest
from edm2.runtime.temporaries import temporary

WEIGHTS, CONFIG, CODEC, CARD = "model.safetensors", "config.json", "codec", "README.md"
FORMAT, VERSION = "edm2", 1
MAX_CONFIG_BYTES = 2**24
REMEDY = "Download it again, or export it again with `edm2 export network`."
FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def from_pretrained(name: str | Path, **options: Any) -> Denoiser:
    """See `Denoiser.from_pretrained`."""
    path = local_network(name, **options)
    weights = weights_file(path)
    folder = weights.parent
    description = read_config(folder)["denoiser"]
    verified_file(weights)
    denoiser = load_denoiser(weights, description, folder / CONFIG)
    denoiser.origin = folder.absolute() if path.is_dir() else None
    return denoiser


def save_pretrained(denoiser: Denoiser, folder: Path) -> None:
    """See `Denoiser.save_pretrained`."""
    with new_folder(folder) as partial:
        fill(partial, denoiser)


def fill(folder: Path, denoiser: Denoiser) -> None:
    """Write a network into an empty folder.

    If its weights are those of its origin, all files are copied from there; else its codec, but neither
    card nor provenance, which are of other weights.
    """
    origin = denoiser.origin
    if origin is not None and _unchanged(denoiser, origin):
        for name in (WEIGHTS, CONFIG, CODEC, CARD, MANIFEST):
            _copy(origin / name, folder / name)
        return
    write_weights(folder / WEIGHTS, denoiser.state_dict())
    sections: dict[str, Any] = {}
    if origin is not None:
        sections = read_config(origin)
        old = sections.get("provenance") or {}
        kept = {key: old[key] for key in ("license", "published") if key in old}
        sections["provenance"] = {"changed from": verified_file(origin / WEIGHTS)[1], **kept}
        _copy(origin / CODEC, folder / CODEC)
    write_config(folder, sections | {"denoiser": describe(denoiser)})
    write_manifest(folder)


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write weights by name in the state of a denoiser, in their dtype.

    Raises:
        NotFiniteError: a weight is not finite.
    """
    stored = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    names = nonfinite_tensors(stored)
    if names:
        raise NotFiniteError(
            f"{path}: tensors are not finite ({listed(names)}). Use other weights."
        )
    with replacing(path) as partial:
        save_file(stored, partial, {"format": "pt"})  # as other programs mark it


def write_config(folder: Path, sections: Mapping[str, Any]) -> None:
    """Write `config.json` for `read_config`.

    Raises:
        NotFiniteError: a number is not finite.
    """
    write_json(folder / CONFIG, {"format": FORMAT, "format_version": VERSION, **sections})


def require_new(folder: Path) -> None:
    """Raises UserError if `folder` exists, unless it is an empty folder."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder}: exists. Remove it, or give another name.")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `folder` when the block ends without an error.

    Raises:
        UserError: `folder` exists, and is not an empty folder.
    """
    require_new(folder)
    folder = folder.absolute()
    with temporary(folder) as partial:
        partial.mkdir()
        yield partial
        partial.replace(folder)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target)
    elif source.exists():
        shutil.copyfile(source, target)


def _unchanged(denoiser: Denoiser, origin: Path) -> bool:
    """Whether a denoiser still has the weights of the folder that it comes from."""
    try:
        stored = from_pretrained(origin).state_dict()
    except UserError:  # the folder was changed meanwhile
        return False
    state = denoiser.state_dict()
    return state.keys() == stored.keys() and all(
        torch.equal(value.cpu(), stored[name]) for name, value in state.items()
    )


def weights_file(path: Path) -> Path:
    """The file of the weights: that of an exported folder, or `path` itself.

    Raises:
        UserError: a folder of averages, of which one is to be named.
    """
    weights = path / WEIGHTS if path.is_dir() else path
    averages = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if averages and not weights.exists():
        raise UserError(
            f"{path}: a folder of {len(averages)} averages, expected one of them, like {averages[0]}."
        )
    return weights


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` says: the sections of the format.

    Raises:
        UserError: it is missing, damaged, too large, of another program or of another version.
    """
    path = folder / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ValueError(f"larger than {MAX_CONFIG_BYTES} bytes")
        text = verified_file(path)[0].read_text(encoding="utf-8")
        tree = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as the description of a network ({error}). {REMEDY}"
        ) from None
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise UserError(
            f"{path}: not the description of a network of edm2: expected format {FORMAT!r}. Use a folder "
            "that `edm2 export network` wrote."
        )
    if tree.get("format_version") != VERSION:
        raise UserError(
            f"{path}: format_version {tree.get('format_version')!r}: expected {VERSION}. Use the version "
            "of edm2 that wrote it, or export the network again with this one."
        )
    sections = {k: value for k, value in tree.items() if k not in ("format", "format_version")}
    if not isinstance(sections.get("denoiser"), dict):
        raise UserError(f"{path}: denoiser: missing, or not a mapping. {REMEDY}")
    return sections


def load_denoiser(weights: Path, description: Mapping[str, Any], source: object) -> Denoiser:
    """The denoiser that a section `denoiser` describes, with the weights of a file, frozen, on the CPU.

    Names and shapes are compared with the header of the file before memory is allocated.

    Args:
        source: where the description is, for errors.

    Raises:
        UserError: the description is not valid; the file cannot be read, or is of another network.
        NotFiniteError: a weight is not finite.
    """
    with torch.device("meta"):
        denoiser = build(description, source)
    expected = denoiser.state_dict()
    tensors = _read_weights(weights, expected)
    names = nonfinite_tensors(tensors)
    if names:
        raise NotFiniteError(
            f"{weights}: tensors of this network are not finite ({listed(names)}). Its training "
            "diverged, or the file is damaged: use another network."
        )
    if denoiser.config.backbone != "unet":  # may have tensors that are not in its state
        denoiser = build(description, source)
    denoiser.load_state_dict(tensors, assign=True)
    return denoiser.eval().requires_grad_(False)


def verified_file(path: Path) -> tuple[Path, str]:
    """`path` and its SHA-256, compared with the manifest beside it, if that lists the file.

    Raises:
        UserError: it cannot be read, the two differ, or the manifest is damaged.
    """
    try:
        checksum = sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). {REMEDY}") from None
    manifest = path.parent / MANIFEST
    if manifest.exists():
        files = read_checked(manifest, REMEDY, REMEDY)["files"]
        if path.name in files:
            expected = files[path.name]["sha256"]
            require_sha256(path, checksum, expected, f"as in {manifest}", REMEDY)
    return path, checksum


def _read_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            whole = any(name.startswith("unet.") for name in names)
            stored = {name if whole else f"unet.{name}": name for name in names}
            shapes = {name: file.get_slice(key).get_shape() for name, key in stored.items()}
            _compare(path, shapes, expected)
            return {
                name: _as(file.get_tensor(stored[name]), value.dtype, f"{path}: {stored[name]}")
                for name, value in expected.items()
            }
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: cannot be read as a safetensors file ({error}). {REMEDY}"
        ) from None


def _compare(
    path: Path, shapes: Mapping[str, list[int]], expected: Mapping[str, torch.Tensor]
) -> None:
    """Raises UserError if names or shapes differ."""
    for problem, names in (
        ("missing", expected.keys() - shapes.keys()),
        ("unknown", shapes.keys() - expected.keys()),
    ):
        if names:
            raise UserError(
                f"{path}: {problem} tensors: {listed(sorted(names))}: another network than {CONFIG} "
                f"describes. {REMEDY}"
            )
    for name, tensor in expected.items():
        if tuple(shapes[name]) != tensor.shape:
            raise UserError(
                f"{path}: {name}: shape {list(shapes[name])}, expected {list(tensor.shape)} as {CONFIG} "
                f"describes. {REMEDY}"
            )


def _as(tensor: torch.Tensor, dtype: torch.dtype, what: str) -> torch.Tensor:
    if tensor.dtype != dtype and not (tensor.dtype in FLOATS and dtype == torch.float32):
        raise UserError(f"{what}: dtype {tensor.dtype}, expected {dtype}. {REMEDY}")
    return tensor.to(dtype)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value
