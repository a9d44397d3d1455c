"""The networks that EDM2's authors published: all are config G."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from edm2.data.normalization import SIGMA_DATA
from edm2.diffusion.blocks import CLAMP, HEAD_CHANNELS, RESIDUAL_BALANCE
from edm2.diffusion.denoiser import UNCERTAINTY_CHANNELS, Denoiser, build_denoiser
from edm2.diffusion.identification import UnetDescription, describe_shapes
from edm2.diffusion.names import own_name, published_name
from edm2.diffusion.unet import LABEL_BALANCE, SKIP_BALANCE
from edm2.params import UserError
from edm2.runtime.limits import shown

SOURCE = "published weights"
OPTIONAL_PREFIX = "logvar"  # the uncertainty head, which a published network may lack
CONSTANTS: dict[str, Any] = {  # arguments of a published network that are constants here
    "sigma_data": SIGMA_DATA,
    "logvar_channels": UNCERTAINTY_CHANNELS,
    "label_balance": LABEL_BALANCE,
    "concat_balance": SKIP_BALANCE,
    "res_balance": RESIDUAL_BALANCE,
    "attn_balance": RESIDUAL_BALANCE,
    "channels_per_head": HEAD_CHANNELS,
    "clip_act": CLAMP,
    "resample_filter": [1, 1],
}
DERIVED = ("channel_mult_noise", "channel_mult_emb")  # None: from the other widths
MAX_SIZE, MAX_LEVELS, MAX_BLOCKS = 2**20, 16, 64  # of a network; the largest has 3,584, 4 and 3
WITHOUT_EFFECT = ("use_fp16", "dropout")  # on weights, and on evaluation in fp32


def infer_denoiser(
    tensors: Mapping[str, torch.Tensor],
    arguments: Mapping[str, Any] | None = None,
    source: object = SOURCE,
) -> Denoiser:
    """The denoiser that published tensors belong to, on the meta device; its shape is read from theirs.

    Args:
        arguments: keyword arguments that the published network was made with, which are compared with
            the shape and with the constants of config G; None: unknown.
        source: file of the weights, for errors.

    Raises:
        UserError: the tensors are those of another network, or an argument contradicts them or has a
            value that is not possible here.
    """
    shapes = {own_name(name): tuple(tensor.shape) for name, tensor in tensors.items()}
    network = _described(
        {n.removeprefix("unet."): shape for n, shape in shapes.items() if n.startswith("unet.")}
    )
    if network is None:
        raise UserError(
            f"{source}: expected tensors like unet.enc.64x64_block0.conv_res0.weight and "
            f"unet.out_conv.weight, as in EDM2's networks, found {len(tensors)} others. Use one of those."
        )
    denoiser = _build(network, source)
    convert_names(tensors, denoiser, source)
    problems = list(_contradictions(network, arguments or {}))
    if problems:
        raise UserError(
            f"{source}: {'; '.join(problems)}. Only networks of EDM2's config G can be used."
        )
    return denoiser


def _described(shapes: Mapping[str, tuple[int, ...]]) -> UnetDescription | None:
    """See `describe_shapes`; None as well for a network that is larger than any real one."""
    try:
        network = describe_shapes(shapes)
    except (IndexError, ValueError):  # tensors of no dimensions, numbers of thousands of digits
        return None
    if network is None:
        return None
    numbers = (network.resolution, network.in_channels, network.num_classes, *network.widths)
    small = network.res_blocks <= MAX_BLOCKS and len(network.widths) <= MAX_LEVELS
    return network if small and max(numbers) <= MAX_SIZE and min(network.widths) > 0 else None


def _build(network: UnetDescription, source: object) -> Denoiser:
    """Raises UserError where there is no such network."""
    try:
        shape = network.shape
        with torch.device("meta"):
            return build_denoiser(
                "G",
                channels=shape.channels,
                resolution=shape.resolution,
                in_channels=shape.in_channels,
                num_classes=shape.num_classes,
                channel_mult=shape.channel_mult,
                res_blocks=shape.res_blocks,
                attention_resolutions=network.attention,
            )
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"{source}: no network has tensors of these shapes ({shown(str(error))}). Use one of EDM2's."
        ) from None


def _contradictions(network: UnetDescription, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Arguments that are not as in the network that the tensors describe."""
    widths, sides = network.widths, [network.resolution >> k for k in range(len(network.widths))]
    mult = arguments.get("channel_mult")
    first = mult[0] if isinstance(mult, list | tuple) and mult and mult[0] in range(1, 1024) else 1
    base = widths[0] / first
    expected = {
        **CONSTANTS,
        "img_resolution": network.resolution,
        "img_channels": network.in_channels,
        "label_dim": network.num_classes,
        "model_channels": base,
        "channel_mult": [width / base for width in widths],
        "channel_mult_noise": first,
        "channel_mult_emb": max(widths) / base,
        "num_blocks": network.res_blocks,
        "attn_resolutions": list(network.attention),
    }
    for name, value in arguments.items():
        if name in WITHOUT_EFFECT or (name in DERIVED and value is None):
            continue
        actual = list(value) if isinstance(value, tuple) else value
        if name == "attn_resolutions" and isinstance(actual, list):
            actual = [
                side for side in sides if side in actual
            ]  # it may name levels that are not there
        if name not in expected:
            yield f"argument {name} ({shown(repr(value))}) is unknown"
        elif actual != expected[name]:
            yield f"argument {name} is {shown(repr(value))}, expected {_plain(expected[name])}"


def _plain(value: Any) -> str:
    """A value in the words of an error: 192 instead of 192.0."""
    if isinstance(value, list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}"


def convert_names(
    tensors: Mapping[str, torch.Tensor], denoiser: Denoiser, source: object = SOURCE
) -> dict[str, torch.Tensor]:
    """Published tensors under their names in the state dict of `denoiser`, which has config G.

    Args:
        source: file of the weights, for errors.

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
                f"{source}: {problem} tensors: {len(differing)}, for example "
                f"{min(differing)}. Build the denoiser with their config (G), size, resolution, "
                "in_channels and num_classes."
            )
    for name in sorted(expected):
        if tensors[name].shape != state[names[name]].shape:
            raise UserError(
                f"{source}: {name}: shape {tuple(tensors[name].shape)}, expected "
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
