"""Types of texts: none is longer than a file system or a message takes."""

import os
import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

MAX_NAME = 255  # bytes of a name in a path, of all common file systems
MAX_PATH = 4096
IMPOSSIBLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # control characters, and half characters


def _possible(path: str) -> str:
    """A path that can be asked for; with braces it is the pattern of several, each checked on its own."""
    names = [] if "{" in path else path.split(os.sep)
    if IMPOSSIBLE.search(path) or any(len(name.encode()) > MAX_NAME for name in names):
        expected = f"a path without control characters, with names of at most {MAX_NAME} bytes"
        raise PydanticCustomError("path", "Input should be {expected}", {"expected": expected})
    return path


PathText = Annotated[str, Field(min_length=1, max_length=MAX_PATH), AfterValidator(_possible)]
Name = Annotated[str, Field(max_length=200)]
Names = Annotated[tuple[Name, ...], Field(strict=False, max_length=1000)]
Command = Annotated[str, Field(max_length=4000)]
