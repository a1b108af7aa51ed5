"""How a route's requests name their model: what the pools say, and the headers that the route itself maps."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from xds_server.mesh.model import Protocol
from xds_server.mesh.pools import DEFAULT_MODEL_HEADER
from xds_server.mesh.request import Naming
from xds_server.mesh.routing import HeaderToKey

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.mesh.model import Service
    from xds_server.mesh.pools import Pool
    from xds_server.mesh.routing import Route


def with_names(route: Route, pools: Mapping[str, Pool], services: Mapping[str, Service]) -> Route:
    """Fill in how a route to pools names its model; other routes come back as they are.

    A route that maps no header gets the default one. A header that a route maps to a pool's key comes
    before the pool's own; a route that maps others only does not ask for models at all.
    """
    hosts = {destination.host for destination in route.destinations}
    used = [pools[host] for host in sorted(hosts) if host in pools]
    if not used:
        return route
    keys = tuple(sorted({pool.subset_key for pool in used}))
    if not route.header_to_key:
        route = replace(
            route,
            header_to_key=tuple(HeaderToKey(DEFAULT_MODEL_HEADER, key) for key in keys),
            headers_implied_by=tuple(sorted(pool.name for pool in used)),
        )
        mapped = []
    else:
        keys = tuple(sorted({each.key for each in route.header_to_key} & set(keys)))
        mapped = [each.header for each in route.header_to_key if each.key in keys]
    if not keys:
        return route
    names = used[0].request
    headers = tuple(dict.fromkeys([*mapped, *names.headers]))
    return replace(
        route,
        naming=Naming(
            replace(names, headers=headers),
            keys,
            transcode=_speak_grpc(route, services),
            further=used[0].names,
            others=tuple((pool.host, pool.names) for pool in used if pool.names != used[0].names),
            misses=used[0].misses,
            hosts=tuple(pool.host for pool in used),
            renames=any(pool.renames for pool in used),
        ),
    )


def _speak_grpc(route: Route, services: Mapping[str, Service]) -> bool:
    """Whether all replicas behind a route take gRPC only, as their ports' protocol says."""
    ports = [
        services[each.host].port(each.port) if each.host in services else None for each in route.destinations
    ]
    return all(port is not None and port.protocol is Protocol.GRPC for port in ports)
