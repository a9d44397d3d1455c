"""The training of a VAE without a project: `edm2 vae train`.

Its folder has the results in the places that they have in a project, and the state of the training.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from edm2.data.damage import refuse_damaged, warn_of_doubtful
from edm2.data.images import ImageDataset
from edm2.data.sized import SizedImages
from edm2.data.sources.files import FilesBelow
from edm2.data.sources.shared_files import refuse_shared_files
from edm2.data.sources.unlabeled import open_unlabeled
from edm2.data.web import WebImages
from edm2.params import Params, UserError
from edm2.params.memory import min_memory
from edm2.params.patterns import are_tars, matching
from edm2.params.vae_options import OPTIONS
from edm2.pipeline.latent_scale import latent_scale
from edm2.pipeline.paths import LATENT_MOMENTS, VAE
from edm2.pipeline.runner import StageContext
from edm2.pipeline.vae_images import KEYS, check_images, open_tars, read_by_training
from edm2.pipeline.vae_training import METRICS, train_and_evaluate
from edm2.runtime.checksums import write_checksum
from edm2.runtime.device import pick_device
from edm2.runtime.distributed import is_main_process, on_main_process, process_group, ranks
from edm2.runtime.files import describe, write_json
from edm2.runtime.memory import require_memory
from edm2.runtime.messages import say
from edm2.runtime.state import State, locked
from edm2.runtime.tracking import RunDescription, flatten, open_run
from edm2.runtime.verification import damaged_files
from edm2.vae.codec import load_codec
from edm2.vae.precision import vae_precision

TITLE = "vae train"
OPTIONS_FILE = "options.json"  # what determines the result
OWN_OPTIONS = ("dataset.resolution", "dataset.crop", "runtime.precision", "runtime.reading")
FILES = ("vae.init.path", "vae.backbone_path", "vae.detector_path")  # whose content counts, too
CONTENT = " content"  # after a key whose value here is a checksum of what it names


class OwnState(State):
    """The state of a training in a folder of its own, OUT/state; its results are written to OUT."""

    @property
    def results(self) -> Path:
        return self.folder.parent

    @property
    def log(self) -> Path:
        return self.results / "log.jsonl"


def train_alone(params: Params, out: Path) -> None:
    """Train and evaluate a VAE in the folder `out`, or continue what was begun there.

    Args:
        params: with absolute paths.

    Raises:
        UserError: the folder holds other things, or was begun with other options or images; images that
            cannot be read; weights of the backbone that are missing.
    """
    device = pick_device(params.runtime)
    with process_group(device, params.runtime.timeout_minutes):
        state, options = OwnState(out / "state"), _options(params)
        on_main_process(lambda: _enter(state, options))
        with locked(state, TITLE):
            groups = {key: _open_images(params, state, key) for key in KEYS}
            on_main_process(lambda: _refuse_shared_files(**groups))
            options |= {f"vae.images.{key}{CONTENT}": _identity(g) for key, g in groups.items()}
            on_main_process(lambda: _compare(state, options))
            if _is_complete(state):
                say(
                    f"{TITLE}: {out} is complete already. Name another folder to train another VAE."
                )
                return
            needs = min_memory("train_vae", params, ranks().world_size, Path())
            require_memory(TITLE, needs, device)
            with (
                state.timed(),
                open_run(TITLE, params, state, lambda: RunDescription({}, options)) as run,
            ):
                params = vae_precision(params, state.folder, device)
                context = StageContext(TITLE, params, None, device, state, run)
                skipped = _check(context, groups)
                if is_main_process():
                    write_json(out / OPTIONS_FILE, options)
                train_and_evaluate(context, groups["shards"], groups["held_out"], skipped)
                _write_latents(context, groups["held_out"])
                if is_main_process():
                    state.note(complete=True)
                    state.remove_checkpoints()
            say(f"{TITLE}: {'; '.join(context.conclusions)}; {out / VAE}, {out / METRICS}")


def _options(params: Params) -> dict[str, Any]:
    """What determines the result, except the images, by key path."""
    values = flatten(params.model_dump(mode="json"))
    options = {k: v for k, v in values.items() if k.startswith("vae.") or k in OWN_OPTIONS}
    for key in FILES:
        if values[key] is not None:
            options[key + CONTENT] = _digest(describe(_files(Path(values[key]))))
    return options


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _enter(state: OwnState, options: Mapping[str, Any]) -> None:
    """Make the folder, or check that this training was begun in it."""
    out, own = state.results, {OPTIONS_FILE, state.folder.name, f"{state.folder.name}.lock"}
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file. Expected a new folder: give another name.")
    others = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if (out / OPTIONS_FILE).exists():
        _compare(state, options)  # before images are opened, which may take long
    elif foreign := [name for name in others if name not in own]:
        raise UserError(
            f"{out}: holds other things ({', '.join(foreign[:3])}). Expected a new folder, or one in which "
            "`edm2 vae train` was started: give another name."
        )
    state.folder.mkdir(parents=True, exist_ok=True)


def _compare(state: OwnState, options: Mapping[str, Any]) -> None:
    """Compare options with those that the training was begun with, if it was.

    Raises:
        UserError: some differ; names all of them.
    """
    path = state.results / OPTIONS_FILE
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path}: not valid JSON ({error}). Restore it, or give the training another folder."
        ) from None
    lines = [
        f"  {OPTIONS.get(key.removesuffix(CONTENT), key)}: "
        + ("changed" if key.endswith(CONTENT) else f"{before.get(key)!r} there, {value!r} now")
        for key, value in options.items()
        if before.get(key) != value
    ]
    if lines:
        raise UserError(
            f"{state.results}: a training was begun there with other options or images:\n"
            + "\n".join(lines)
            + "\nUse the same ones to continue it, or name another folder to train another VAE."
        )


def _is_complete(state: OwnState) -> bool:
    """Whether the training is complete; every rank must call this.

    Raises:
        UserError: it is, and its VAE is damaged.
    """
    if not on_main_process(lambda: state.read_notes().get("complete", False)):
        return False
    problem = next(iter(damaged_files([state.results / VAE])), None)

    def refuse() -> None:
        if problem is not None:
            raise UserError(f"{problem} Remove {state.results}, and run this again.")

    on_main_process(refuse)
    return True


def _open_images(params: Params, state: OwnState, key: str) -> ImageDataset:
    """Images of tars, or of all that a folder or a zip holds; prints how many are in these."""
    path, indices = str(getattr(params.vae.images, key)), state.folder / "tar-indices"
    dataset = params.dataset
    if are_tars(Path(path)):
        return open_tars(matching(path, Path()), params, indices)
    files = on_main_process(lambda: open_unlabeled(path, _option(key), indices))
    if is_main_process():
        print(f"{_option(key)}: {len(files.labels):,} images are read")
        for line in files.left_out.lines():
            print(f"  left out: {line}")
    return SizedImages(files, dataset.resolution, dataset.crop, len(files.labels))


def _refuse_shared_files(shards: ImageDataset, held_out: ImageDataset) -> None:
    """Of tars and zips, which are few, the params were checked."""
    files = [group.files for group in (shards, held_out) if isinstance(group, SizedImages)]
    folders = [group for group in files if isinstance(group, FilesBelow)]
    if len(folders) == len(KEYS):
        refuse_shared_files(*folders)


def _option(key: str) -> str:
    """The option of the command that names the images of a key."""
    return OPTIONS[f"vae.images.{key}"]


def _identity(images: ImageDataset) -> str:
    """A checksum that changes with the images."""
    if isinstance(images, WebImages):
        return _digest(images.identity)
    assert isinstance(images, SizedImages)
    return _digest(images.files.identity())


def _write_latents(context: StageContext, images: ImageDataset) -> None:
    """Write mean and standard deviation of the latents of held-out images, for the VAE's users."""
    codec = load_codec(context.out(VAE), context.device)
    limit = context.params.vae.evaluate_images
    moments = latent_scale(codec, images, limit, context.device)
    if moments is not None:
        normalization = moments.normalization()
        numbers = {"mean": normalization.mean.tolist(), "std": normalization.std.tolist()}
        path = context.out(LATENT_MOMENTS)
        write_json(path, {"images": moments.images, "resolution": images.resolution, **numbers})
        write_checksum(path)


def _check(context: StageContext, groups: Mapping[str, ImageDataset]) -> dict[str, float]:
    """Decode all images that the training reads; returns the numbers of skipped ones.

    Raises:
        UserError: damaged images; names all.
    """
    tars = {key: images for key, images in groups.items() if isinstance(images, WebImages)}
    skipped = check_images(context, tars, trained=True, name=_option) if tars else {}
    for key, images in groups.items():
        if isinstance(images, SizedImages):
            _check_files(context, images, key)
    return skipped


def _check_files(context: StageContext, images: SizedImages, key: str) -> None:
    """As `check_images`, of a folder or a zip."""
    note, identity = f"checked_{key}", _identity(images)
    if on_main_process(lambda: context.state.read_notes().get(note)) == identity:
        return
    indices = np.asarray(read_by_training(context.params, images, key))
    ours = [int(index) for index in indices[ranks().rank :: ranks().world_size]]
    refuse_damaged(images.damaged(ours), len(indices))
    warn_of_doubtful(images.doubtful, f"{_option(key)}: ")
    if is_main_process():
        context.state.note(**{note: identity})
