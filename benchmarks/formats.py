"""What users of the authors' repository have, what one types, and what comes out.

`python benchmarks/formats.py FOLDER` makes small files in the formats and with the names of EDM2's authors in
the new FOLDER (images and latents as their tools write them, statistics, networks with random weights), runs
the commands, compares the results with what the files were made from, and prints a table. The weights of
detector and VAE are random, too: nothing is downloaded.
"""

import argparse
import contextlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(ROOT := Path(__file__).parent.parent))
sys.path.insert(1, str(ROOT / "tests"))

import numpy as np
import pandas as pd
import pytest
import torch
from authors_files import NAMES, SIDE, latents, pixels, write_files
from PIL import Image
from safetensors.torch import load_file
from tiny import make_project, run_stage

from edm2.cli.main import edm2
from edm2.data.images import ImageShards
from edm2.data.latents import LatentShards
from edm2.diffusion import Denoiser
from edm2.ema.solve import solve_weights
from edm2.features.inception import load_inception
from edm2.metrics import frechet_distance
from edm2.pipeline.published import time_in_images

CPU = torch.device("cpu")


def command(*arguments: object) -> str:
    """What `edm2 ...` prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        edm2.main([*map(str, arguments)], prog_name="edm2", standalone_mode=False)
    return out.getvalue()


def project(name: str, changes: dict[str, object]) -> Path:
    own = {"tracking.mlflow": False, "diffusion.attention_resolutions": None, **changes}
    return make_project(Path(name).absolute(), own)


@contextlib.contextmanager
def inside(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with contextlib.chdir(folder), patch.context() as own:
        own.setenv("DVC_ROOT", str(folder))
        yield


def read_images(source: str, patch: pytest.MonkeyPatch) -> str:
    path = {"zip": "img512.zip", "folder": "img512"}[source]
    folder = project(
        f"project-{source}",
        {
            "dataset.source": source,
            "dataset.path": str(Path(path).absolute()),
            "dataset.resolution": SIDE,
            "dataset.held_out": 0.1,
        },
    )
    with inside(folder, patch):
        run_stage("prepare")
        train = ImageShards(Path("data/images"), "train")
        held_out = ImageShards(Path("data/images"), "held_out")
        splits = [x.batch(range(len(x))) for x in (train, held_out)]
    images = torch.cat([x for x, _ in splits]).permute(0, 2, 3, 1).numpy()
    labels = torch.cat([x for _, x in splits])
    same = sorted(map(bytes, images)) == sorted(map(bytes, pixels()))
    counts = set(labels.bincount().tolist())
    return f"{len(images)} images, {len(train.classes)} classes of {counts}; pixels equal: {same}"


def read_latents(patch: pytest.MonkeyPatch) -> str:
    folder = project(
        "project-latents",
        {
            "dataset.source": "latents",
            "dataset.path": str(Path("img512-sd.zip").absolute()),
            "dataset.resolution": 8 * SIDE,
            "dataset.held_out": None,
            "codec.kind": "stable_diffusion",
            "codec.normalization": "paper",
            "evaluation.detector": "inception",
            "evaluation.reference": str(Path("img512.pkl").absolute()),
            "evaluation.samples": 3000,
            "latents.dtype": "float32",
        },
    )
    with inside(folder, patch):
        for stage in ("prepare", "train_features", "train_vae", "encode_latents", "reference"):
            run_stage(stage)
        shards = LatentShards(Path("data/latents"), "train")
        mean, std, labels = shards.batch(range(len(shards)))
        command("export", "dataset", "again.zip", "--latents")
        with zipfile.ZipFile("again.zip") as ours, zipfile.ZipFile("../img512-sd.zip") as theirs:
            members = {
                name: sorted(x.read(n) for n in x.namelist() if n.endswith(".npy"))
                for name, x in (("ours", ours), ("theirs", theirs))
            }
    equal = sorted(map(bytes, torch.cat([mean, std], 1).numpy())) == sorted(map(bytes, latents()))
    again = members["ours"] == members["theirs"]
    return f"{len(labels)} latents; equal to the bit: {equal}; exported again, files equal: {again}"


def measure(patch: pytest.MonkeyPatch) -> str:
    arguments = ("--reference", "img512.pkl", "--allow-singular", "--out", "values.json")
    command("measure", "img512.zip", *arguments, "--detector-path", "inception.pth")
    row = json.loads(Path("values.json").read_text())["rows"][0]
    detector = load_inception(Path("inception.pth"), CPU)
    images = torch.from_numpy(pixels()).permute(0, 3, 1, 2)
    features = detector.features(images).double().numpy()
    mean = np.random.default_rng(2).normal(size=2048)
    expected = frechet_distance(
        features.mean(0), np.cov(features, rowvar=False), mean, np.eye(2048) * 0.5
    )
    return f"{row['metric']} {row['value']:.6g}; by NumPy {expected:.6g}"


def images_of(folder: str) -> list[bytes]:
    return [np.array(Image.open(x)).tobytes() for x in sorted(Path(folder).glob("0*.png"))]


def sample(network: str, out: str, *options: object) -> int:
    common = ("--seeds", "0-3", "--steps", "4", "--out", out)
    command("sample", network, *common, *options)
    return len(images_of(out))


def reconstruct(networks: dict[str, Denoiser]) -> str:
    options = ("--lengths", "0.07", "--dtype", "float32", "--out", "averages")
    command("ema", "reconstruct", "--from", "snapshots", *options)
    (average,) = Path("averages").glob("*.safetensors")
    end = time_in_images(134217)
    weights = solve_weights([end, end], list(NAMES), [end], [0.07])[:, 0]
    weights = weights / weights.sum()
    states = [networks[name].unet.state_dict() for name in NAMES.values()]
    tensors = load_file(average)
    differences = []
    for n in dict(networks[NAMES[0.05]].unet.named_parameters()):
        expected = sum(w * s[n].double() for w, s in zip(weights, states, strict=True))
        differences.append(float((tensors[n] - expected).abs().max()))
    worst = max(differences)
    count = sample(str(average), "samples-average")
    return f"largest difference from Σ w·θ {worst:.1e}; {count} images of it without a project"


def export(networks: dict[str, Denoiser]) -> str:
    name = "edm2-img64-s-1073741-0.075.pkl"
    command("export", "network", "exported", "--network", name)
    back = Denoiser.from_pretrained("exported").state_dict()
    own = networks[name].state_dict()
    equal = all(torch.equal(back[key].float(), own[key].float()) for key in own)
    sample("exported", "samples-exported")
    same = images_of("samples-exported") == images_of("samples-pixels")
    return f"weights equal to the bit: {equal}; images equal those of the pickle: {same}"


def preset() -> str:
    try:
        command("sample", "--preset", "edm2-img64-s-autog-fid", "--networks", "nowhere")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def rows(patch: pytest.MonkeyPatch) -> Iterator[tuple[str, str, Callable[[], str]]]:
    networks = write_files(patch)
    latent, pixel = f"snapshots/{NAMES[0.05]}", "edm2-img64-s-1073741-0.075.pkl"
    guide = "edm2-img64-xs-0134217-0.110.pkl"
    yield (
        "img512.zip",
        "dataset: {source: zip, path: img512.zip}",
        lambda: read_images("zip", patch),
    )
    yield (
        "img512/, unpacked",
        "dataset: {source: folder, path: img512}",
        lambda: read_images("folder", patch),
    )
    yield (
        "img512-sd.zip and img512.pkl",
        "dataset: {source: latents, path: img512-sd.zip}, evaluation.reference: img512.pkl",
        lambda: read_latents(patch),
    )
    yield "img512.pkl", "edm2 measure IMAGES --reference img512.pkl", lambda: measure(patch)
    yield (
        pixel,
        f"edm2 sample {pixel}",
        lambda: f"{sample(pixel, 'samples-pixels')} images of 64×64 without a project",
    )
    yield (
        "the same and a guide",
        f"edm2 sample {pixel} --guide {guide} --strength 1.7",
        lambda: f"{sample(pixel, 'samples-guided', '--guide', guide, '--strength', 1.7)} images",
    )
    yield (
        NAMES[0.05],
        f"edm2 sample {NAMES[0.05]}",
        lambda: f"{sample(latent, 'samples-latents')} images through the VAE in the cache",
    )
    yield "a preset, without its files", "edm2 sample --preset edm2-img64-s-autog-fid", preset
    yield (
        "a folder of such pickles",
        "edm2 ema reconstruct --from snapshots --lengths 0.07 --out averages",
        lambda: reconstruct(networks),
    )
    yield pixel, f"edm2 export network exported --network {pixel}", lambda: export(networks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="is made")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    table = []
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(args.folder):
        for artifact, typed, check in rows(patch):
            table.append({"what you have": artifact, "what you type": typed, "result": check()})
            print(table[-1], flush=True)
    print(pd.DataFrame(table).to_markdown(index=False))


if __name__ == "__main__":
    main()
