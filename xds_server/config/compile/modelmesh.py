"""`modelMesh` and `openInference` of a ModelPool, checked against the endpoints of its service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.compile.services import POD_LABEL
from xds_server.config.problems import describe, join_or
from xds_server.mesh.pools import ModelMesh, OpenInference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.config.compile.context import Context
    from xds_server.config.documents.pool_modelmesh import ModelMeshPart
    from xds_server.config.documents.pool_open_inference import OpenInferencePart
    from xds_server.config.problems import Path, Place
    from xds_server.mesh.model import Endpoint

_SHORTEST_LOAD = 3.0
_SHARE_OF_TIMEOUT = 3
"""ModelMesh takes a copy for loaded after a third of the load timeout, and never before three seconds."""


def open_inference(
    place: Place, path: Path, part: OpenInferencePart, endpoints: Sequence[Endpoint], context: Context
) -> OpenInference:
    """The value of an `openInference` under `path`; a port's name must be known to every endpoint."""
    lacking = [endpoint for endpoint in endpoints if part.port not in endpoint.ports]
    if isinstance(part.port, str) and lacking:
        common = sorted(set.intersection(*(set(endpoint.ports) for endpoint in endpoints)))
        problem = place.problem(
            (*path, "openInference", "port"),
            f"{describe(part.port)}, which endpoint {lacking[0].id} of "
            f"{lacking[0].id.service} has no port for",
            f"a name in the ports of every endpoint: {join_or(common)}",
        )
        context.problems.append(problem)
    return OpenInference(part.port, part.scheme.value, part.interval, part.timeout, part.grace)


def model_mesh(
    place: Place, path: Path, part: ModelMeshPart, endpoints: Sequence[Endpoint], context: Context
) -> ModelMesh:
    """The value of a `modelMesh` under `path`; every listed endpoint must say which pod it is."""
    path = (*path, "modelMesh")
    nameless = [endpoint for endpoint in endpoints if not endpoint.pod]
    if nameless:
        problem = place.problem(
            path,
            f"endpoint {nameless[0].id} of {nameless[0].id.service} without the name of its pod",
            f"the label {POD_LABEL} on every endpoint: ModelMesh knows a pod by the end of its name",
        )
        context.problems.append(problem)
    scope = f"mm_ns/{part.namespace}/mm" if part.namespace else "mm"
    confirm = part.open_inference
    return ModelMesh(
        connection_file=part.etcd.connection_file,
        prefix=f"{scope}/{part.service}/",
        loaded_after=max(_SHORTEST_LOAD, part.load_timeout / _SHARE_OF_TIMEOUT),
        confirm=None if confirm is None else open_inference(place, path, confirm, endpoints, context),
        push=part.push is not None,
    )
