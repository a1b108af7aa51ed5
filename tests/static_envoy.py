"""A real Envoy that serves a catalog without an xDS server, and upstreams that say who they are."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xds_server.resources.validate import static_bootstrap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.resources.views import ViewCatalog
    from xds_server.xds.model import Node

ENVOY = str(Path(sys.executable).with_name("envoy"))
LIMIT = 20.0


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Upstream:
    """Answers every request with its name and the path that it saw; `headers` are what it adds."""

    def __init__(self, name: str) -> None:
        self.headers: dict[str, str] = {}
        headers = self.headers

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # headers and body in one packet: no waiting for a delayed ACK

            def do_GET(self) -> None:
                body = json.dumps([name, self.path]).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                for each in headers.items():
                    self.send_header(*each)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name=f"upstream-{name}")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _until_listening(port: int) -> None:
    """Envoy says that it starts its workers before these listen, and nothing when they do."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


class StaticEnvoy:
    """One Envoy process; `output` is what it wrote, access log included."""

    def __init__(self, catalog: ViewCatalog, node: Node, directory: Path) -> None:
        document = static_bootstrap(catalog.snapshot_for(node), node)
        path = directory / "static.json"
        path.write_text(json.dumps(document))
        self.output: list[str] = []
        self._logged = threading.Condition()
        self._process = subprocess.Popen(
            [
                ENVOY,
                "-c",
                str(path),
                "--disable-hot-restart",
                "--concurrency",
                "1",
                "--file-flush-interval-msec",
                "50",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, name="envoy-output")
        self._reader.start()
        try:
            self.wait_for("starting workers")
            for listener in document["static_resources"]["listeners"]:
                _until_listening(listener["address"]["socket_address"]["port_value"])
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._logged:
                self.output.append(line)
                self._logged.notify_all()

    def wait_for(self, text: str) -> str:
        """The first line of output that contains `text`."""

        def found() -> str | None:
            return next((line for line in self.output if text in line), None)

        with self._logged:
            line = self._logged.wait_for(found, LIMIT)
        if line is None:
            raise AssertionError(f"Envoy never wrote {text!r}:\n{''.join(self.output)}")
        return line

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(LIMIT)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


def get(
    port: int, headers: Mapping[str, str] | None = None, path: str = "/v2/models/m/infer", tls: Any = None
) -> tuple[int, str, str]:
    """Status, the upstream's name, and the path that it saw."""
    connection = (
        http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        if tls is None
        else http.client.HTTPSConnection("127.0.0.1", port, timeout=LIMIT, context=tls)
    )
    try:
        connection.putrequest("GET", path)
        for name, value in (headers or {}).items():
            connection.putheader(name, value.encode())
        connection.endheaders()
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    name, seen = json.loads(body) if response.status == 200 else ("", "")
    return response.status, name, seen


def spread(port: int, headers: Mapping[str, str] | None = None, count: int = 12) -> dict[str, int]:
    """How often each upstream answered, or each status that was not 200."""
    answers = (get(port, headers) for _ in range(count))
    return dict(Counter(name or str(status) for status, name, _ in answers))
