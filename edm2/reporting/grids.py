"""Pictures composed of many images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from edm2.runtime.files import replacing

MIN_DISPLAY_SIDE = 40  # pixels per image in the picture
GAP = 2


def draw_grid(rows: Sequence[torch.Tensor], labels: Sequence[str]) -> Image.Image:
    """Rows of images uint8 [N, 3, R, R] below each other, each with its label on the left.

    Small images are enlarged by whole factors without interpolation.
    """
    side = rows[0].shape[-1]
    factor = max(1, -(-MIN_DISPLAY_SIDE // side))
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


def grid_name(network: str, strength: float) -> str:
    """File name of the samples of a network at a guidance strength."""
    return f"{network}.png" if strength == 1 else f"{network}-w{strength:g}.png"


def write_class_grid(
    path: Path, images: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]
) -> None:
    """One row per class that occurs: images uint8 [N, 3, R, R], labels int64 [N]."""
    present = sorted(set(labels.tolist()))
    write_rows(path, {classes[k]: images[labels == k] for k in present})


def write_strips(folder: Path, samples: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """A picture per class, {class number}.png: a row per entry, with the same seeds in each.

    Args:
        samples: by label of the row: "images" uint8 [N, 3, R, R] and "labels" int64 [N].
    """
    folder.mkdir(parents=True, exist_ok=True)
    first = next(iter(samples.values()))
    for k in sorted(set(first["labels"].tolist())):
        rows = {label: row["images"][row["labels"] == k] for label, row in samples.items()}
        write_rows(folder / f"{k:04d}.png", rows)


def write_rows(path: Path, rows: Mapping[str, torch.Tensor]) -> None:
    """Rows of images uint8 [N, 3, R, R] below each other, by their labels."""
    with replacing(path) as temporary:
        draw_grid(list(rows.values()), list(rows)).save(temporary, format="png")
