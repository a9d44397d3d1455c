"""Pickles like those of EDM2's authors, of networks of one's own."""

import pickle
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SOURCE = "raise SystemExit('source was run')"


class EasyDict(dict):
    """As of the module that published files name, and that is not here when they are read."""


def _reconstruct_persistent_obj(meta):
    raise AssertionError("only its name is pickled")


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
    """Pickle with the authors' modules in place, which are gone when the file is read."""
    places = {"dnnlib.util": EasyDict, "torch_utils.persistence": _reconstruct_persistent_obj}
    with pytest.MonkeyPatch.context() as patch:
        for place, thing in places.items():
            parent, _, name = place.partition(".")
            modules = {parent: ModuleType(parent), place: ModuleType(place)}
            setattr(modules[parent], name, modules[place])
            setattr(modules[place], thing.__name__, thing)
            patch.setattr(thing, "__module__", place)
            for module_name, module in modules.items():
                patch.setitem(sys.modules, module_name, module)
        return pickle.dumps(content, protocol)


def write_published(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A pickle of a network whose state_dict has these tensors."""
    network = Persistent()
    for name, tensor in tensors.items():
        *places, last = name.split(".")
        module = network
        for place in places:
            if place not in module._modules:
                module.add_module(place, Persistent())
            module = module._modules[place]
        module.register_parameter(last, torch.nn.Parameter(tensor, requires_grad=False))
    path.write_bytes(pickled(EasyDict(ema=network, dataset_kwargs=EasyDict(path="images.zip"))))
    return path
