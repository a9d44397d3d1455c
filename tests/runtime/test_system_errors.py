"""Errors of the machine in the shapes that libraries give them; what is not read is not called damaged."""

import errno
import os
import resource
import signal
import sqlite3
import ssl

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from edm2.data.decoding import decode_image, is_image
from edm2.data.sources import tree
from edm2.data.tally import Tally
from edm2.params import UserError
from edm2.runtime import checkpoint, verification
from edm2.runtime.failures import report
from edm2.runtime.files import replacing
from edm2.runtime.manifest import write_manifest
from edm2.runtime.system_errors import AGAIN, SYSTEM_FIXES, explain, is_of_machine


def raised(call, *args):
    try:
        call(*args)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


@pytest.mark.parametrize("number", sorted(SYSTEM_FIXES))
def test_every_sentence_has_path_reason_and_way_out(number):
    text = explain(OSError(number, os.strerror(number), "/data/x"))
    assert text == f"/data/x: {os.strerror(number)}. {SYSTEM_FIXES[number]} {AGAIN}"


@pytest.fixture
def short_files():
    """Files that are opened within the test may have 100 bytes: writes fail within libraries."""
    handler, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.RLIMIT_FSIZE
    before = resource.getrlimit(limits)
    resource.setrlimit(limits, (100, before[1]))
    yield
    resource.setrlimit(limits, before)
    signal.signal(signal.SIGXFSZ, handler)


def numpy(path):
    with path.open("wb", buffering=0) as file:
        np.save(file, np.zeros(1000))


@pytest.mark.parametrize(
    "write",
    [
        numpy,
        lambda path: save_file({"a": torch.zeros(1000)}, path),
        lambda path: torch.save(torch.zeros(1000), path),
        lambda path: path.write_bytes(bytes(1000)),
    ],
    ids=["numpy", "safetensors", "torch", "python"],
)
def test_a_write_that_fails_within_a_library_names_the_file(tmp_path, short_files, write):
    path = tmp_path / "weights"

    def call():
        with replacing(path) as partial:
            write(partial)

    text = explain(raised(call))
    assert text.startswith(f"{path}: ")
    assert text.endswith(AGAIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("phrase", "code", "reason"),
    [
        ("database or disk is full", sqlite3.SQLITE_FULL, "No space left on device"),
        ("attempt to write a readonly database", sqlite3.SQLITE_READONLY, "Read-only file system"),
        ("unable to open database file", sqlite3.SQLITE_CANTOPEN, "Permission denied"),
    ],
)
def test_errors_of_sqlite_and_what_wraps_them(phrase, code, reason):
    error = sqlite3.OperationalError(phrase)
    error.sqlite_errorcode = code
    wrapped = type("MlflowException", (Exception,), {"__module__": "mlflow.exceptions"})
    by_text = wrapped(f"(sqlite3.OperationalError) {phrase}\n[SQL: INSERT]")
    by_cause = RuntimeError("cannot log")
    by_cause.__cause__ = error
    for each in (error, by_text, by_cause):
        assert f": {reason}. " in explain(each)


def test_a_real_error_of_sqlite(tmp_path):
    def call():
        sqlite3.connect(f"file:{tmp_path / 'no' / 'x.db'}?mode=rw", uri=True).execute("SELECT 1")

    assert "Permission denied" in explain(raised(call))


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 8 bytes. Error code 12 (Cannot allocate memory)",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "std::bad_alloc",
    ],
)
def test_memory_that_ran_out_is_named_with_its_way_out(text):
    sentence = explain(RuntimeError(text))
    assert sentence.startswith("not enough memory")
    assert "microbatch" in sentence


def test_errors_of_encryption_have_no_numbers_of_the_system():
    assert explain(ssl.SSLError(errno.EPERM, "certificate verify failed")) is None


def test_shared_memory_and_threads():
    text = "unable to open shared memory object </torch_1> in read-write mode: Too many open files (24)"
    assert "ulimit -n" in explain(RuntimeError(text))
    assert "ulimit -u" in explain(RuntimeError("can't start new thread"))


def call_damaged(error):
    try:
        raise error
    except OSError:
        raise UserError("net/model.safetensors: corrupted. Download it again.") from None


def test_a_file_that_the_machine_could_not_read_is_not_called_damaged(capsys, monkeypatch):
    monkeypatch.delenv("EDM2_TRACEBACK", raising=False)
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert report("edm2", raised(call_damaged, error)) == 2
    expected = f"edm2: net/model.safetensors: {os.strerror(errno.EMFILE)}. "
    assert capsys.readouterr().err.startswith(expected)
    missing = OSError(errno.ENOENT, "No such file")
    assert report("edm2", raised(call_damaged, missing)) == 2
    assert "Download it again" in capsys.readouterr().err


class Unreadable:
    """A file whose reading fails."""

    def __init__(self, error):
        self.error = error

    def read(self):
        raise self.error


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EMFILE, "x"), PermissionError(errno.EACCES, "x")]
)
def test_an_image_is_not_damaged_because_of_the_machine(error):
    with pytest.raises(type(error)):
        decode_image(Unreadable(error))


def test_files_are_not_left_out_because_of_the_machine(tmp_path, monkeypatch):
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(OSError, match="Too many"):
        tree.entries(str(tmp_path), "a", Tally())
    monkeypatch.setattr("PIL.Image.open", refuse)
    with pytest.raises(OSError, match="Too many"):
        is_image(tmp_path / "x.png")
    assert is_of_machine(error)


@pytest.mark.parametrize(("number", "is_damage"), [(errno.EIO, True), (errno.EMFILE, False)])
def test_results_and_checkpoints_are_damaged_only_by_errors_of_their_own(
    tmp_path, monkeypatch, number, is_damage
):
    def refuse(*args):
        raise OSError(number, os.strerror(number))

    (tmp_path / "a").write_text("a")
    write_manifest(tmp_path)
    checkpoint.save_tree(tmp_path / "checkpoint-1", {"a": torch.zeros(1)})
    monkeypatch.setattr(verification, "sha256", refuse)
    monkeypatch.setattr(checkpoint, "sha256", refuse)
    error = raised(checkpoint.load_tree, tmp_path / "checkpoint-1")
    assert isinstance(error, UserError) == is_damage
    if is_damage:
        assert len(verification.damaged_files([tmp_path], strict=True)) == 1
    else:
        with pytest.raises(OSError, match="Too many"):
            verification.damaged_files([tmp_path], strict=True)
    assert len(verification.damaged_files([tmp_path])) == 1  # as `edm2 verify` lists them
