"""Files that would run something when they are unpickled: they are refused by name, and nothing is run."""

import copyreg
import os
import pickle
import subprocess
from collections import OrderedDict

import numpy as np
import pytest
import torch
from ema.test_pickles import network
from published_pickles import Call, Persistent, zipped

from edm2.ema import pickles
from edm2.params import UserError
from edm2.runtime.pickle_records import Record


def tensor_over(saved):
    """A network with one tensor, whose storage is `saved`."""
    storage = Call(torch.storage._load_from_bytes, saved)
    net = Persistent()
    net._buffers["x"] = Call(torch._utils._rebuild_tensor_v2, storage, 0, (1,), (1,), False, {})
    return {"ema": net}


POSITIONS = {
    "all": lambda hostile: hostile,
    "ema": lambda hostile: {"ema": hostile},
    "beside": lambda hostile: {"ema": network(), "encoder": hostile},
    "argument": lambda hostile: {"ema": network(x=hostile)},
    "key": lambda hostile: {"ema": network(), hostile: 1},
    "OrderedDict": lambda hostile: {"ema": network(), "x": Call(OrderedDict, [("a", hostile)])},
    "array": lambda hostile: {"ema": network(), "x": np.array([hostile], dtype=object)},
    "storage": lambda hostile: tensor_over(pickle.dumps(hostile)),
    "zipped storage": lambda hostile: tensor_over(zipped(hostile)),
}
SYSTEM = f"{os.system.__module__}.system"
CALLS = {
    SYSTEM: lambda trace: Call(os.system, f"touch {trace}"),
    "builtins.eval": lambda trace: Call(eval, f"open({str(trace)!r}, 'w').close()"),
    "builtins.exec": lambda trace: Call(exec, f"open({str(trace)!r}, 'w').close()"),
    "builtins.getattr": lambda trace: Call(getattr, trace, "touch"),
    "subprocess.Popen": lambda trace: Call(subprocess.Popen, ["touch", str(trace)]),
    "torch.serialization.load": lambda trace: Call(torch.load, str(trace)),
}


def assert_refused(read, content, name):
    with pytest.raises(UserError, match=rf"network\.pkl: refused: .* {name}"):
        read(content)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_call_is_refused_in_every_position(read, tmp_path, position):
    trace = tmp_path / "trace"
    assert_refused(read, POSITIONS[position](CALLS[SYSTEM](trace)), SYSTEM)
    assert not trace.exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused_by_name(read, tmp_path, name, protocol):
    trace = tmp_path / "trace"
    hostile = pickle.dumps({"ema": CALLS[name](trace)}, protocol)
    assert_refused(read, hostile, name)
    assert not trace.exists()


@pytest.mark.parametrize("name", [SYSTEM, "builtins.eval", "builtins.exec", "subprocess.Popen"])
def test_these_calls_leave_a_trace_when_pickle_runs_them(tmp_path, name):
    """Otherwise the tests above could not fail."""
    trace = tmp_path / "trace"
    outcome = pickle.loads(pickle.dumps(CALLS[name](trace)))
    if isinstance(outcome, subprocess.Popen):
        outcome.wait()
    assert trace.exists()


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def stack_global(module, name):
    return text(module) + text(name) + b"\x93"


def entry(opcodes):
    """A pickle of a dict with one entry, made by these opcodes."""
    return b"\x80\x04}" + text("encoder") + opcodes + b"s."


POPEN = stack_global("subprocess", "Popen")
SEQUENTIAL = stack_global("torch.nn.modules.container", "Sequential")
ORDERED = stack_global("collections", "OrderedDict")
RECONSTRUCTOR = stack_global("copyreg", "_reconstructor")


