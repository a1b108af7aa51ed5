"""All objects of a cluster that are documents: compiled together, and what is to be said about each.

Pure: objects go in as mappings, a configuration and a status for each object come out. Times of transitions
and the ModelPools' own status are others' (status_values.py, pool_status.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from xds_server.config.document_set import DocumentSet
from xds_server.config.gateway_api import GatewayApi, Shapes, compile_gateway_api
from xds_server.config.istio_status import istio_conditions
from xds_server.config.objects import key_of, read_status, unit_of, unit_of_config_map
from xds_server.config.related import related
from xds_server.mesh.routing import Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.config.problems import Problem
    from xds_server.mesh.model import Service

ISTIO_GROUP = "networking.istio.io"
_GATEWAY_GROUP = "gateway.networking.k8s.io"


@dataclass(frozen=True, slots=True)
class ClusterState:
    """What comes of the objects. Everything is by the objects' keys (objects.key_of).

    `problems`: what is wrong with an object; ConfigMaps too. `generations`: of the state in force, 0 where
    none is; ModelPools only. `status`: what is to be said in objects that are no ModelPools.
    """

    configuration: Configuration = field(default_factory=Configuration)
    problems: Mapping[str, tuple[Problem, ...]] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)
    """The service of each ModelPool in force."""
    status: Mapping[str, dict[str, Any]] = field(default_factory=dict)


class ClusterDocuments:
    """The objects as they are now, and the last good state of each."""

    def __init__(self) -> None:
        self._objects: dict[str, Mapping[str, Any]] = {}
        self._set = DocumentSet()
        self._shapes = Shapes()
        self._in_set: dict[str, Mapping[str, Any]] = {}
        self.state = ClusterState()

    def put(self, value: Mapping[str, Any]) -> bool:
        """An object is new, or is now so. Returns whether that matters: a changed status alone does not."""
        key = key_of(value)
        before = self._objects.get(key)
        self._objects[key] = value
        return before is None or _meant(before) != _meant(value)

    def drop(self, key: str) -> None:
        """An object is gone."""
        self._objects.pop(key, None)

    def objects(self) -> Mapping[str, Mapping[str, Any]]:
        """All objects, by key."""
        return self._objects

    def compile(self, elsewhere: Mapping[str, Service]) -> ClusterState:
        """What the objects make now. `elsewhere`: services by host that other sources declare."""
        pools, istio, maps = self._of("ModelPool"), self._istio(), self._of("ConfigMap")
        ours = related(pools.values(), istio.values(), elsewhere)
        others = self._of("InferenceService")
        taken = {**pools, **maps, **others, **{key: value for key, value in istio.items() if key in ours}}
        self._fill(taken)
        compiled = self._set.compile(elsewhere)
        api = GatewayApi(
            tuple(self._of("GatewayClass").values()),
            tuple(each for each in self._of("Gateway").values() if _group(each) == _GATEWAY_GROUP),
            tuple(self._of("HTTPRoute").values()),
            tuple(self._of("ReferenceGrant").values()),
        )
        configuration = compiled.configuration
        services = {**elsewhere, **{each.host: each for each in configuration.services}}
        outcome = compile_gateway_api(
            api,
            {each.name: each for each in configuration.pools},
            services,
            configuration.gateways,
            self._shapes,
        )
        hosts = {each.name: each.host for each in configuration.pools}
        in_force = {key: compiled.in_force[key] for key in pools if key in compiled.in_force}
        self.state = ClusterState(
            configuration=replace(
                configuration,
                gateways=tuple(sorted((*configuration.gateways, *outcome.gateways), key=lambda g: g.name)),
                virtual_services=tuple(
                    sorted((*configuration.virtual_services, *outcome.virtual_services), key=lambda v: v.name)
                ),
            ),
            problems=compiled.problems,
            generations={key: in_force[key].generation if key in in_force else 0 for key in pools},
            hosts={key: hosts[unit.documents[0].name] for key, unit in in_force.items()},
            status={
                **outcome.status,
                **{
                    key: {"conditions": istio_conditions(value, compiled.problems.get(key, ()))}
                    for key, value in istio.items()
                    if key in ours
                },
            },
        )
        return self.state

    def _fill(self, taken: Mapping[str, Mapping[str, Any]]) -> None:
        """Bring the set up to date; what has not changed is not read again."""
        for key in self._in_set.keys() - taken.keys():
            del self._in_set[key]
            self._set.drop(key)
        for key, value in taken.items():
            before = self._in_set.get(key)
            if before is None or _meant(before) != _meant(value):
                is_map = value["kind"] == "ConfigMap"
                self._set.put(unit_of_config_map(value) if is_map else unit_of(value))
            self._in_set[key] = value

    def _of(self, kind: str) -> dict[str, Mapping[str, Any]]:
        return {key: each for key, each in sorted(self._objects.items()) if each["kind"] == kind}

    def _istio(self) -> dict[str, Mapping[str, Any]]:
        return {key: each for key, each in sorted(self._objects.items()) if _group(each) == ISTIO_GROUP}


def _group(value: Mapping[str, Any]) -> str:
    return str(value.get("apiVersion", "")).rpartition("/")[0]


def _meant(value: Mapping[str, Any]) -> tuple[Any, ...]:
    """All of an object that means something here; its version does not, nor a status that nobody reads."""
    metadata = value["metadata"]
    names = ("labels", "annotations", "generation", "creationTimestamp")
    parts = (value.get("spec"), value.get("data"), read_status(value))
    return (*parts, *(metadata.get(name) for name in names))
