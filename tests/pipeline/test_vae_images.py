"""The images of `vae.images` before a training: what is read, what is damaged, what is skipped."""

import io
import json
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import write_params

from edm2.data.decoding import FEW_BITS
from edm2.params import Params, ParamsError, UserError, load
from edm2.pipeline.vae_images import SKIP_LIST, check_images, open_web_images
from edm2.pipeline.vae_training import external_inputs
from edm2.runtime.state import State
from edm2.vae.evaluation import evaluated_images


def encoded(kind: str = "jpeg", dtype: type = np.uint8) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((12, 12), 200, dtype=dtype)).save(stream, kind)
    return stream.getvalue()


def write_tar(path: Path, count: int, **contents: bytes) -> None:
    """A tar of {k}.jpg; `contents` replace some, by their names without ending."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for k in range(count):
            content = contents.get(f"n{k}", encoded())
            member = tarfile.TarInfo(f"{k}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def params_of(root: Path):
    """params_of(key=value, ...): params of a VAE that trains on two tars and is tested on a third."""

    def params(**changes: Any) -> Params:
        keys = {"vae.images.shards": "web/[01].tar", "vae.images.held_out": "web/2.tar"}
        keys |= {key.replace("__", "."): value for key, value in changes.items()}
        return load(write_params(root / "params.yaml", keys))

    for tar in range(3):
        write_tar(root / f"web/{tar}.tar", 5)
    return params


def check(root: Path, params: Params, trained: bool = True) -> dict[str, float]:
    (root / "state").mkdir(exist_ok=True)
    context: Any = SimpleNamespace(params=params, state=State(root / "state"))
    return check_images(context, open_web_images(params), trained)


DAMAGE = {"n1": encoded()[:200], "n3": b""}


def damage(root: Path) -> list[str]:
    """Damage two training images and a held-out one; their names."""
    write_tar(root / "web/1.tar", 5, **DAMAGE)
    write_tar(root / "web/2.tar", 5, n4=b"<html>404</html>")
    return [f"{root}/web/{name}.jpg" for name in ("1.tar: 1", "1.tar: 3", "2.tar: 4")]


def test_all_damaged_images_are_named_before_training(root: Path, params_of) -> None:
    names = damage(root)
    with pytest.raises(UserError) as error:
        check(root, params_of())
    message = str(error.value)
    assert all(f"{name}: " in message for name in names)
    assert message.count(".jpg") == 3
    assert f"runtime.skip_images to state/{SKIP_LIST}" in message
    assert (root / "state" / SKIP_LIST).read_text().splitlines() == names


def test_listed_images_are_skipped_and_counted(root: Path, params_of, capsys) -> None:
    before = external_inputs(params_of())
    damage(root)
    with pytest.raises(UserError):
        check(root, params_of())
    params = params_of(runtime__skip_images=f"state/{SKIP_LIST}")
    capsys.readouterr()
    assert check(root, params) == {"skipped_images/shards": 2, "skipped_images/held_out": 1}
    printed = capsys.readouterr().out
    assert "8 images are read, 2 are skipped" in printed
    assert "4 images are read, 1 are skipped" in printed
    assert external_inputs(params) == before  # neither damage nor the list starts it again


def test_a_longer_list_keeps_what_was_skipped(root: Path, params_of) -> None:
    damage(root)
    (root / "skip.txt").write_text(f"{root}/web/1.tar: 1.jpg\nelsewhere.tar: 1.jpg\n")
    params = params_of(runtime__skip_images="skip.txt")
    with pytest.raises(UserError) as error:
        check(root, params)
    assert "1.tar: 1.jpg: " not in str(error.value)
    listed = (root / "state" / SKIP_LIST).read_text().splitlines()
    assert len(listed) == 4
    assert f"{root}/elsewhere.tar: 1.jpg" in listed


def test_lines_that_name_no_image_are_told(root: Path, params_of, capsys) -> None:
    lines = f"{root}/web/1.tar: 1.jpg\r\n\r\n./web/1.tar: 3.jpg\nweb/1.tar: 77.jpg\n\0\n"
    (root / "skip.txt").write_text(lines)
    check(root, params_of(runtime__skip_images="skip.txt"))
    assert "lines that name no image of vae.images (2)" in (printed := capsys.readouterr().out)
    assert "77.jpg" in printed
    assert "\0" not in printed
    assert "such as web/00000.tar: 0001.jpg" in printed


def test_what_was_checked_is_not_checked_again_until_it_changes(
    root: Path, params_of, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    find = "edm2.pipeline.vae_images.find_damaged"
    monkeypatch.setattr(find, lambda _, indices, __: checked.append(len(indices)) or {})
    for changed, expected in ((None, [10, 5]), (None, [0, 0]), (1, [5, 0]), (2, [0, 5])):
        if changed is not None:
            write_tar(root / f"web/{changed}.tar", 5, n1=encoded("png"))
        checked.clear()
        check(root, params_of())
        assert checked == expected


def test_a_short_training_checks_what_it_reads(root: Path, params_of) -> None:
    """Of 128 images it reads 64."""
    write_tar(root / "web/0.tar", 64, **{f"n{k}": b"" for k in range(64)})
    write_tar(root / "web/1.tar", 64, **{f"n{k}": b"" for k in range(64)})
    short = {"vae__duration_nimg": 64, "vae__log_nimg": 64, "vae__batch": 64}
    short |= {"vae__warmup_nimg": 64, "vae__evaluate_nimg": 64, "vae__ema__snapshot_nimg": 64}
    with pytest.raises(UserError, match="vae.images: 64 of"):
        check(root, params_of(**short))


def test_of_many_held_out_images_those_that_are_read_are_checked(root: Path, params_of) -> None:
    """Of 128 images 30 are evaluated, and the first 24 are drawn."""
    write_tar(root / "web/2.tar", 128, **{f"n{k}": b"" for k in range(128)})
    damaged = {*range(24), *evaluated_images(128, 30)}
    with pytest.raises(UserError, match=f"vae.images: {len(damaged)} of"):
        check(root, params_of(vae__evaluate_images=30))


def test_without_training_only_held_out_images_are_checked(root: Path, params_of) -> None:
    names = damage(root)
    with pytest.raises(UserError) as error:
        check(root, params_of(), trained=False)
    assert names[2] in str(error.value)
    assert names[0] not in str(error.value)


def test_images_that_are_nearly_black_are_told(root: Path, params_of, capsys) -> None:
    write_tar(root / "web/0.tar", 5, n2=encoded("png", np.uint16))
    check(root, params_of())
    assert f"1 {FEW_BITS}: {root}/web/0.tar: 2.jpg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vae.images.shards": None, "vae.images.held_out": None}, "null"),
        ({"runtime.skip_images": "missing.txt"}, "exists"),
    ],
)
def test_a_skip_list_that_cannot_be_used_is_refused(
    root: Path, params_of, changes: dict[str, Any], expected: str
) -> None:
    (root / "skip.txt").write_text("")
    keys = {key.replace(".", "__"): value for key, value in changes.items()}
    with pytest.raises(ParamsError) as error:
        params_of(**{"runtime__skip_images": "skip.txt"} | keys)
    (problem,) = error.value.problems
    assert problem.key == "runtime.skip_images"
    assert expected in problem.allowed


def test_notes_stay_readable(root: Path, params_of) -> None:
    check(root, params_of())
    assert len(json.loads((root / "state/notes.json").read_text())["checked_tars"]) == 3
