"""Which errors are explained, and how; streams that take any text."""

import errno
import io
import os
import shutil
import signal
import sys

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from edm2.params import UserError
from edm2.runtime import peers
from edm2.runtime.failures import prepare_streams, report
from edm2.runtime.files import replacing
from edm2.runtime.interruption import SIGNALS, Interrupted, raise_at_signals
from edm2.runtime.peers import LateRankError, Peers
from edm2.runtime.system_errors import explain


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
    assert report("stage", UserError("what is wrong")) == 2
    assert capsys.readouterr().err == "stage: what is wrong\n"
    monkeypatch.setenv("EDM2_TRACEBACK", "1")
    report("stage", UserError("what is wrong"))
    first, last = capsys.readouterr().err.splitlines()
    assert first.endswith("UserError: what is wrong")
    assert last == "stage: what is wrong"


def test_a_bug_has_its_traceback_and_status_1(capsys, monkeypatch):
    monkeypatch.delenv("EDM2_TRACEBACK", raising=False)
    assert report("stage", ValueError("x")) == 1
    assert capsys.readouterr().err == "ValueError: x\n"


def test_torchrun_gets_the_message(tmp_path, monkeypatch):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    path = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(path))
    report("stage", UserError("what is wrong"))
    assert ProcessFailure(0, 1, 2, str(path)).message == "stage: what is wrong"


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
    report("stage", UserError("what is wrong"))
    assert capsys.readouterr().err == "stage: what is wrong\n" * printed


@pytest.fixture
def two(monkeypatch):
    """Ranks 0 and 1 of a group; `report` is called by rank 1."""
    store = dist.HashStore()
    both = [Peers(store, rank, 2, timeout=0.004) for rank in (0, 1)]
    monkeypatch.setattr(peers, "GRACE", 0.01)
    monkeypatch.setattr(peers, "_current", both[1])
    return both


GLOO = "[gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4711"


@pytest.mark.parametrize(
    "error", [UserError("my own"), RuntimeError(GLOO), Interrupted(signal.SIGTERM), ValueError()]
)
def test_a_rank_that_fails_later_is_silent_and_ends_with_the_status_of_the_first(
    two, capsys, error
):
    assert two[0].is_first_to_fail()
    two[0].publish(138, "the first")
    assert report("stage", error) == 138
    assert capsys.readouterr().err == ""


def test_the_first_rank_that_fails_tells_the_others(two, capsys):
    assert report("stage", Interrupted(signal.SIGUSR1)) == 138
    assert capsys.readouterr().err.startswith("stage: stopped by SIGUSR1; ")
    assert two[0].first_failure().status == 138


def test_a_lost_connection_is_said_with_the_places_of_the_others_if_nobody_knows_why(two, capsys):
    assert report("stage", RuntimeError(f"{GLOO}\nmore")) == 1
    line = f"stage: rank 1: {GLOO}. rank 0 is silent.\n"
    assert capsys.readouterr().err == line
    assert two[0].first_failure().message + "\n" == line


def test_a_rank_that_does_not_arrive_is_named(two, capsys):
    report("stage", LateRankError("another rank has not arrived"))
    assert capsys.readouterr().err == (
        "stage: rank 1: another rank has not arrived. rank 0 is silent.\n"
    )


def test_the_launchers_signal_does_not_cut_the_message(two, capsys, monkeypatch):
    raise_at_signals()
    monkeypatch.setattr(
        two[1], "is_first_to_fail", lambda: os.kill(os.getpid(), signal.SIGTERM) or True
    )
    try:
        assert report("stage", UserError("what is wrong")) == 2
    finally:
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert capsys.readouterr().err == "stage: what is wrong\n"


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
