"""`dataset`: where images come from."""

from typing import Annotated, Literal

from pydantic import Field

from edm2.params.registry import one_of
from edm2.params.seams import SOURCES
from edm2.params.section import Count, Fraction, Section

Crop = Literal["lanczos", "adm"]


class Dataset(Section):
    source: Annotated[str, one_of(SOURCES)] = Field(
        description="digits: the 1797 handwritten digits inside scikit-learn; "
        "photos: crops of ten photographs inside scikit-image and scikit-learn; "
        "folder: your images, one subfolder per class"
    )
    path: str | None = Field(
        description="folder of the images (source: folder), relative to the project root; else null"
    )
    resolution: Count = Field(description="height and width of the images after preparation")
    crop: Crop = Field(
        description="from images of any size (source folder, vae.images) to squares; lanczos: the "
        "largest centered square, resized; adm: as ImageNet was prepared for the paper"
    )
    held_out: Fraction = Field(
        description="fraction of each class that is not trained on, for held-out metrics"
    )
    seed: int = Field(
        ge=0, description="seed of the held-out split and of the classifier's training"
    )
    stored: bool = Field(
        description="true: the prepared images are stored in data/images; false: only which images are in "
        "which split, and stages read them from the source"
    )
    shard_images: Count = Field(description="images per shard (one tar file)")
