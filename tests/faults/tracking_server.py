"""A small MLflow server in this process, which answers as it should or as a fault says."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts/"
EXPERIMENT = "1"


class Server(ThreadingHTTPServer):
    """Keeps what it takes of one experiment and one run.

    Attributes:
        fault: answers a request instead of this server; None: it works.
        first: the number of the first request, from 1, that `fault` answers.
        requests: how many there were; `asked`: whether there was one.
        taken: what was logged, without repetitions.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault: Fault | None = None
        self.first = 1
        self.requests = 0
        self.taken: set[tuple[str, Any]] = set()
        self.run: dict[str, Any] | None = None
        self.asked, self.closing = threading.Event(), threading.Event()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Clients may go away at any time."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.requests += 1
        server.asked.set()
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if server.fault is not None and server.requests >= server.first:
            server.fault(self)
        else:
            self.answer(*self.work())

    do_POST = do_PATCH = do_PUT = do_GET

    def work(self) -> tuple[int, Any]:
        """Do what is asked; its answer."""
        parts = urlsplit(self.path)
        if parts.path.startswith(FILES):
            self.server.taken.add(("file", parts.path.rpartition("/")[2]))
            return 200, {}
        query = {key: value[0] for key, value in parse_qs(parts.query).items()}
        name = parts.path.removeprefix(API).replace("/", "_").replace("-", "_")
        method = getattr(self, name, None) if parts.path.startswith(API) else None
        if method is None:
            return 404, {"error_code": "ENDPOINT_NOT_FOUND", "message": parts.path}
        return method({**query, **(json.loads(self.body) if self.body else {})})

    def answer(self, status: int, tree: Any) -> None:
        self.send(status, json.dumps(tree).encode(), "application/json")

    def send(self, status: int, body: bytes, kind: str = "text/html", **headers: str) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass

    # What MLflow's client asks for

    def experiments_get_by_name(self, _: Any) -> tuple[int, Any]:
        location = "mlflow-artifacts:/1"
        return 200, {
            "experiment": {
                "experiment_id": EXPERIMENT, "name": "tests", "lifecycle_stage": "active",
                "artifact_location": location,
            }
        }  # fmt: skip

    experiments_get = experiments_get_by_name

    def experiments_set_experiment_tag(self, _: Any) -> tuple[int, Any]:
        return 200, {}

    def runs_search(self, _: Any) -> tuple[int, Any]:
        return 200, {"runs": [self.server.run] if self.server.run else []}

    def runs_create(self, _: Any) -> tuple[int, Any]:
        run_id = f"{self.server.server_port:032d}"
        info = {
            "run_id": run_id, "run_uuid": run_id, "experiment_id": EXPERIMENT, "status": "RUNNING",
            "lifecycle_stage": "active", "artifact_uri": f"mlflow-artifacts:/1/{run_id}",
        }  # fmt: skip
        self.server.run = {"info": info, "data": {}}
        return 200, {"run": self.server.run}

    def runs_get(self, _: Any) -> tuple[int, Any]:
        if self.server.run is None:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
        return 200, {"run": self.server.run}

    def runs_update(self, request: Any) -> tuple[int, Any]:
        assert self.server.run is not None
        self.server.run["info"]["status"] = request["status"]
        return 200, {"run_info": self.server.run["info"]}

    def runs_log_batch(self, request: Any) -> tuple[int, Any]:
        for kind in ("metrics", "params", "tags"):
            for item in request.get(kind, ()):
                self.server.taken.add((kind, json.dumps(item, sort_keys=True)))
        return 200, {}

    def runs_log_inputs(self, request: Any) -> tuple[int, Any]:
        for item in request["datasets"]:
            self.server.taken.add(("datasets", item["dataset"]["name"]))
        return 200, {}


Fault = Callable[[Handler], None]


def status(number: int, **headers: str) -> Fault:
    return lambda handler: handler.send(number, b"<h1>Sorry</h1>", **headers)


def content(body: bytes, kind: str = "application/json") -> Fault:
    return lambda handler: handler.send(200, body, kind)


def raw(data: bytes) -> Fault:
    """Send bytes as they are, and close the connection."""

    def act(handler: Handler) -> None:
        handler.close_connection = True
        handler.wfile.write(data)

    return act


def lost(handler: Handler) -> None:
    """Do what is asked, and close the connection without an answer."""
    handler.close_connection = True
    handler.work()


def never(handler: Handler) -> None:
    """Answer nothing until the server is closed."""
    handler.close_connection = True
    handler.server.closing.wait(60)


def drip(handler: Handler) -> None:
    """Send a byte of an endless body after another, so that no single read waits long."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{")
    with suppress(OSError):
        while not handler.server.closing.wait(0.1):
            handler.wfile.write(b" ")


def loop(handler: Handler) -> None:
    handler.send(302, b"", Location=handler.path)


def elsewhere(handler: Handler) -> None:
    handler.send(302, b"", Location="http://127.0.0.1:1/login")


LENGTH = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENTRY = {"experiment": {"experiment_id": "", "name": "tests"}}
FAULTS: dict[str, Fault] = {
    "400": status(400),
    "401": status(401),
    "403": status(403),
    "404": status(404),
    "429": status(429),
    "429 for an hour": status(429, Retry_After="3600"),
    "500": status(500),
    "503": status(503),
    "503 for an hour": status(503, Retry_After="3600"),
    "HTML": content(b"<h1>Log in</h1>", "text/html"),
    "no JSON": content(b"\xff\xfe{"),
    "nothing": content(b""),
    "an empty object": content(b"{}"),
    "a list": content(b"[]"),
    "null": content(b"null"),
    "a number": content(b"1"),
    "other fields": content(b'{"experiment": 7, "run": [], "runs": {}}'),
    "empty names": content(json.dumps({**ENTRY, "run": {"info": {"run_id": ""}}}).encode()),
    "nested JSON": content(b"[" * 100_000),
    "an error without a message": lambda handler: handler.answer(400, {"error_code": "X"}),
    "an error that is a list": lambda handler: handler.answer(500, ["error"]),
    "garbage": raw(b"\x00\x01SSH-2.0\r\n\r\n"),
    "an alert of TLS": raw(b"\x15\x03\x01\x00\x02\x02\x46"),
    "closed at once": raw(b""),
    "done, and closed": lost,
    "truncated": raw(LENGTH + b'{"run'),
    "truncated chunks": raw(CHUNKED + b"1000\r\nabc"),
    "a status line alone": raw(b"HTTP/1.1 200"),
    "a long header": raw(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000),
    "never": never,
    "drip": drip,
    "302 loop": loop,
    "302 elsewhere": elsewhere,
}


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def listening() -> Iterator[str]:
    """A server that accepts connections, as the system does for it, and reads nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
