"""Which errors are explained, and how; streams that take any text."""

import errno
import io
import os
import shutil
import signal
import sys

import pytest
import torch
from safetensors.torch import save_file

from edm2.runtime.failures import explain, prepare_streams, report
from edm2.runtime.files import replacing
from edm2.runtime.interruption import Interrupted


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
        (
            RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
            ["runtime.workers", "/dev/shm", "pid(s) 7"],
        ),
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
    report("what is wrong", ValueError("x"))
    assert capsys.readouterr().err == "what is wrong\n"
    monkeypatch.setenv("EDM2_TRACEBACK", "1")
    report("what is wrong", ValueError("x"))
    assert capsys.readouterr().err.splitlines() == ["ValueError: x", "what is wrong"]


def test_torchrun_gets_the_message(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    report("what is wrong", ValueError("x"))
    assert ProcessFailure(0, 1, 2, str(path)).message == "what is wrong"


@pytest.mark.parametrize(
    ("rank", "ending", "printed"),
    [
        ("0", None, True),
        ("1", Interrupted(signal.SIGTERM), False),
        ("1", KeyboardInterrupt(), False),
        ("1", None, True),
    ],
)
def test_the_main_process_says_what_is_wrong_and_others_only_if_nobody_ends_them(
    monkeypatch, capsys, rank, ending, printed
):
    def sleep(seconds):
        assert rank != "0"
        if ending is not None:
            raise ending

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("time.sleep", sleep)
    report("what is wrong", ValueError("x"))
    assert capsys.readouterr().err == "what is wrong\n" * printed


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