@pytest.mark.parametrize(
    ("name", "opcodes"),
    [
        ("torch.nn.Module.__init__", stack_global("torch.nn", "Module.__init__")),
        ("collections.OrderedDict.fromkeys", stack_global("collections", "OrderedDict.fromkeys")),
        ("torch.serialization.os.system", stack_global("torch.serialization", "os.system")),
        ("builtins.object.__subclasses__", stack_global("builtins", "object.__subclasses__")),
        ("copyreg.__newobj__", stack_global("copyreg", "__newobj__")),
        ("copyreg.add_extension", stack_global("copyreg", "add_extension")),
        ("functools.partial", stack_global("functools", "partial")),
        ("torch.load", stack_global("torch", "load")),
        ("torch.nn.modules.container.os", stack_global("torch.nn.modules.container", "os")),
        (
            "subprocess.Popen",
            RECONSTRUCTOR + POPEN + stack_global("builtins", "object") + b"N\x87R",
        ),
        ("subprocess.Popen", POPEN + text("true") + b"\x85\x81"),  # NEWOBJ
        ("subprocess.Popen", POPEN + text("true") + b"\x85}\x92"),  # NEWOBJ_EX
        ("subprocess.Popen", b"(" + POPEN + text("true") + b"o"),  # OBJ
        ("subprocess.Popen", b"(" + text("true") + b"isubprocess\nPopen\n"),  # INST
        ("builtins.eval", b"c__builtin__\neval\n" + text("1") + b"\x85R"),
    ],
)
def test_globals_are_refused_by_name_in_every_opcode(read, name, opcodes):
    assert_refused(read, entry(opcodes), name)


@pytest.mark.parametrize("cached", [False, True])
def test_extension_numbers_are_refused_by_name(read, tmp_path, cached):
    code, trace = 0xF0, tmp_path / "trace"
    number = b"\x82" + bytes([code])
    copyreg.add_extension("os", "system", code)
    try:
        if cached:
            assert pickle.loads(b"\x80\x02" + number + b".") is os.system
        assert_refused(read, entry(number + text(f"touch {trace}") + b"\x85R"), "os.system")
    finally:
        copyreg.remove_extension("os", "system", code)
    assert not trace.exists()


def attributes_of_classes():
    """Everything that a file could try to change in the record classes."""
    classes = {**pickles.CLASSES, "Record": Record}
    return {name: dict(vars(record_class)) for name, record_class in classes.items()}


STATES = {
    "dict": b"}("
    + b"".join(
        text(name) + SEQUENTIAL
        for name in ("__class__", "__reduce__", "__setstate__", "global_name", "args")
    )
    + b"u",
    "slots": b"N}"
    + text("__class__")
    + SEQUENTIAL
    + b"s"
    + text("global_name")
    + text("x")
    + b"s\x86",
}


@pytest.mark.parametrize("state", STATES.values(), ids=STATES)
def test_state_changes_no_record_class(read, state):
    before = attributes_of_classes()
    with pytest.raises(UserError, match=r"holds no network: .*\['encoder'\]"):
        read(entry(ORDERED + b")R" + state + b"b"))  # an instance keeps it as data
    for record_class in (ORDERED, RECONSTRUCTOR, stack_global("torch.storage", "_load_from_bytes")):
        with pytest.raises(UserError, match="cannot be read"):
            read(entry(record_class + state + b"b"))
    assert attributes_of_classes() == before


@pytest.mark.parametrize(
    "opcodes",
    [
        b"}}" + text("a") + b"K\x01sb",  # BUILD on a dict
        ORDERED + b")RK\x01a",  # APPEND to a record
        SEQUENTIAL + b"K\x01K\x01s",  # SETITEM on a class
        ORDERED + b")R)R",  # REDUCE of a record
        RECONSTRUCTOR + RECONSTRUCTOR + b"NN\x87R",
        RECONSTRUCTOR + text("os") + b"NN\x87R",
        text("id") + b"Q",  # a persistent id
        b"\x97",  # an out-of-band buffer
        b"\x82\xf1",  # an unknown extension number
    ],
)
def test_invalid_opcodes_are_an_error(read, opcodes):
    with pytest.raises(UserError, match="cannot be read"):
        read(entry(opcodes))
