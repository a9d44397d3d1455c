"""Pickles like those of EDM2's authors, of other networks."""

import io
import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

SOURCE = "raise SystemExit('source was run')"


class EasyDict(dict):
    """Pickled under the name of a module that is not importable when the file is read."""


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only the name of this function is pickled")


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *args):
        self.reduced = (function, args)

    def __reduce__(self):
        return self.reduced


def zipped(content):
    """The file of `torch.save`."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Persistent(torch.nn.Module):
    """Reduces to source text and state, as a persistent class does."""

    meta_of = dict
    source = SOURCE

    def __init__(self, **kwargs):
        super().__init__()
        self._init_args, self._init_kwargs = (), self.meta_of(kwargs)

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": self.source,
            "class_name": type(self).__name__,
            "state": self.__dict__,
        }
        return _reconstruct_persistent_obj, (self.meta_of(meta),)


def pickled(content, protocol=pickle.DEFAULT_PROTOCOL):
    """Pickle with the authors' modules importable, which they are not when the file is read."""
    objects = {"dnnlib.util": EasyDict, "torch_utils.persistence": _reconstruct_persistent_obj}
    with pytest.MonkeyPatch.context() as patch:
        for path, value in objects.items():
            parent, _, name = path.partition(".")
            modules = {parent: ModuleType(parent), path: ModuleType(path)}
            setattr(modules[parent], name, modules[path])
            setattr(modules[path], value.__name__, value)
            patch.setattr(value, "__module__", path)
            for module_name, module in modules.items():
                patch.setitem(sys.modules, module_name, module)
        return pickle.dumps(content, protocol)


class StandardRGBEncoder(Persistent):
    """Pixels."""


class StabilityVAEEncoder(Persistent):
    """Latents; what it computes with is in its state."""

    def __init__(self, scale, bias, **kwargs):
        super().__init__(**kwargs)
        self.vae_name = kwargs.get("vae_name", "stabilityai/sd-vae-ft-mse")
        self.scale, self.bias = np.float32(scale), np.float32(bias)


def write_published(
    path: Path, tensors: dict[str, torch.Tensor], entry: str = "ema", encoder=None, **arguments
) -> Path:
    """A pickle of a network whose state_dict has these tensors."""
    network = Persistent(**arguments)
    for name, tensor in tensors.items():
        *parents, last = name.split(".")
        module = network
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, Persistent())
            module = module._modules[parent]
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    others = {} if encoder is None else {"encoder": encoder}
    path.write_bytes(
        pickled(EasyDict({entry: network}, dataset_kwargs=EasyDict(path="images.zip"), **others))
    )
    return path
