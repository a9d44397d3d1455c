"""All files that ask for more time or memory than they are worth, and what reads them."""

import hostile_data  # noqa: F401  (these register their cases)
import hostile_networks  # noqa: F401
from hostile_cases import CASES, GIB

__all__ = ["CASES", "GIB"]
