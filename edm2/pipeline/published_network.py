"""Networks that EDM2's authors published, with all that sampling from them needs."""

from pathlib import Path

from edm2.params import UserError
from edm2.pipeline.portable import PortableNetwork


def read_published_network(path: Path) -> PortableNetwork:
    """The network of a published pickle, read without running its code.

    Raises:
        UserError: it cannot be read safely, or holds no network that is known.
    """
    raise UserError(f"{path}: published pickles cannot be read here yet.")
