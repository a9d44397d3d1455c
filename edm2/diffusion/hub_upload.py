"""Upload of a denoiser to the Hugging Face Hub."""

from pathlib import Path
from typing import Any

from edm2.diffusion.denoiser import Denoiser
from edm2.diffusion.pretrained import fill
from edm2.runtime.hub import hub_errors


def push_to_hub(denoiser: Denoiser, repo_id: str, **options: Any) -> str:
    """See `Denoiser.push_to_hub`."""
    with hub_errors(f"{repo_id}: upload to the Hugging Face Hub"):
        from huggingface_hub import ModelHubMixin

        class Upload(ModelHubMixin, library_name="edm2", tags=["edm2", "diffusion"]):  # type: ignore[misc,call-arg]
            """The denoiser for the mixin, which is no base class of it: all would import the package."""

            def _save_pretrained(self, save_directory: Path) -> None:
                fill(save_directory, denoiser)

        return str(Upload().push_to_hub(repo_id, **options))
