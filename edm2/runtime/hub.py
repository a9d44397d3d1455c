"""The Hugging Face Hub (the extra `hub`): networks are named by their path, or by their repository."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edm2.params import UserError

REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # owner/name
FILE_ENDINGS = (".pkl", ".safetensors")  # of paths, never of repositories
NETWORK_FILES = ("model.safetensors", "config.json", "manifest.json", "codec/*", "README.md")


def local_network(name: str | Path, **options: Any) -> Path:
    """The path of a network: `name` if it exists, or the snapshot of the repository `name`.

    Args:
        name: a path, or a repository owner/name, unless that is a path that exists.
        options: of `huggingface_hub.snapshot_download`, such as revision, token, cache_dir.

    Raises:
        UserError: neither; or it cannot be downloaded.
    """
    path = Path(name)
    if path.exists():
        return path
    if not REPOSITORY.fullmatch(str(name)) or path.suffix in FILE_ENDINGS:
        raise UserError(
            f"{name}: does not exist. Expected a network: a file, an exported folder, or a repository of "
            "the Hugging Face Hub, like owner/name."
        )
    with hub_errors(f"{name}: no such path; as a repository of the Hugging Face Hub"):
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(name), allow_patterns=list(NETWORK_FILES), **options))


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Raise what goes wrong with the Hub as a UserError.

    Args:
        what: what is read or written, the beginning of the error.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError:
        raise UserError(
            f"{what}: needs the package huggingface_hub. Install it: pip install 'edm2[hub]'."
        ) from None
    except (
        Exception
    ) as error:  # of the Hub, or of the connection, by another package in each version
        reason = " ".join(str(error).split())
        raise UserError(
            f"{what}: failed ({type(error).__name__}: {reason}). Correct the name; log in with "
            "`hf auth login` if it is private or yours; without a connection, use a folder that was "
            "downloaded elsewhere."
        ) from None
