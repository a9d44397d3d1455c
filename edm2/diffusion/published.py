"""The networks that EDM2's authors published: all are config G."""

from collections.abc import Mapping

import torch

from edm2.diffusion.denoiser import Denoiser, build_denoiser
from edm2.diffusion.names import published_name
from edm2.params import UserError

INPUT_CONV = "unet.enc.64x64_conv.weight"
OPTIONAL_PREFIX = "logvar"  # the uncertainty head, which a published network may lack


def infer_denoiser(tensors: Mapping[str, torch.Tensor]) -> Denoiser:
    """The denoiser that published tensors belong to, on the meta device.

    Width, channels and classes are read from the shapes; depth and resolution are the paper's.

    Raises:
        UserError: the tensors are those of another network.
    """
    try:
        channels, in_channels = tensors[INPUT_CONV].shape[:2]
        label = tensors.get("unet.emb_label.weight")
    except (KeyError, ValueError):
        raise UserError(
            f"published weights: expected a tensor {INPUT_CONV} of 4 dimensions, as in EDM2 "
            "networks at resolution 64. Use one of those."
        ) from None
    with torch.device("meta"):
        denoiser = build_denoiser(
            "G",
            channels=channels,
            in_channels=in_channels - 1,  # without the constant channel
            num_classes=0 if label is None else label.shape[1],
        )
    convert_names(tensors, denoiser)
    return denoiser


def convert_names(
    tensors: Mapping[str, torch.Tensor], denoiser: Denoiser
) -> dict[str, torch.Tensor]:
    """Published tensors under their names in the state dict of `denoiser`, which has config G.

    Raises:
        UserError: a tensor is missing, unknown, or has the wrong shape.
    """
    state = denoiser.state_dict()
    names = {published_name(name): name for name in state}
    expected = {name for name in names if name in tensors or not name.startswith(OPTIONAL_PREFIX)}
    missing, unknown = expected - tensors.keys(), tensors.keys() - expected
    for problem, differing in (("missing", missing), ("unknown", unknown)):
        if differing:
            raise UserError(
                f"published weights: {problem} tensors: {len(differing)}, for example "
                f"{min(differing)}. Build the denoiser with their config (G), size, resolution, "
                "in_channels and num_classes."
            )
    for name in sorted(expected):
        if tensors[name].shape != state[names[name]].shape:
            raise UserError(
                f"published weights: {name}: shape {tuple(tensors[name].shape)}, expected "
                f"{tuple(state[names[name]].shape)}. Build the denoiser with their size, "
                "in_channels and num_classes."
            )
    return {names[name]: tensors[name] for name in sorted(expected)}


def load_published(denoiser: Denoiser, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load published weights into a denoiser of config G; the uncertainty head may be missing.

    Raises:
        UserError: see `convert_names`.
    """
    state = {name: tensor.float() for name, tensor in convert_names(tensors, denoiser).items()}
    denoiser.load_state_dict(state, strict=False)
