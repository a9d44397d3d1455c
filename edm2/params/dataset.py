"""`dataset`: where images come from."""

from typing import Annotated, Literal

from pydantic import Field

from edm2.params.number_types import Count, Fraction, Seed, Side
from edm2.params.registry import one_of
from edm2.params.seams import SOURCES
from edm2.params.section import Section
from edm2.params.text_types import Name, PathText

Crop = Literal["lanczos", "adm"]


class Dataset(Section):
    source: Annotated[str, one_of(SOURCES)] = Field(
        description="digits: the 1797 handwritten digits inside scikit-learn; "
        "photos: crops of ten photographs inside scikit-image and scikit-learn; "
        "folder: your images, one subfolder per class, or with labels in dataset.json (EDM, StyleGAN); "
        "webdataset: tars of images with labels; "
        "zip: an archive with labels in dataset.json, as EDM and StyleGAN write it, or a folder per class; "
        "huggingface: a dataset on disk that the package `datasets` reads; "
        "latents: latents without images, as EDM2 stores them (img512-sd.zip, or unpacked)"
    )
    path: PathText | None = Field(
        description="your images, relative to the project root: a folder (source folder), a pattern of tars "
        "such as train/{00000..00099}.tar (webdataset), a file (zip), a folder or a pattern of parquet "
        "files (huggingface), a folder or a zip (latents); null: digits, photos"
    )
    held_out_path: PathText | None = Field(
        description="other images in the form of those of `path`, of the same classes, that are held out; "
        "null: a fraction of each class (held_out)"
    )
    classes: PathText | None = Field(
        description="file of class names: a line `n01440764 tench` for each folder or text label, or a line "
        "with a name for each label number, from 0; null: the names are those of the source"
    )
    label_field: Name | None = Field(
        description="field of {key}.json with the label, null: {key}.cls (source webdataset); column of "
        "labels, null: the only one of type ClassLabel (source huggingface)"
    )
    image_field: Name | None = Field(
        description="column of images (source huggingface); null: the only one of type Image"
    )
    resolution: Side = Field(description="height and width of the images after preparation")
    crop: Crop = Field(
        description="from images of any size (all sources with a path, vae.images) to squares; lanczos: the "
        "largest centered square, resized; adm: as ImageNet was prepared for the paper"
    )
    held_out: Fraction | None = Field(
        description="fraction of each class that is not trained on, for held-out metrics; null with "
        "held_out_path or source latents"
    )
    seed: Seed = Field(description="seed of the held-out split and of the classifier's training")
    stored: bool = Field(
        description="true: the prepared images are stored in data/images; false: only which images are in "
        "which split, and stages read them from the source"
    )
    shard_images: Count = Field(description="images per shard (one tar file)")

    @property
    def has_images(self) -> bool:
        """Whether the source has images, and not only their latents."""
        return not SOURCES[self.source].latents
