"""What becomes of a request: route, model, holders, misses, and which Envoys have all of that already.

The answer is a document of plain values, which the admin port sends as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.router.cluster_specifiers.lua.v3 as lua_clusters

from xds_server.explain.naming import Named, named, settings_of
from xds_server.explain.request import normalised
from xds_server.explain.routing import Taken, domains, taken
from xds_server.explain.targets import Target, meant
from xds_server.mesh.misses import Choice
from xds_server.mesh.names import NO_NAMES
from xds_server.mesh.policies import Fallback
from xds_server.mesh.routing import MESH_GATEWAY
from xds_server.resources import names
from xds_server.resources.balancing import fallback_of, without_criteria
from xds_server.resources.shards import shard_of
from xds_server.resources.views import SIDECAR_CLUSTER
from xds_server.xds.model import CLUSTER, ENDPOINT, ROUTE, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds_server.explain.request import Request
    from xds_server.mesh.mesh import Mesh
    from xds_server.mesh.model import ServicePicture
    from xds_server.mesh.status import EndpointStatus
    from xds_server.xds.hub import Hub
    from xds_server.xds.model import Resource


class UnexplainableError(ValueError):
    """There is nothing to explain: no listener, or several of which one must be named."""


@dataclass(frozen=True, slots=True)
class Known:
    """All that an answer is made from. `now` in seconds since the epoch."""

    mesh: Mesh
    hub: Hub
    now: float


def explain(known: Known, request: Request) -> dict[str, Any]:
    """Say what becomes of a request.

    Raises:
        UnexplainableError: it is not clear, or nowhere, who takes it.
    """
    request = replace(request, path=normalised(request.path))
    resource = _routes_for(known, request.port)
    configuration = route_v3.RouteConfiguration.parse(resource.body)
    routes = taken(configuration, request)
    answer: dict[str, Any] = {
        "listener": resource.name,
        "routes": [_along(known, resource, each, request) for each in routes],
    }
    if not routes:
        answer["problem"] = (
            f"no route of {resource.name} takes {request.authority or 'this host'} and {request.path}: "
            f"Envoy answers 404; it has routes for {', '.join(domains(configuration)) or 'no host'}"
        )
    return answer


def _routes_for(known: Known, port: int | None) -> Resource:
    """The route configuration of the listener that takes the request: a gateway's before a sidecar's."""
    nodes = [(g.name, Node("", "", dict(g.selector or {}))) for g in known.mesh.routing.gateways]
    nodes.append((MESH_GATEWAY, Node("", SIDECAR_CLUSTER)))
    found: dict[str, Resource] = {}
    for _, node in nodes:
        for name, resource in known.hub.view_of(node).of(ROUTE).resources.items():
            found.setdefault(name, resource)
    wanted = [names.gateway_listener(port), names.sidecar_listener(port)] if port is not None else []
    for name in wanted:
        if name in found:
            return found[name]
    gateways = sorted(name for name in found if name.startswith(names.gateway_listener(0)[:-1]))
    listed = ", ".join(sorted(found)) or "none"
    if wanted:
        raise UnexplainableError(f"no listener on port {port}; there is: {listed}")
    if len(gateways) == 1 or (not gateways and len(found) == 1):
        return found[(gateways or sorted(found))[0]]
    raise UnexplainableError(f"name the listener's port (--port); there is: {listed}")


def _along(known: Known, resource: Resource, choice: Taken, request: Request) -> dict[str, Any]:
    route = choice.route
    found = named(route, request)
    answer: dict[str, Any] = {
        "virtual_host": choice.virtual_host,
        "route": route.name,
        "share": round(choice.share, 6),
        "key": found.key,
        "model": found.model,
        "from": found.place,
        "keys": dict(found.keys),
    }
    if found.problem:
        return answer | {"outcome": "REFUSED", "status": 400, "why": found.problem, "targets": []}
    answer["targets"] = [target for way in _ways(route) for target in _targets(known, found, request, way)]
    used = sorted({(CLUSTER, each["cluster"]) for each in answer["targets"]})
    used += [(ENDPOINT, name) for _, name in used]
    answer["acknowledged"] = _acknowledged(known.hub, [(ROUTE, resource.name), *used])
    return answer


@dataclass(frozen=True, slots=True)
class _Way:
    """One service that a route leads to: its clusters, of which the model picks one, and the share."""

    route: route_v3.Route
    clusters: tuple[str, ...]
    share: float
    by_model: bool = False


def _ways(route: route_v3.Route) -> Iterator[_Way]:
    """The ways of a route: one, or several by weight."""
    action = route.route
    if action is None:
        return
    weighted = action.weighted_clusters
    if action.cluster:
        yield _Way(route, (action.cluster,), 1.0)
    elif weighted is not None and weighted.use_hash_policy:
        yield _Way(route, tuple(each.name for each in weighted.clusters), 1.0)
    elif weighted is not None:
        total = sum(each.weight or 0 for each in weighted.clusters)
        for each in weighted.clusters:
            if each.weight:
                yield _Way(route, (each.name,), each.weight / total)
    elif action.inline_cluster_specifier_plugin is not None:
        extension = action.inline_cluster_specifier_plugin.extension
        if extension is not None and extension.typed_config is not None:
            config = lua_clusters.LuaConfig.parse(extension.typed_config.value)
            yield _Way(route, (config.default_cluster,), 1.0, by_model=True)


def _targets(known: Known, found: Named, request: Request, way: _Way) -> Iterator[dict[str, Any]]:
    host, _ = _service_of(way.clusters[0])
    picture = known.mesh.services().get(host)
    told: dict[str, Any] = {"service": host, "share": round(way.share, 6), "cluster": way.clusters[0]}
    if picture is None:
        yield told | {"outcome": "NO_SUCH_SERVICE"}
        return
    told["pool"] = picture.pool.name if picture.pool is not None else None
    told["own_zone_first"] = picture.policy is not None and picture.policy.own_zone_first
    statuses = known.mesh.status(host)
    if found.model is None:
        yield told | _unnamed(picture, statuses, found, known.now)
        return
    further = picture.pool.names if picture.pool is not None else NO_NAMES
    for target in meant(further, way.route, request, found.model, found.version):
        yield told | {
            "cluster": _cluster_of(way, target.name),
            "share": round(way.share * target.share, 6),
            "name": target.name,
            "sent_as": target.sent_as,
            "path": target.path_as(target.sent_as),
            **_holders(picture, statuses, target, known.now, known=_is_known(known.mesh, way, target.name)),
        }


def _is_known(mesh: Mesh, way: _Way, name: str) -> bool:
    """Whether anybody knows the name of those whom the script asks about; where it asks nobody, of these."""
    asking = settings_of(way.route).get("misses", {}).get("unknown", {})
    hosts = asking.get("hosts", [_service_of(way.clusters[0])[0]])
    return any(mesh.knows(host, name) for host in hosts)


def _service_of(cluster: str) -> tuple[str, int]:
    host, _, rest = cluster.partition("|")
    digits = rest.partition("|")[0].partition("~")[0]
    return host, int(digits) if digits.isdecimal() else 0


def _cluster_of(way: _Way, model: str) -> str:
    if len(way.clusters) > 1:
        return way.clusters[shard_of(model, len(way.clusters))]
    return names.model_cluster(*_service_of(way.clusters[0]), model) if way.by_model else way.clusters[0]


def _holders(
    picture: ServicePicture, statuses: tuple[EndpointStatus, ...], target: Target, now: float, *, known: bool
) -> dict[str, Any]:
    told_as = {str(each.endpoint.id): dict(each.known_as) for each in picture.endpoints if each.known_as}

    def asked_as(holder: dict[str, Any]) -> dict[str, Any]:
        """The holder with the name that it is asked under, and the path that it then gets."""
        its = told_as.get(holder["endpoint"], {})
        name = its.get(target.name) or its.get("") or target.sent_as
        return holder | {"asked_as": name, "path": target.path_as(name)}

    holders = [each for each in statuses if target.name in each.routed]
    others = [_other(each, target, now) for each in statuses if target.name not in each.routed]
    told: dict[str, Any] = {
        "holders": [asked_as(_holder(each, target, now)) for each in holders],
        "others": [each for each in others if each["why"]],
    }
    if holders:
        return told | {"outcome": "ROUTED"}
    why = f"{target.name} is READY on no replica of {picture.service.host}"
    if picture.pool is not None and picture.pool.misses.falls_back:
        fallback = picture.pool.misses.fallback_model or ""
        stand_ins = [each for each in statuses if fallback in each.routed]
        if stand_ins:
            told["holders"] = [asked_as(_holder(each, None, now)) for each in stand_ins]
            return told | {"outcome": "FALLBACK_MODEL", "why": f"{why}; {fallback} stands in for it"}
    if known:
        return told | _miss(picture, statuses, "notLoaded", why, now)
    why = f"{why}, and nobody there knows it"
    asks = picture.pool is not None and picture.pool.misses.unknown is not None
    return told | _miss(picture, statuses, "unknown" if asks else "notLoaded", why, now)


def _unnamed(
    picture: ServicePicture, statuses: tuple[EndpointStatus, ...], found: Named, now: float
) -> dict[str, Any]:
    told: dict[str, Any] = {"name": None, "holders": [], "others": []}
    if found.concerns_none or picture.policy is None or not picture.policy.selectors:
        why = "its path concerns no model" if found.concerns_none else "the service has no models"
        every = [_holder(each, None, now) for each in statuses]
        return told | {"outcome": "ANY_REPLICA", "why": why, "holders": every}
    if found.keys:
        asked = ", ".join(f"{key}={value}" for key, value in found.keys)
        return told | {"outcome": "BY_LABELS", "why": f"it asks for {asked}, by the rule's selectors"}
    return told | _miss(picture, statuses, "noModel", "it names no model", now)


def _miss(
    picture: ServicePicture, statuses: tuple[EndpointStatus, ...], kind: str, why: str, now: float
) -> dict[str, Any]:
    """What becomes of a miss: the cluster's fallback, or what Envoy's script answers by the pool's word."""
    pool = picture.pool
    choice = None
    if pool is not None:
        choices = {"noModel": pool.misses.no_model, "unknown": pool.misses.unknown}
        choice = choices.get(kind, pool.misses.not_loaded)
    fallback = _fallback(picture, kind)
    told: dict[str, Any] = {
        "outcome": "MISS",
        "miss": kind,
        "policy": fallback.value if choice is None else choice.value,
        "why": why,
    }
    if fallback is Fallback.ANY_ENDPOINT:
        return told | {"holders": [_holder(each, None, now) for each in statuses]}
    if fallback is Fallback.NO_FALLBACK:
        told["status"] = (
            HTTPStatus.NOT_FOUND if choice is Choice.NOT_FOUND else HTTPStatus.SERVICE_UNAVAILABLE
        )
    return told


