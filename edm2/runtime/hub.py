"""Names of networks: paths, or repositories of the Hugging Face Hub, which are downloaded."""

import re
from pathlib import Path
from typing import Any

from edm2.params import UserError

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
NETWORK_FILES = ("model.safetensors", "config.json", "manifest.json", "codec/*")
EXTRA = "Install it: pip install 'edm2[hub]'."


def local_network(name: str | Path, **options: Any) -> Path:
    """The path of a network: `name` if it exists, or the snapshot of the repository `name`.

    Args:
        name: a path, or a repository owner/name, which is not a path that exists.
        options: of `huggingface_hub.snapshot_download`, such as revision, token, cache_dir.

    Raises:
        UserError: neither; or it cannot be downloaded.
    """
    path = Path(name)
    if path.exists():
        return path
    if not REPOSITORY.fullmatch(str(name)):
        raise UserError(
            f"{name}: does not exist. Expected a network: a file, an exported folder, or a repository of "
            "the Hugging Face Hub, like owner/name."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name}: no such path, and as a repository of the Hugging Face Hub it needs the package "
            f"huggingface_hub. {EXTRA}"
        ) from None
    try:
        return Path(snapshot_download(str(name), allow_patterns=list(NETWORK_FILES), **options))
    except (OSError, ValueError) as error:  # the Hub's errors, and those of the connection
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name}: no such path, and as a repository of the Hugging Face Hub it cannot be downloaded "
            f"({type(error).__name__}: {reason}). Correct the name, log in with `hf auth login` if it is "
            "private, or download it on another machine and give its folder."
        ) from None
