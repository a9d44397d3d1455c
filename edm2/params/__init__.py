"""The params: one pydantic tree for all of params.yaml, and `load`."""

from edm2.params.errors import ParamsError, UserError
from edm2.params.loading import load
from edm2.params.tree import Params

__all__ = ["Params", "ParamsError", "UserError", "load"]
