"""Which errors are explained, and how; streams that take any text."""

import errno
import io
import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file

from edm2.runtime.failures import explain, prepare_streams, print_traceback, report_to_launcher
from edm2.runtime.files import replacing


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "Free space"),
        (errno.EROFS, "can be written"),
        (errno.EACCES, "permissions"),
        (errno.ENAMETOOLONG, "shorter path"),
        (errno.ENOENT, "Restore it"),
    ],
)
def test_a_system_error_is_told_with_path_reason_and_fix(number, fix):
    text = explain(OSError(number, os.strerror(number), "/data/x"))
    assert text is not None
    assert text.startswith(f"/data/x: {os.strerror(number)}. ")
    assert fix in text


def test_writers_without_a_path_are_told_with_the_file_that_was_written(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(OSError) as error, replacing(path):  # noqa: PT011
        raise OSError(errno.ENOSPC, "No space left on device")
    assert explain(error.value).startswith(f"{path}: No space left")


def test_errors_of_safetensors_are_system_errors(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(Exception) as error, replacing(path) as temporary:  # noqa: PT011
        save_file({"a": torch.zeros(1)}, temporary / "nowhere")
    assert explain(error.value).startswith(f"{path}: No such file")


def test_copies_of_folders_are_system_errors():
    reason = "[Errno 28] No space left on device: 'b'"
    assert "No space left" in explain(shutil.Error([("a", "b", reason)]))


class OutOfMemoryError(RuntimeError): ...


@pytest.mark.parametrize(
    ("error", "mentions"),
    [
        (OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nMore"), ["2 GiB", "microbatch"]),
        (MemoryError(), ["memory", "microbatch"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ["microbatch"]),
        (ModuleNotFoundError("No module", name="no_such_package.x"), ["no_such_package", "pip"]),
    ],
)
def test_other_errors_of_the_surroundings_are_one_line(error, mentions):
    text = explain(error)
    assert "\n" not in text
    assert [part for part in mentions if part not in text] == []


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("a bug"),
        ValueError("[Errno 28] in a text"),
        OSError("without a number"),
        ModuleNotFoundError("an incompatible version", name="numpy.no_such_module"),
        AttributeError("a bug"),
    ],
)
def test_bugs_are_not_explained(error):
    assert explain(error) is None


def test_a_failed_compilation_names_the_compiler_and_the_param():
    kind = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})
    text = explain(kind("No working C++ compiler found\nSet TORCHDYNAMO_VERBOSE=1"))
    assert "runtime.compile" in text
    assert "No working C++ compiler found)" in text
    assert "g++" in text
    assert "\n" not in text


def test_the_environment_asks_for_tracebacks(capsys, monkeypatch):
    monkeypatch.delenv("EDM2_TRACEBACK", raising=False)
    print_traceback(ValueError("x"))
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("EDM2_TRACEBACK", "1")
    print_traceback(ValueError("x"))
    assert "ValueError: x" in capsys.readouterr().err


def test_torchrun_gets_the_message(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    report_to_launcher("what is wrong")
    assert json.loads(path.read_text())["message"] == "what is wrong"
    assert ProcessFailure(0, 1, 2, str(path)).message == "what is wrong"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_text_can_be_printed(monkeypatch, encoding):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding))
    prepare_streams()
    print("σ\udce9", flush=True)
    expected = "σ" if encoding == "utf-8" else r"\u03c3"
    assert buffer.getvalue().decode(encoding) == rf"{expected}\udce9" + "\n"


def test_a_closed_stream_takes_text(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    prepare_streams()
    print("text", flush=True)
    sys.stdout.close()
