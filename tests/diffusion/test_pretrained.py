"""Denoisers in folders, and on a fake Hub."""

import json
import runpy
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_network import edit_config, tiny_denoiser

from edm2.diffusion import Denoiser
from edm2.params import UserError
from edm2.params.errors import NotFiniteError
from edm2.sampling import heun

EXPORTED = ["README.md", "config.json", "manifest.json", "model.safetensors"]


@pytest.fixture
def folder(copy_of_network):
    return copy_of_network


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def same(a, b):
    states = a.state_dict(), b.state_dict()
    assert list(states[0]) == list(states[1])
    return all(torch.equal(x, y) for x, y in zip(*map(dict.values, states), strict=True))


def test_the_same_network_comes_back_and_samples_the_same(folder):
    denoiser, back = tiny_denoiser(), Denoiser.from_pretrained(folder)
    assert same(denoiser, back)
    assert not back.training
    assert not any(parameter.requires_grad for parameter in back.parameters())
    noise = torch.randn(2, 3, 8, 8)
    labels = torch.tensor([0, 1])
    samples = [heun(lambda x, s, d=d: d(x, s, labels), noise, steps=3) for d in (denoiser, back)]
    assert torch.equal(*samples)


@pytest.mark.parametrize("config", ["A", "C"])
def test_a_denoiser_is_saved_without_a_project(tmp_path, config):
    denoiser = tiny_denoiser(config)
    denoiser.save_pretrained(tmp_path / "mine")
    assert files(tmp_path / "mine") == EXPORTED[1:]
    assert same(denoiser, Denoiser.from_pretrained(str(tmp_path / "mine")))
    with pytest.raises(UserError, match="mine: exists"):
        denoiser.save_pretrained(tmp_path / "mine")


def test_a_copy_is_complete_and_a_changed_network_keeps_no_card(folder, tmp_path):
    (folder / "README.md").write_text("edited")
    denoiser = Denoiser.from_pretrained(folder)
    denoiser.save_pretrained(tmp_path / "copy")
    assert files(tmp_path / "copy") == EXPORTED
    assert all((folder / n).read_bytes() == (tmp_path / "copy" / n).read_bytes() for n in EXPORTED)
    denoiser.unet.out_conv.weight.mul_(2)
    denoiser.save_pretrained(tmp_path / "changed")
    assert files(tmp_path / "changed") == EXPORTED[1:]
    assert same(denoiser, Denoiser.from_pretrained(tmp_path / "changed"))
    old, new = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "changed"))
    manifest = json.loads((folder / "manifest.json").read_text())
    checksum = manifest["files"]["model.safetensors"]["sha256"]
    assert new.pop("provenance") == {"changed from": checksum}
    del old["provenance"]
    assert new == old


def test_weights_of_half_precision_are_exact_in_float32(folder):
    tensors = {name: t.half() for name, t in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "manifest.json").unlink()
    state = Denoiser.from_pretrained(folder).state_dict()
    assert all(torch.equal(state[name], tensor.float()) for name, tensor in tensors.items())


def test_a_file_of_the_raw_network_uses_the_config_beside_it(folder):
    edit_config(folder, "denoiser", "head", value=False)
    tensors = tiny_denoiser().unet.state_dict()
    save_file(tensors, folder / "average.safetensors")
    denoiser = Denoiser.from_pretrained(folder / "average.safetensors")
    assert all(torch.equal(denoiser.unet.state_dict()[n], t) for n, t in tensors.items())


def flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def replace_weights(folder, change):
    (folder / "manifest.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


DAMAGES = {
    "model.safetensors: SHA-256": lambda f: flip(f / "model.safetensors"),
    "config.json: SHA-256": lambda f: (f / "config.json").write_text(
        (f / "config.json").read_text() + " "
    ),
    "manifest.json: not valid JSON": lambda f: (f / "manifest.json").write_text("{"),
    "model.safetensors: cannot be read": lambda f: (f / "model.safetensors").unlink(),
    "config.json: cannot be read": lambda f: (f / "config.json").unlink(),
    "not the description of a network of edm2": lambda f: edit_config(f, "format", value="x"),
    "format_version 2: expected 1": lambda f: edit_config(f, "format_version", value=2),
    "denoiser: missing": lambda f: edit_config(f, "denoiser", value=...),
    "missing tensors: head.": lambda f: replace_weights(f, lambda t: t.pop("head.linear.weight")),
    "unknown tensors: extra": lambda f: replace_weights(f, lambda t: t.update(extra=torch.ones(1))),
    "expected [8, 4, 3, 3]": lambda f: replace_weights(
        f, lambda t: t.update({"unet.enc.8x8-conv.weight": torch.ones(8, 5, 3, 3)})
    ),
    "dtype torch.int64": lambda f: replace_weights(
        f, lambda t: t.update({"unet.out_gain": torch.tensor(1)})
    ),
}


@pytest.mark.parametrize("words", DAMAGES)
def test_damaged_folders_are_refused_by_file_and_reason(folder, words):
    DAMAGES[words](folder)
    with pytest.raises(UserError) as error:
        Denoiser.from_pretrained(folder)
    assert words in str(error.value)


def test_truncated_weights_are_refused(folder):
    (folder / "manifest.json").unlink()
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-8])
    with pytest.raises(UserError, match="cannot be read as a safetensors file"):
        Denoiser.from_pretrained(folder)


