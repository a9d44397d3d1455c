"""Attempts to deliver what a run has logged, with a server that breaks."""

from functools import partial

from campaign import Tally
from tracking_server import FAULTS, Server, serving

from edm2.runtime.delivery import __main__ as process
from edm2.runtime.delivery.deliver import Deliverer
from edm2.runtime.delivery.outbox import Outbox

DATASET = {"name": "digits", "digest": "1", "source_type": "local", "source": "x"}
DATASET |= {"schema": "{}", "profile": "{}", "context": "training"}


class Attempts:
    """What the process of a run says in attempts to deliver it."""

    def __init__(self, root, monkeypatch):
        self.root, self.lines, self.tally = root, [], Tally()
        monkeypatch.setattr(process, "_send", lambda kind, text="": self.lines.append((kind, text)))

    def outbox(self, name, uri):
        """Of a run with everything that runs log."""
        outbox = Outbox(self.root / ".state" / "s" / name)
        outbox.folder.mkdir(parents=True)
        tracking = {"uri": uri, "experiment": "tests"}
        outbox.open({"name": "s G", "tags": {}, "tracking": tracking})
        outbox.add_status("RUNNING")
        outbox.add(params={"a": "1"})
        outbox.add_datasets([DATASET])
        (outbox.folder / "a.json").write_text("{}")
        outbox.add_artifact(outbox.folder / "a.json")
        for nimg in range(3):
            outbox.add_metrics(nimg, {"loss": 0.5})
        outbox.add_status("FINISHED")
        return outbox

    def deliver(self, outbox):
        self.lines.clear()
        return process._attempt(Deliverer(self.root, print), outbox)

    def fail(self, name, outbox):
        """Count an attempt that fails."""
        self.tally.tried += 1
        done = self.deliver(outbox)
        failures = [text for kind, text in self.lines if kind == process.FAILED]
        if done or len(failures) != 1 or not failures[0].isprintable() or len(failures[0]) > 300:
            self.tally.failed.append(f"{name}: {done} {failures}")
        else:
            self.tally.explained += 1

    def complete(self, name, outbox, is_complete):
        """Count one that then delivers everything."""
        if self.deliver(outbox) and not outbox.is_pending and is_complete():
            self.tally.same += 1
        else:
            self.tally.failed.append(f"{name}: not complete: {self.lines}")

    def check(self, kind, record):
        record(self.tally.row(kind))
        assert self.tally.failed == []
        assert self.tally.tried == self.tally.same == self.tally.explained


def has_all(server: Server) -> bool:
    kinds = sorted(kind for kind, _ in server.taken)
    return (kinds, server.run["info"]["status"]) == (
        ["datasets", "file", "metrics", "metrics", "metrics", "params"],
        "FINISHED",
    )


def break_from(attempts, name, number):
    """Deliver to a server that breaks before the request of this number, and comes back."""
    with serving() as server:
        outbox = attempts.outbox(f"{name} {number}", server.uri)
        server.fault, server.first = FAULTS[name], number
        attempts.fail(f"{name}, request {number}", outbox)
        server.fault = None
        attempts.complete(f"{name}, request {number}", outbox, partial(has_all, server))