def _fallback(picture: ServicePicture, kind: str) -> Fallback:
    policy, pool = picture.policy, picture.pool
    if policy is None:
        return Fallback.NO_FALLBACK
    keyed = [each for each in policy.selectors if pool is not None and pool.subset_key in each.keys]
    alone = [each for each in keyed if len(each.keys) == 1]
    if kind == "noModel" or not keyed:
        return without_criteria(policy, pool)
    return fallback_of((alone or keyed)[0], pool)


def _holder(status: EndpointStatus, target: Target | None, now: float) -> dict[str, Any]:
    endpoint = status.endpoint
    return {
        "endpoint": str(endpoint.id),
        "pod": endpoint.pod,
        "zone": endpoint.locality.zone,
        "state": status.health.value,
        "weight": endpoint.weight,
        "age": None if status.reported_at is None else round(max(0.0, now - status.reported_at), 3),
        "why": "" if target is None else _why(status, target),
    }


def _why(status: EndpointStatus, target: Target) -> str:
    """By what the endpoint goes by the name: the model itself, a version, an alias, or as a stand-in."""
    ready = {row.name for row in status.models if row.ready}
    if target.name in ready:
        return "has it READY"
    if target.model in ready:
        return f"has {target.model} READY in that version"
    has = sorted(ready.intersection(target.means))
    if has:
        return f"has {', '.join(has)} READY, which {target.name} means"
    return f"stands in for {target.name}, which nobody has"


