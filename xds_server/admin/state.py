"""What the admin port is given to read, and the one thing that it may set going: moves."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from xds_server.config.problems import Problem
    from xds_server.mesh.mesh import Mesh
    from xds_server.moves.mover import Mover
    from xds_server.resources.service_state import ServiceState
    from xds_server.sources.kubernetes.source import KubernetesStatus
    from xds_server.sources.modelmesh.source import Reader
    from xds_server.sources.reports.source import Reporter
    from xds_server.xds.hub import Hub


class Files(Protocol):
    """The source that reads the directory of documents."""

    @property
    def directory(self) -> Path | str:
        """Where the documents are."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was wrong at the last load; empty when it succeeded."""

    @property
    def loaded_at(self) -> float | None:
        """When the configuration in force was loaded, in seconds since the epoch."""

    @property
    def reloads_ok(self) -> int:
        """Loads that succeeded, the first one included."""

    @property
    def reloads_failed(self) -> int:
        """Loads that were refused."""


class Publishing(Protocol):
    """The publisher, as far as its figures go."""

    @property
    def publications(self) -> int:
        """How many catalogs were published."""

    @property
    def last_duration(self) -> float:
        """Seconds that the last publication took."""

    @property
    def spaced(self) -> int:
        """How often a changed cluster was left out of a publication because it rests."""


class Polling(Protocol):
    """The poller, as far as its figures go."""

    @property
    def polls(self) -> int:
        """Polls that ended, with an answer or without."""

    @property
    def failures(self) -> int:
        """Polls that ended without an answer."""


class SecondLooks(Protocol):
    """Polls that replicas' own answers gave rise to, as far as their figures go."""

    @property
    def answers(self) -> Mapping[str, int]:
        """Times that Envoys were answered "not found", by who answered."""

    @property
    def looks(self) -> int:
        """Polls that were asked for."""


class Handshakes(Protocol):
    """What came of the TLS handshakes of the xDS port."""

    @property
    def begun(self) -> int:
        """Handshakes begun."""

    @property
    def connections(self) -> int:
        """Connections that carried a call."""


class TlsFiles(Protocol):
    """The certificates of the xDS port."""

    @property
    def handshakes(self) -> Handshakes:
        """What came of the handshakes."""

    @property
    def problem(self) -> str:
        """What was wrong at the last load; empty when it succeeded."""

    @property
    def expires_at(self) -> float | None:
        """When the server's certificate in force ends, in seconds since the epoch."""

    @property
    def reloads_ok(self) -> int:
        """Loads that succeeded, the first one included."""

    @property
    def reloads_failed(self) -> int:
        """Loads that were refused."""


class ClientsFile(Protocol):
    """The list of clients."""

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was wrong at the last load; empty when it succeeded."""


class Cluster(Protocol):
    """The Kubernetes cluster that is followed."""

    def status(self) -> KubernetesStatus:
        """How each watch stands, and what is missing."""


class Readiness(Protocol):
    """Whether clients are answered."""

    @property
    def ready(self) -> bool:
        """True after the first sync, until the stop."""

    @property
    def reason(self) -> str:
        """Why not, in words."""

    @property
    def started_at(self) -> float:
        """When the process began, in seconds since the epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminState:
    """All that the admin port reads. `clock`: seconds since the epoch.

    `made_of` tells what was made of a service for Envoy.
    `certificates` is None on a plain text port, `clients` where everyone may connect, `kubernetes` where no
    cluster is followed.
    """

    mesh: Mesh
    hub: Hub
    mover: Mover
    files: Files
    publisher: Publishing
    poller: Polling
    readiness: Readiness
    second_look: SecondLooks
    made_of: Callable[[str], ServiceState | None] = lambda _host: None
    certificates: TlsFiles | None = None
    clients: ClientsFile | None = None
    kubernetes: Cluster | None = None
    registries: Callable[[], tuple[Reader, ...]] = tuple
    reporters: Callable[[], tuple[Reporter, ...]] = tuple
    metrics_per_client: bool = False
    clock: Callable[[], float] = time.time
