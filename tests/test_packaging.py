"""`pip install edm2`: what is imported when, a library on its base packages alone, and the wheel."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from importlib.metadata import PathDistribution, distribution, packages_distributions
from pathlib import Path
from zipfile import Path as ZipPath
from zipfile import ZipFile

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny import ROOT, make_project

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PIPELINE = {"dvc", "mlflow", "pandas", "PIL", "sklearn", "torchvision", "vl_convert", "webdataset"}

COMMAND = """
from edm2.cli import main
try:
    main({arguments})
except SystemExit as end:
    assert end.code == 0, end.code
"""
DENOISER = """
import edm2.data.latents, edm2.ema, edm2.metrics, edm2.sampling, edm2.vae.codec
from edm2.diffusion import build_denoiser
build_denoiser("G", channels=8, resolution=8, channel_mult=(1,))
"""
LIBRARY = """
from pathlib import Path
import numpy as np
import torch
from edm2.diffusion import Denoiser, build_denoiser
from edm2.ema import PowerEMA, SnapshotStore, reconstruct, write_snapshot
from edm2.metrics import frechet_distance, inception_score, kernel_distance, precision, recall
from edm2.runtime.manifest import write_manifest
from edm2.sampling import heun

denoiser = build_denoiser("G", channels=8, resolution=8, num_classes=3, channel_mult=(1, 2))
denoiser(torch.randn(2, 4, 8, 8), torch.ones(2), torch.tensor([0, 2])).square().mean().backward()
with torch.no_grad():
    images = heun(denoiser, torch.randn(2, 4, 8, 8), steps=3)
assert images.shape == (2, 4, 8, 8)
denoiser.save_pretrained("network")
assert Denoiser.from_pretrained("network").shape == denoiser.shape
ema = PowerEMA(denoiser, [0.05, 0.10])
for nimg in range(64, 513, 64):
    ema.update(nimg, 64)
    for snapshot, tensors in ema.snapshots(nimg).items():
        write_snapshot(Path("store"), snapshot, tensors, list(ema.buffers))
write_manifest(Path("store"))
[(made, tensors)] = reconstruct(SnapshotStore(Path("store")), [0.07])
assert tensors.keys() == denoiser.state_dict().keys()
assert frechet_distance(np.zeros(3), np.eye(3), np.ones(3), np.eye(3)) == 3
"""


Run = subprocess.CompletedProcess[str]


def python(code: str, *options: str, cwd: Path = ROOT, path: Path = ROOT) -> Run:
    """Run code in a process of its own; edm2 is that of the repository."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, path)))},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("", {"torch", "numpy", "pydantic", "click"} | PIPELINE),
        (DENOISER, {"huggingface_hub"} | PIPELINE - {"PIL"}),  # codecs read images
        *(
            (COMMAND.format(arguments=arguments), {"torch", "numpy"} | PIPELINE)
            for arguments in (["--help"], ["--version"], ["sample", "--help"], ["params", "check"])
        ),
    ],
    ids=["import", "denoiser", "--help", "--version", "sample --help", "params check"],
)
def test_nothing_is_imported_without_need(code: str, unwanted: set[str]) -> None:
    report = f"import sys; print('imported', *{unwanted} & set(sys.modules))"
    done = python(f"import edm2\n{code}\n{report}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["imported"]


def required(requirements: Iterable[str]) -> set[str]:
    """Names of the installed packages that these requirements need, directly or not."""
    queue, visited = list(map(Requirement, requirements)), set[tuple[str, str]]()
    for requirement in queue:  # which grows
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras} - {e for n, e in visited if n == name}:
            visited.add((name, extra))
            queue += [
                dependency
                for dependency in map(Requirement, distribution(name).requires or ())
                if dependency.marker is None or dependency.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in visited}


def test_every_imported_package_is_declared() -> None:
    graph = grimp.build_graph("edm2", "stages", include_external_packages=True, cache_dir=None)
    external = {module for module in graph.modules if graph.is_module_squashed(module)}
    extras, owners = PROJECT["optional-dependencies"], packages_distributions()
    declared = required(PROJECT["dependencies"] + extras["pipeline"] + extras["sd"] + extras["hf"])
    for module in external - sys.stdlib_module_names:
        assert not declared.isdisjoint(map(canonicalize_name, owners[module])), module


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Run code where only the base packages are installed: links to them are the only site-packages."""
    packages = tmp_path_factory.mktemp("site-packages")
    for name in required(PROJECT["dependencies"]):
        files = distribution(name).files or ()
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution(name).locate_file(top))
    assert PIPELINE.isdisjoint(path.name for path in packages.iterdir())
    return lambda code, cwd: python(code, "-S", cwd=cwd, path=packages)


def test_the_library_and_its_commands_need_the_base_packages_alone(
    base: Callable[..., Run], tmp_path: Path
) -> None:
    commands = (
        ["params", "check", str(ROOT / "params.yaml")],
        ["model", "summary", "G", "XS"],
        ["ema", "list", "store"],
        ["ema", "verify", "store"],
        ["ema", "reconstruct", "store", "--lengths", "0.07", "--out", "averages"],
        ["verify", "store"],
    )
    code = LIBRARY + "".join(COMMAND.format(arguments=arguments) for arguments in commands)
    done = base(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments", [["compare", "first"], ["compare", "--vae", "first"], ["sample", "x.safetensors"]]
)
def test_other_commands_name_the_extra_that_they_need(
    base: Callable[..., Run], tmp_path: Path, arguments: list[str]
) -> None:
    project = make_project(tmp_path, {})
    done = base(f"from edm2.cli import main; main({arguments})", project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'edm2[pipeline]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """The wheel, built of a copy of the repository: a build leaves files where it runs."""
    pytest.importorskip("setuptools", minversion="77")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("edm2", "stages", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(built)!r})"
    done = python(build, cwd=source)
    assert done.returncode == 0, done.stderr
    [path] = built.glob("edm2-*.whl")
    return ZipFile(path)


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(wheel: ZipFile) -> None:
    files = {name for name in wheel.namelist() if not name.partition("/")[0].endswith(".dist-info")}
    assert files == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "edm2").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"edm2/py.typed", "edm2/reporting/page.css", "edm2/reporting/paper/configs.csv"} <= files


def test_the_wheel_declares_the_command_and_the_extras(wheel: ZipFile) -> None:
    [info] = {name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = PathDistribution(ZipPath(wheel, f"{info}/"))
    assert metadata.version == PROJECT["version"]
    assert [(e.name, e.value) for e in metadata.entry_points if e.group == "console_scripts"] == [
        ("edm2", "edm2.cli:main")
    ]
    assert set(metadata.metadata.get_all("Provides-Extra")) == {
        "pipeline",
        "sd",
        "hf",
        "hub",
        "notebook",
        "docs",
        "dev",
    }
    base = {Requirement(text) for text in metadata.requires or () if "extra ==" not in text}
    assert {requirement.name for requirement in base} == {
        Requirement(text).name for text in PROJECT["dependencies"]
    }
