"""Build the libraries in place of CUDA's, and the environment in which PyTorch finds them."""

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda_runtime.c")
HEADER = "cuda_runtime_api.h"


class Unavailable(Exception):
    """Fake CUDA tensors cannot be used here; the message says why."""


def environment(folder: Path) -> dict[str, str]:
    """This process's environment, with stubs that are built in `folder`: one device, and no driver.

    Raises:
        Unavailable: no compiler, or a PyTorch without CUDA.
    """
    preloaded = folder / "cuda_runtime.so"
    _compile(preloaded, SOURCE, *_headers())
    driver = folder / "driver.c"
    driver.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in _driver_symbols()))
    _compile(folder / "libcuda.so.1", driver)
    return {**os.environ, "LD_PRELOAD": str(preloaded), "LD_LIBRARY_PATH": str(folder)}


def _compile(library: Path, source: Path, *include: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("no C compiler (gcc) here")
    folders = [f"-I{folder}" for folder in include]
    command = [compiler, "-shared", "-fPIC", "-w", *folders, "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{source.name} does not compile: {done.stderr.strip()[-300:]}")


def _headers() -> list[Path]:
    """Folders of CUDA's headers in packages that PyTorch depends on; that of triton is complete."""
    specs = filter(None, map(find_spec, ("nvidia", "triton")))
    folders = (Path(folder) for spec in specs for folder in spec.submodule_search_locations or ())
    headers = [path.parent for folder in folders for path in folder.glob(f"**/{HEADER}")]
    if not headers:
        raise Unavailable(f"no {HEADER} in the packages nvidia and triton: PyTorch is without CUDA")
    return headers


def _driver_symbols() -> list[str]:
    """Functions of the driver's library that PyTorch is linked with."""
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    library = Path(spec.origin).parent / "lib/libcaffe2_nvrtc.so"
    if not library.exists():
        raise Unavailable("PyTorch is built without CUDA")
    if shutil.which("nm") is None:
        raise Unavailable("no nm (binutils) here")
    command = ["nm", "-D", "--undefined-only", str(library)]
    symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return sorted(set(re.findall(r"\b(cu[A-Z]\w*)", symbols)))
