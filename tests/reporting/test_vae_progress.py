"""The pictures of the VAE's training in the report's page."""

import json
import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from edm2.reporting import vae_progress as module
from edm2.reporting.stage_outputs import StageOutputs
from edm2.reporting.vae_progress import chosen_times, vae_progress
from edm2.runtime.checksums import write_checksum
from edm2.runtime.manifest import write_manifest


def outputs(folder: Path, times: list[int]) -> StageOutputs:
    pictures = folder / "vae/progress"
    pictures.mkdir(parents=True)
    for k, nimg in enumerate(times):
        Image.new("RGB", (8, 4 + k)).save(pictures / f"{nimg:012d}.png")
    write_manifest(pictures)
    rows = pd.DataFrame({"nimg": times, "held_out/psnr": [20.0 + k for k in range(len(times))]})
    rows = rows.assign(**{"held_out/ssim": 0.75, "held_out/evaluated_images": 100})
    table = pd.concat([rows, pd.DataFrame({"nimg": [50, 3000]})])  # rows of losses alone
    table.to_csv(folder / "vae/curves.csv", index=False)
    write_checksum(folder / "vae/curves.csv")
    return StageOutputs(folder, [], [])


def frames(body: str) -> tuple[list[str], list[str]]:
    """The labels of the slider, and the heights of the pictures."""
    labels = json.loads(unescape(re.search('data-labels="(.*?)"', body)[1]))
    return labels, re.findall('height="(\\d+)"', body)


def test_each_picture_has_its_time_and_quality(tmp_path: Path) -> None:
    body = vae_progress(outputs(tmp_path, [500, 1000, 12_000]))
    assert frames(body) == (
        [
            "500: PSNR 20.00 dB, SSIM 0.750",
            "1,000: PSNR 21.00 dB, SSIM 0.750",
            "12,000: PSNR 22.00 dB, SSIM 0.750",
        ],
        ["4", "5", "6"],
    )
    assert 'data-start="2"' in body
    assert "All 3 pictures" not in body


@pytest.mark.parametrize("times", [[], [500]])
def test_a_single_picture_needs_no_slider(tmp_path: Path, times: list[int]) -> None:
    assert vae_progress(outputs(tmp_path, times)) == ""


def test_of_many_pictures_the_page_has_some(tmp_path: Path) -> None:
    labels, heights = frames(body := vae_progress(outputs(tmp_path, [*range(100, 3100, 100)])))
    assert len(labels) == len(heights) == 12
    assert (heights[0], heights[-1]) == ("4", "33")
    assert "All 30 pictures are in" in body
    assert f"{tmp_path.name}/vae/progress" in body


@pytest.mark.parametrize(
    ("room", "expected"), [(500, [1, 2, 3, 4, 5]), (499, [1, 2, 4, 5]), (299, [1, 5]), (199, [])]
)
def test_bytes_are_bounded(tmp_path: Path, monkeypatch, room: int, expected: list[int]) -> None:
    """Five files of 100 bytes; the first and the last are always among those that are shown."""
    monkeypatch.setattr(module, "MAX_BYTES", room)
    paths = {nimg: tmp_path / f"{nimg}.png" for nimg in range(1, 6)}
    for path in paths.values():
        path.write_bytes(bytes(100))
    assert chosen_times(paths) == expected


def test_without_room_their_folder_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    body = vae_progress(outputs(tmp_path, [500, 1000]))
    assert "<img" not in body
    assert "too large" in body
    assert f"{tmp_path.name}/vae/progress" in body