@pytest.mark.parametrize("text", ['{"format": NaN}', '{"format": 1e999}', "[" * 10**5, "\x00", "3"])
def test_a_config_that_is_no_json_of_finite_numbers_is_refused(folder, text):
    (folder / "manifest.json").unlink()
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json: (cannot be read|not the description)"):
        Denoiser.from_pretrained(folder)


def test_a_huge_network_is_refused_by_the_header_of_its_weights(folder):
    """Its weights would take 9 GB."""
    edit_config(folder, "denoiser", "shape", "channels", value=2**14)
    with pytest.raises(UserError, match=r"shape \[8\], expected \[16384\]"):
        Denoiser.from_pretrained(folder)


def test_weights_that_are_not_finite_are_refused_by_tensor(folder, tmp_path):
    def spoil(tensors):
        tensors["unet.out_gain"].fill_(torch.nan)

    replace_weights(folder, spoil)
    with pytest.raises(NotFiniteError, match=r"unet\.out_gain"):
        Denoiser.from_pretrained(folder)
    denoiser = tiny_denoiser()
    spoil(denoiser.state_dict(prefix=""))
    with pytest.raises(NotFiniteError, match=r"unet\.out_gain"):
        denoiser.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("name", ["nowhere", "./no/where", "a/b/c"])
def test_a_name_that_is_neither_a_path_nor_a_repository_is_refused(name):
    with pytest.raises(UserError, match=rf"{name}: does not exist"):
        Denoiser.from_pretrained(name)


def test_a_repository_is_downloaded_without_other_files(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    calls = []

    def snapshot_download(name, **options):
        calls.append((name, options))
        return str(folder)

    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    denoiser = Denoiser.from_pretrained("me/net", revision="v1", token="t")
    assert same(denoiser, tiny_denoiser())
    ((name, options),) = calls
    patterns = options.pop("allow_patterns")
    assert (name, options) == ("me/net", {"revision": "v1", "token": "t"})
    assert set(EXPORTED) <= set(patterns)
    assert not any("pkl" in pattern or pattern == "*" for pattern in patterns)


def test_without_a_connection_or_the_package_the_way_out_is_named(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(UserError, match=r"me/net: no such path.*no route.*hf auth login"):
        Denoiser.from_pretrained("me/net")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"me/net.*pip install 'edm2\[hub\]'"):
        Denoiser.from_pretrained("me/net")
    with pytest.raises(UserError, match=r"me/net.*pip install 'edm2\[hub\]'"):
        tiny_denoiser().push_to_hub("me/net")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A fake Hub: the folder of each repository, and the options of the last upload."""
    mixin = pytest.importorskip("huggingface_hub.hub_mixin")
    fake = SimpleNamespace(folder=tmp_path / "hub", options=None, created=None)

    class Api:
        def __init__(self, token=None):
            self.token = token

        def create_repo(self, repo_id, **options):
            fake.created = options
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, *, repo_id, folder_path, **options):
            fake.options = {**options, "token": self.token}
            shutil.copytree(folder_path, fake.folder / repo_id)
            return f"https://hub/{repo_id}"

    monkeypatch.setattr(mixin, "HfApi", Api)
    return fake


def test_a_network_is_uploaded_as_it_was_exported(folder, hub):
    denoiser = Denoiser.from_pretrained(folder)
    url = denoiser.push_to_hub("me/net", private=True, token="t", branch="v1")
    assert url == "https://hub/me/net"
    assert hub.created["private"] is True
    assert (hub.options["token"], hub.options["revision"]) == ("t", "v1")
    uploaded = hub.folder / "me/net"
    assert files(uploaded) == EXPORTED
    assert all((uploaded / name).read_bytes() == (folder / name).read_bytes() for name in EXPORTED)
    assert same(denoiser, Denoiser.from_pretrained(uploaded))


def test_a_network_without_a_card_is_uploaded_with_a_plain_one(hub):
    denoiser = tiny_denoiser()
    denoiser.push_to_hub("me/other")
    assert files(hub.folder / "me/other") == EXPORTED
    assert "library_name: edm2" in (hub.folder / "me/other/README.md").read_text()
    assert same(denoiser, Denoiser.from_pretrained(hub.folder / "me/other"))


def test_an_upload_that_fails_is_an_error_of_the_user(folder, hub, monkeypatch):
    mixin = pytest.importorskip("huggingface_hub.hub_mixin")

    def refuse(*_, **__):
        raise PermissionError("401")

    monkeypatch.setattr(mixin.HfApi, "create_repo", refuse)
    with pytest.raises(UserError, match=r"me/net: upload.*401"):
        Denoiser.from_pretrained(folder).push_to_hub("me/net")


@pytest.mark.parametrize("module", ["diffusion.denoiser", "diffusion.pretrained", "runtime.hub"])
def test_no_import_and_no_folder_needs_the_hub(folder, monkeypatch, module):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # an import of it raises
    runpy.run_path(sys.modules[f"edm2.{module}"].__file__)
    Denoiser.from_pretrained(folder)
