"""`edm2 track sync` delivers what waits, and says what cannot be delivered."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edm2.runtime.delivery import deliver
from edm2.runtime.delivery.outbox import Outbox
from edm2.runtime.locks import exclusive


class Deliverer:
    """The store `silent` does not answer, `broken` answers with errors, others take everything."""

    attempts: dict[str, int]

    def __init__(self, root: Path, say: object, upload: object) -> None:
        Deliverer.attempts = {}

    def deliver(self, outbox: Outbox) -> Iterator[int]:
        uri = outbox.description["tracking"]["uri"]
        self.attempts[uri] = self.attempts.get(uri, 0) + 1
        if uri == "silent":
            raise TimeoutError("timed out")
        if uri == "broken":
            raise ValueError("no such table")
        assert list(outbox.entries())
        yield 2
        yield 3


@pytest.fixture
def add_run(empty_project, monkeypatch: pytest.MonkeyPatch):
    """add_run(name, store) adds a run that has something for a store."""
    root = empty_project({})
    monkeypatch.setattr(deliver, "Deliverer", Deliverer)

    def add(name: str, store: str) -> Outbox:
        folder = root / ".state" / "s" / name
        folder.mkdir(parents=True)
        outbox = Outbox(folder)
        outbox.open({"tracking": {"uri": store}})
        outbox.add_status("FINISHED")
        return outbox

    return add


def test_nothing_waits(add_run, run) -> None:
    result = run("track", "sync")
    assert (result.status, result.out) == (0, "Everything is delivered.\n")


def test_what_waits_is_delivered(add_run, run) -> None:
    add_run("a", "good")
    result = run("track", "sync")
    assert (result.status, result.out) == (0, ".state/s/a: 5 values and files delivered.\n")


def test_what_cannot_be_delivered_is_said(add_run, run) -> None:
    """A store that does not answer is waited for once, one that answers with an error is tried again."""
    for name, store in ("abcde", "silent"), ("fg", "broken"), ("h", "good"):
        for letter in name:
            add_run(letter, store)
    result = run("track", "sync")
    *lines, gone = result.out.splitlines()
    assert gone.startswith("If a server is gone for good: remove run.json, outbox.jsonl and ")
    assert result.status == 1
    assert "a: " in lines[0]
    assert "timed out" in lines[0]
    assert [line for line in lines if "silent: " in line] == lines[:5]
    assert ["no such table" in line for line in lines[5:]] == [True, True, False]
    assert Deliverer.attempts == {"silent": 1, "broken": 2, "good": 1}


def test_a_run_that_goes_on_delivers_its_own(add_run, run) -> None:
    outbox = add_run("a", "good")
    with exclusive(outbox.folder.with_name("a.lock")):
        assert run("track", "sync").out == "Everything is delivered.\n"


@pytest.mark.parametrize("name", ["run.json", "outbox.jsonl"])
@pytest.mark.parametrize("content", [b"", b"{\n", b"\xff\n", b"[]\n", b'{"status": "FINISHED"}\n'])
def test_a_damaged_run_holds_no_other_up(add_run, run, content: bytes, name: str) -> None:
    path = add_run("a", "good").folder / name
    path.write_bytes(
        content + path.read_bytes().replace(b"FINISHED", b"KILLED").replace(b"good", b"goad")
    )
    add_run("b", "good")
    result = run("track", "sync")
    damaged, delivered = result.out.splitlines()
    assert result.status == 1
    assert damaged.startswith(f".state/s/a: cannot be delivered now ({path}: ")
    assert "Remove run.json, outbox.jsonl and delivered.json" in damaged
    assert delivered == ".state/s/b: 5 values and files delivered."


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"x": 1}'])
def test_a_damaged_receipt_is_none(add_run, run, content: bytes) -> None:
    (add_run("a", "good").folder / "delivered.json").write_bytes(content)
    assert run("track", "sync").out == ".state/s/a: 5 values and files delivered.\n"
