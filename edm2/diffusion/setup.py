"""Build denoisers from params; save and load their weights."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from edm2.diffusion.denoiser import Denoiser, build_denoiser
from edm2.diffusion.identification import mismatch
from edm2.params import Params, UserError
from edm2.params.configs import ConfigName
from edm2.params.resolution import resolve
from edm2.params.runtime import Runtime
from edm2.runtime.distributed import is_main_process, ranks
from edm2.runtime.files import replacing
from edm2.runtime.parallel import shard
from edm2.runtime.sharding import gather


def denoiser_for(
    name: ConfigName, params: Params, shape: tuple[int, int, int], num_classes: int
) -> Denoiser:
    """The denoiser of one config for data [C, R, R] of `num_classes` classes.

    Raises:
        ValueError: `runtime.precision` is auto; see `edm2.runtime.precision`.
    """
    diffusion, precision = params.diffusion.of(name), params.runtime.precision
    if precision == "auto":
        raise ValueError("runtime.precision: auto: expected what it stands for on this device")
    config = resolve(name, diffusion)
    denoiser = build_denoiser(
        config,
        diffusion.size,
        diffusion.channels,
        resolution=shape[1],
        in_channels=shape[0],
        num_classes=num_classes if diffusion.conditional else 0,
        channel_mult=diffusion.channel_mult,
        res_blocks=diffusion.res_blocks,
        dtype=precision,
    )
    if params.runtime.channels_last:
        denoiser = denoiser.to(memory_format=torch.channels_last)
    return denoiser


def prepare_training(denoiser: Denoiser, runtime: Runtime, device: torch.device) -> None:
    """Make a denoiser on `device` keep fewer activations, or share it between the ranks, if `runtime`
    says so. Whatever holds its parameters must be made after that.

    Raises:
        UserError: activations cannot be checkpointed, because the backbone has no blocks.
    """
    blocks = denoiser.unet.residual_blocks()
    if runtime.activation_checkpointing:
        if not blocks:
            raise UserError(
                f"runtime.activation_checkpointing: true: backbone {denoiser.config.backbone!r} has no "
                "blocks to recompute. Let its `residual_blocks()` return them, or set it to false."
            )
        for block in blocks:
            _recompute(block)
    if runtime.data_parallel == "fsdp":
        if ranks().world_size > 1:
            _shard(denoiser, runtime, device)
        else:
            print("note: runtime.data_parallel is fsdp, but with one process nothing is sharded.")


def _shard(denoiser: Denoiser, runtime: Runtime, device: torch.device) -> None:
    blocks, head = denoiser.unet.residual_blocks(), denoiser.head
    if runtime.compile:  # one by one, because FSDP2 acts between them
        for block in blocks:
            block.forward = torch.compile(block.forward)
    if runtime.channels_last:  # activations follow the input: FSDP2 has no layouts of weights
        denoiser.to(memory_format=torch.contiguous_format)
        denoiser.unet.register_forward_pre_hook(_to_channels_last)
    shard(denoiser, [*blocks, *([] if head is None else [head.linear])], device)


def _to_channels_last(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return inputs[0].contiguous(memory_format=torch.channels_last), *inputs[1:]


def _recompute(block: nn.Module) -> None:
    """Keep no activations of a block for the backward pass; compute them again there, dropout included."""
    forward = partial(type(block).forward, block)  # of a copy if the block is copied
    block.forward = partial(checkpoint, forward, use_reentrant=False)


def save_network(denoiser: Denoiser, path: Path) -> None:
    """Write all weights as float32 safetensors, with those of the uncertainty head.

    The main process writes. If the denoiser is sharded, every rank must call this.
    """
    tensors = gather(denoiser.state_dict())
    if is_main_process():
        with replacing(path) as temporary:
            save_file({name: tensor.cpu() for name, tensor in tensors.items()}, temporary)


def set_network(
    denoiser: Denoiser, tensors: Mapping[str, torch.Tensor], source: object = "these weights"
) -> Denoiser:
    """Load weights into the raw network and freeze it for sampling.

    Args:
        source: file of the weights, for errors.

    Raises:
        UserError: the names or shapes are those of another network.
    """
    problem = mismatch(tensors, denoiser)
    if problem:
        raise UserError(f"{source}: another network than `diffusion` describes: {problem}")
    denoiser.unet.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return denoiser.eval().requires_grad_(False)
