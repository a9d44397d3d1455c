"""Pictures made of many images."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from edm2.data.images import ImageShards
from edm2.runtime.files import replacing
from edm2.vae.codec import Codec

LEAST_SIDE = 40  # pixels an image is shown with
GAP = 2
SHOWN = 24  # reconstructions


def draw_grid(rows: Sequence[torch.Tensor], labels: Sequence[str]) -> Image.Image:
    """Rows of images uint8 [N, 3, R, R] below each other, each with its label on the left.

    Small images are enlarged by whole factors, pixel by pixel.
    """
    side = rows[0].shape[-1]
    factor = max(1, -(-LEAST_SIDE // side))
    cell = side * factor + GAP
    font = ImageFont.load_default(size=14)
    margin = GAP * 6 + int(max(font.getlength(label) for label in labels))
    size = (margin + cell * max(len(row) for row in rows), cell * len(rows) + GAP)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    for r, (row, label) in enumerate(zip(rows, labels, strict=True)):
        top = r * cell + GAP
        draw.text((GAP * 2, top + cell // 2), label, fill="black", font=font, anchor="lm")
        for c, image in enumerate(row):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
            enlarged = picture.resize((side * factor,) * 2, Image.Resampling.NEAREST)
            canvas.paste(enlarged, (margin + c * cell, top))
    return canvas


def write_class_grid(
    path: Path, images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]
) -> None:
    """One row per class that is there: images uint8 [N, 3, R, R], labels int64 [N]."""
    shown = sorted(set(labels.tolist()))
    _write(path, draw_grid([images[labels == k] for k in shown], [classes[k] for k in shown]))


def write_reconstructions(
    path: Path, codec: Codec, images: ImageShards, device: torch.device
) -> None:
    """Held-out images above their reconstructions."""
    originals, _ = images.batch(range(min(SHOWN, len(images))))
    decoded = codec.decode(codec.encode(originals.to(device))[0]).cpu()
    _write(path, draw_grid([originals, decoded], ["image", "decoded"]))


def _write(path: Path, image: Image.Image) -> None:
    with replacing(path) as temporary:
        image.save(temporary, format="png")
