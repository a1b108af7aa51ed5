"""What this server sees of a pool: its endpoints in the mesh, and the Envoys that were sent it.

Names of clusters are asked for: which a service has is the room's that makes them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.pool_status import Seen
from xds_server.mesh.model import Health
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE
from xds_server.xds.status import SyncState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from xds_server.mesh.mesh import Mesh
    from xds_server.mesh.status import EndpointStatus
    from xds_server.xds.hub import Hub

_TELLING = (Health.OK, Health.SUSPECT)
"""One that fails within its grace has told its models, and keeps them."""

Rejections = dict[str, dict[str, str]]
"""By cluster, what clients (by their ids) say who rejected a listener or routes that send to it."""


class PoolReporter:
    """Looks at the mesh and at the clients.

    Args:
        mesh: what is known.
        hub: the clients.
        clusters: the names of a service's clusters, by its host.
        patience: seconds that an Envoy may take to acknowledge before it counts as waiting: constant change
            would otherwise make a status that never rests.
    """

    def __init__(
        self, mesh: Mesh, hub: Hub, clusters: Callable[[str], Sequence[str]], *, patience: float = 3.0
    ) -> None:
        self._mesh = mesh
        self._hub = hub
        self._clusters = clusters
        self._patience = patience
        self._serials: list[tuple[float, int]] = []

    def begin(self) -> Rejections:
        """A round of reports begins: note which publication is old enough to be asked for by now."""
        now = self._hub.clock()
        self._serials.append((now, self._hub.serial))
        while len(self._serials) > 1 and self._serials[1][0] <= now - self._patience:
            self._serials.pop(0)
        return self._rejections()

    def report(self, host: str, generation: int, rejections: Rejections) -> Seen:
        """What is seen of the pool of a service, whose spec of `generation` is in force here."""
        if host not in self._mesh.services():
            return Seen(generation=generation)
        endpoints = self._mesh.status(host)
        picture = self._mesh.service(host)
        acknowledged, envoys, rejection = self._envoys(host, rejections)
        silent = [each for each in endpoints if each.health not in _TELLING]
        return Seen(
            generation=generation,
            endpoints=len(endpoints),
            ready=sum(1 for each in picture.endpoints if each.healthy),
            models=len({name for each in picture.endpoints for name in each.models}),
            known=len({model.name for each in endpoints for model in each.models}),
            telling=len(endpoints) - len(silent),
            envoys=envoys,
            acknowledged=acknowledged,
            rejection=rejection,
            failure=_failure(silent),
        )

    def _envoys(self, host: str, rejections: Rejections) -> tuple[int, int, str]:
        """How many Envoys have acknowledged, how many there are, and what one of them rejects."""
        serial = self._serials[0][1] if self._serials else self._hub.serial
        good: set[str] = set()
        bad: dict[str, str] = {}
        waiting: set[str] = set()
        for name in self._clusters(host):
            for type_url in (ENDPOINT, CLUSTER):
                progress = self._hub.progress(type_url, name, serial)
                good.update(progress.acknowledged)
                waiting.update(progress.waiting)
                bad |= dict(progress.rejected)
            bad |= rejections.get(name, {})
        everyone = good | waiting | bad.keys()
        text = "; ".join(f"{client}: {error}" for client, error in sorted(bad.items()))
        return len(good - waiting - bad.keys()), len(everyone), text

    def _rejections(self) -> Rejections:
        """Listeners and routes that clients reject, by the clusters that those routes send to."""
        found: Rejections = {}
        if not any(
            state is SyncState.ERROR and type_url in (LISTENER, ROUTE)
            for type_url, state in self._hub.standing()
        ):
            return found
        for client in self._hub.clients(with_names=False):
            routes: Mapping[str, object] = {}
            for each in client.types:
                if each.state is not SyncState.ERROR or each.type_url not in (LISTENER, ROUTE):
                    continue
                if client.node is not None and not routes:
                    routes = self._hub.view_of(client.node).of(ROUTE).resources
                for cluster in _clusters_of(routes, each.rejected_names):
                    found.setdefault(cluster, {})[client.id] = each.error
        return found


def _clusters_of(routes: Mapping[str, object], names: Iterable[str]) -> Iterable[str]:
    """The clusters that routes of these names wait for; a listener is called as its routes are."""
    for name in names:
        for type_url, cluster in getattr(routes.get(name), "requires", ()):
            if type_url == CLUSTER:
                yield cluster


def _failure(silent: Sequence[EndpointStatus]) -> str:
    """Why one of the silent endpoints does not tell: the first of them that has a reason."""
    for each in silent:
        if each.failure is not None:
            return f"{each.endpoint.id}: {each.failure.kind}: {each.failure.error}"
    return ""
