"""images, features → models/vae, reports/vae: the codec, and how well it brings images back."""

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

from edm2.params import Params
from stages.entry import Place, main

if TYPE_CHECKING:
    from edm2.data.images import Images
    from edm2.features.backbone import Backbone
    from edm2.vae.codec import Codec
    from edm2.vae.network import Autoencoder

SHOWN = 24  # held-out images in the picture of reconstructions


def work(place: Place) -> None:
    """Train the VAE, or take the codec that params name; measure held-out reconstructions."""
    from edm2.data.images import ImageShards
    from edm2.data.web import WebImages
    from edm2.features.classifier import load_classifier
    from edm2.features.vgg import load_vgg16
    from edm2.params.checks import project_root
    from edm2.runtime.distributed import ranks
    from edm2.runtime.files import write_text
    from edm2.vae.codec import load_codec, save_vae
    from edm2.vae.evaluation import evaluate
    from edm2.vae.published import save_codec
    from stages.reports import write_curves

    params, device, out = place.params, place.device, place.out("models/vae")
    prepared = [ImageShards(Path("data/images"), split) for split in ("train", "held_out")]
    others = [WebImages(paths, prepared[0].resolution) for paths in shards(params)]
    images, held_out = others or prepared
    own = params.vae.backbone == "classifier"
    backbone = (
        load_classifier(Path("models/features"), device)
        if own
        else load_vgg16(_copy(params), device)
    )
    if params.codec.kind == "trained":
        network = _trained(place, images, held_out, backbone)
        if ranks().first:
            save_vae(network.cpu(), params.vae, out)
            write_curves(place, "reports/vae/curves.csv")
    elif ranks().first:
        print(f"note: codec.kind is {params.codec.kind}: no autoencoder is trained here.")
        save_codec(params.codec, out, project_root())
        write_text(place.out("reports/vae/curves.csv"), "nimg\n")
    if ranks().first:
        codec = load_codec(out, device)
        _write(place, codec, held_out, evaluate(codec, held_out, backbone, device))


def _write(place: Place, codec: "Codec", held_out: "Images", found: dict[str, float]) -> None:
    """What the codec loses, in a picture and in numbers."""
    from edm2.data.images import to_float, to_uint8
    from edm2.reporting.grids import write_rows
    from edm2.vae.low_pass import low_pass_mask
    from stages.reports import write_metrics

    grid = place.out("reports/vae/reconstructions.png")
    shown, _ = held_out.batch(range(min(SHOWN, len(held_out))))
    decoded = codec.decode(codec.encode(shown.to(place.device))[0]).cpu()
    rows = {"image": shown, "decoded": decoded}
    if place.params.codec.kind == "trained" and place.params.vae.losses.low_pass:
        rows["mask"] = to_uint8(low_pass_mask(to_float(shown)) * 2 - 1).expand_as(shown)
    write_rows(grid, rows)
    place.run.artifact(grid)
    # JSON has no infinity: where nothing is lost there is no PSNR, and the report says so
    write_metrics(
        place,
        "reports/vae/metrics.json",
        {key: value for key, value in found.items() if isfinite(value)},
    )


def _trained(
    place: Place, images: "Images", held_out: "Images", backbone: "Backbone"
) -> "Autoencoder":
    import torch

    from edm2.runtime.device import activation_dtype
    from edm2.runtime.loop import Every, train
    from edm2.runtime.randomness import torch_seed
    from edm2.vae.codec import TrainedVae
    from edm2.vae.evaluation import evaluate
    from edm2.vae.network import Autoencoder
    from edm2.vae.training import VaeTask, batches

    seed, params, runtime = place.params.seed, place.params.vae, place.params.runtime
    torch.manual_seed(torch_seed(seed, "vae/init"))
    network = Autoencoder(params).to(place.device)
    if runtime.channels_last:
        network = network.to(memory_format=torch.channels_last)
    codec = TrainedVae(network, params)

    def check(nimg: int) -> dict[str, float]:
        found = evaluate(codec, held_out, backbone, place.device)
        return {f"held_out/{key}": value for key, value in found.items()}

    task = VaeTask(
        network, params, backbone, seed, place.device, activation_dtype(runtime), runtime.compile
    )
    train(
        place.title,
        task,
        batches(images, params, seed),
        params,
        place.state,
        place.run,
        checkpoint_seconds=runtime.checkpoint_seconds,
        every=[Every(params.evaluate_nimg, check)],
    )
    return network.eval()


def _copy(params: Params) -> Path | None:
    """The user's copy of the backbone's weights."""
    from edm2.params.checks import project_root

    path = params.vae.backbone_path
    return None if path is None else project_root() / path


def shards(params: Params) -> list[list[Path]]:
    """The tars of `vae.images`, of training and held out; empty if prepared images are used."""
    from edm2.params.checks import project_root
    from edm2.params.patterns import matching

    patterns = (params.vae.images.shards, params.vae.images.held_out)
    return [matching(pattern, project_root()) for pattern in patterns if pattern is not None]


def outside(params: Params) -> str:
    """Names, sizes and times of the files that `vae` and `codec` name, which dvc.yaml cannot."""
    from edm2.params.checks import project_root
    from edm2.params.codec_checks import CONFIG, WEIGHTS
    from edm2.runtime.files import describe

    groups, copy, folder = shards(params), _copy(params), params.codec.path
    if copy is not None:
        groups.append([copy])
    if folder is not None:
        groups.append([project_root() / folder / name for name in (CONFIG, WEIGHTS)])
    return "\n\n".join(describe(paths) for paths in groups)


if __name__ == "__main__":
    main(work, outside)
