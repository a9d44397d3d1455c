"""The networks that EDM2's authors published: config G, recognized by its tensors' shapes."""

from collections.abc import Mapping

import torch

from edm2.diffusion.denoiser import Denoiser, build_denoiser
from edm2.diffusion.names import published_name
from edm2.params import UserError

HEAD = "logvar"  # the uncertainty head, which a published network may lack


def recognize(tensors: Mapping[str, torch.Tensor]) -> Denoiser:
    """The denoiser that published tensors belong to, on the meta device.

    Width, channels and classes are read from the shapes; depth and resolution are the paper's.

    Raises:
        UserError: the tensors are of another network.
    """
    try:
        channels, inputs = tensors["unet.enc.64x64_conv.weight"].shape[:2]
        label = tensors.get("unet.emb_label.weight")
    except (KeyError, ValueError):
        raise UserError(
            "published weights: no tensor unet.enc.64x64_conv.weight: these are not of an "
            "EDM2 network at 64x64."
        ) from None
    with torch.device("meta"):
        denoiser = build_denoiser(
            "G",
            channels=channels,
            in_channels=inputs - 1,
            num_classes=0 if label is None else label.shape[1],
        )
    renamed(tensors, denoiser)
    return denoiser


def renamed(tensors: Mapping[str, torch.Tensor], denoiser: Denoiser) -> dict[str, torch.Tensor]:
    """Published tensors by the names that `denoiser`, of config G, has for them.

    Raises:
        UserError: a tensor is missing, unknown, or of another shape.
    """
    own = denoiser.state_dict()
    names = {published_name(name): name for name in own}
    wanted = {name for name in names if name in tensors or not name.startswith(HEAD)}
    for what, found in (("missing", wanted - tensors.keys()), ("unknown", tensors.keys() - wanted)):
        if found:
            raise UserError(
                f"published weights: {len(found)} tensors are {what}, {min(found)} among "
                "them. Build the denoiser with their config (G), size, resolution, "
                "in_channels and num_classes."
            )
    for name in sorted(wanted):
        if tensors[name].shape != own[names[name]].shape:
            raise UserError(
                f"published weights: {name}: shape {tuple(tensors[name].shape)}, expected "
                f"{tuple(own[names[name]].shape)} for this size and data."
            )
    return {names[name]: tensors[name] for name in sorted(wanted)}


def load_published(denoiser: Denoiser, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give a denoiser of config G the published weights, by name; the head may be left out.

    Raises:
        UserError: as `renamed`.
    """
    found = {name: tensor.float() for name, tensor in renamed(tensors, denoiser).items()}
    denoiser.load_state_dict(found, strict=False)
