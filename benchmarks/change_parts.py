"""What one change costs in each of the server's parts, without gRPC: microseconds of CPU, medians.

One model comes on one more endpoint, or goes again; C delta clients accept everything, in the process.

    python -m benchmarks.change_parts [--endpoints 1000] [--per-endpoint 20] [--models 5000] [--layout auto]
        [--clients 100] [--changes 60]
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from math import inf
from typing import TYPE_CHECKING

from benchmarks.fleet import HOST, Fleet
from xds_server import logs
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.mesh import Mesh
from xds_server.publisher import Publisher
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.transport.encoder import SharedEncoder
from xds_server.xds.hub import Hub
from xds_server.xds.messages import DeltaRequest, Variant
from xds_server.xds.model import CLUSTER, ENDPOINT, Node

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.xds.session import Session

WARM_UP = 5


class Parts:
    """The server's parts over a fleet, with a clock around each."""

    def __init__(self, options: argparse.Namespace) -> None:
        layout = PoolLayout(LayoutKind(options.layout))
        sizes = options.endpoints, options.per_endpoint, options.models
        self.fleet = Fleet(*sizes, layout=layout, covering=True)
        self.mesh = Mesh()
        self.hub = Hub(time.monotonic)
        self.builder = Builder(BuildOptions(access_log=False))
        self.publisher = Publisher(self.mesh, self.builder, self.hub, share=inf)
        self.encoder = SharedEncoder(self.hub)
        self.spent: dict[str, float] = {}
        self.mesh.apply(self.fleet.configuration())
        for report in self.fleet.reports(range(options.endpoints)):
            self.mesh.apply(report)
        self.publisher.start()
        self.sessions = [self._client(number) for number in range(options.clients)]
        gc.freeze()  # as serve does
        for part, owner, name in (
            ("settle", self.mesh, "take_dirty"),
            ("build", self.builder, "build"),
            ("publish", self.hub, "publish"),
        ):
            setattr(owner, name, self._timed(part, getattr(owner, name)))

    def change(self, number: int) -> dict[str, float]:
        """Make one change; seconds of CPU by part. `settle`: of the mesh's picture."""
        self.fleet.toggle(number)
        reports = list(self.fleet.reports([self.fleet.toggled]))
        self.spent = {}
        begun = time.process_time()
        for report in reports:
            self.mesh.apply(report)
        self.spent["apply"] = time.process_time() - begun
        self.publisher.flush()
        published = time.process_time()
        for session in self.sessions:
            self._settle(session)
        ended = time.process_time()
        return {**self.spent, "sessions": ended - published, "all": ended - begun}

    def _client(self, number: int) -> Session:
        session = self.hub.open(Variant.DELTA, None, "peer", lambda: None)
        session.receive(DeltaRequest(type_url=CLUSTER, node=Node(f"{number}", "gateway")))
        self._settle(session)
        session.receive(DeltaRequest(type_url=ENDPOINT, subscribe=self.builder.assignments(HOST)))
        self._settle(session)
        return session

    def _settle(self, session: Session) -> None:
        while responses := session.take():
            for response in responses:
                self.encoder.encode(response)
                session.receive(DeltaRequest(type_url=response.type_url, response_nonce=response.nonce))

    def _timed(self, part: str, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object, **named: object) -> object:
            begun = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.spent[part] = self.spent.get(part, 0.0) + time.process_time() - begun

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--per-endpoint", type=int, default=20)
    parser.add_argument("--models", type=int, default=5000)
    parser.add_argument("--layout", choices=[each.value for each in LayoutKind], default="auto")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--changes", type=int, default=60)
    options = parser.parse_args()
    logs.configure(level="error", as_json=True)
    parts = Parts(options)
    found = [parts.change(number) for number in range(1, options.changes + WARM_UP + 1)][WARM_UP:]
    clusters = len(parts.builder.assignments(HOST))
    print(
        f"{options.endpoints} endpoints of {options.per_endpoint}, {options.models} models, "
        f"{options.clients} clients, layout {options.layout}: "
        f"{clusters} clusters; load {os.getloadavg()[0]:.1f}"
    )
    for part in found[0]:
        print(f"  {part}: {1e6 * statistics.median(each[part] for each in found):.0f} us")


if __name__ == "__main__":
    main()
