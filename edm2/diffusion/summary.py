"""What a network is made of: layers, output shapes, parameters, multiply-adds."""

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.names import paper_name


def layer_table(denoiser: Denoiser) -> pd.DataFrame:
    """A row per part of the raw network that has parameters or multiplies, and their sum.

    Columns: name as in the paper's figures; output, its shape for one image; parameters; and
    multiply-adds of convolutions and matrix products for one image.
    A denoiser on the meta device is described without computing anything.
    """
    unet, shape = denoiser.unet, denoiser.shape
    device = next(unet.parameters()).device
    outputs: dict[nn.Module, tuple[int, ...]] = {}

    def see(module: nn.Module, _: object, output: torch.Tensor) -> None:
        outputs[module] = tuple(output.shape[1:])

    handles = [module.register_forward_hook(see) for module in unet.modules()]
    x = torch.zeros(1, shape.in_channels, shape.resolution, shape.resolution, device=device)
    labels = torch.zeros(1, shape.num_classes, device=device) if shape.num_classes else None
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        unet(x, torch.zeros(1, device=device), labels)
    for handle in handles:
        handle.remove()
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}

    def flops(path: str, module: nn.Module) -> int:
        """All of a module's; a container is never called and so has those of its parts."""
        key = f"Unet.{path}" if path else "Unet"
        return counts[key] if key in counts else below(path, module)

    def below(path: str, module: nn.Module) -> int:
        return sum(flops(f"{path}.{name}".lstrip("."), m) for name, m in module.named_children())

    rows = [
        {
            "name": _name(path),
            "output": _text(outputs.get(module, ())),
            "parameters": sum(p.numel() for p in module.parameters(recurse=False)),
            "multiply_adds": (flops(path, module) - below(path, module)) // 2,
        }
        for path, module in unet.named_modules()
    ]
    table = pd.DataFrame(rows)
    table = table[(table["parameters"] > 0) | (table["multiply_adds"] > 0)]
    sums = table[["parameters", "multiply_adds"]].sum().to_dict()
    whole = {"name": "total", "output": _text(outputs[unet]), **sums}
    return pd.concat([table, pd.DataFrame([whole])], ignore_index=True)


def _name(path: str) -> str:
    """As in the paper; of modules whose only parameter is a gain, that gain's."""
    if path == "":
        return "out_gain"
    return paper_name(
        path.replace("conditioning", "gain") if path.endswith(".conditioning") else path
    )


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