def _other(status: EndpointStatus, target: Target, now: float) -> dict[str, Any]:
    """Why an endpoint that has to do with the name does not get the request; no reason for all others."""
    rows = [row for row in status.models if row.name in (target.name, target.model, *target.means)]
    held_back = [each for each in (target.name, target.model) if each in status.withdrawn]
    why = ""
    if held_back:
        why = f"{held_back[0]} is withdrawn there"
    elif rows and status.health.value not in ("OK", "SUSPECT", "STALE"):
        why = f"it is {status.health.value}"
    elif rows:
        states = sorted({f"{row.state}{f' in version {row.version}' if row.version else ''}" for row in rows})
        why = f"{rows[0].name} is {', '.join(states)}"
    return _holder(status, None, now) | {"why": why}


def _acknowledged(hub: Hub, used: list[tuple[str, str]]) -> dict[str, Any]:
    """Whether every Envoy that asks for these resources has accepted them as they are now published."""
    agreed: set[str] = set()
    waiting: dict[str, list[str]] = {}
    rejected: dict[str, str] = {}
    for type_url, name in used:
        progress = hub.progress(type_url, name, hub.serial)
        agreed.update(progress.acknowledged)
        for client in progress.waiting:
            waiting.setdefault(client, []).append(name)
        rejected.update(progress.rejected)
    agreed -= waiting.keys() | rejected.keys()
    return {
        "all": not waiting and not rejected,
        "clients": sorted(agreed),
        "waiting": {client: sorted(set(waiting[client])) for client in sorted(waiting)},
        "rejected": dict(sorted(rejected.items())),
        "serial": hub.serial,
    }
