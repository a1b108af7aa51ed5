"""`modelMesh` of a ModelPool, checked against the endpoints of its service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.alias_generators import to_camel

from xds_server.config.compile.runtimes import asked, check_port
from xds_server.config.compile.services import POD_LABEL
from xds_server.mesh.pools import ModelMesh, Push

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.config.compile.context import Context
    from xds_server.config.documents.pool_modelmesh import ModelMeshPart
    from xds_server.config.problems import Place
    from xds_server.mesh.model import Endpoint

_PATH = ("spec", "models", "modelMesh")

_SHORTEST_LOAD = 3.0
_SHARE_OF_TIMEOUT = 3
"""ModelMesh takes a copy for loaded after a third of the load timeout, and never before three seconds."""


def model_mesh(
    place: Place, part: ModelMeshPart, endpoints: Sequence[Endpoint], context: Context
) -> ModelMesh:
    """The value of a `modelMesh`; every listed endpoint must say which pod it is."""
    nameless = [endpoint for endpoint in endpoints if not endpoint.pod]
    if nameless:
        problem = place.problem(
            _PATH,
            f"endpoint {nameless[0].id} of {nameless[0].id.service} without the name of its pod",
            f"the label {POD_LABEL} on every endpoint: ModelMesh knows a pod by the end of its name",
        )
        context.problems.append(problem)
    scope = f"mm_ns/{part.namespace}/mm" if part.namespace else "mm"
    way = asked(part)
    if way is not None:
        field, runtime = way
        check_port(place, (*_PATH, to_camel(field), "port"), runtime.port, endpoints, context)
    return ModelMesh(
        connection_file=part.etcd.connection_file,
        prefix=f"{scope}/{part.service}/",
        loaded_after=max(_SHORTEST_LOAD, part.load_timeout / _SHARE_OF_TIMEOUT),
        confirm=None if way is None else way[1],
        push=None if part.push is None else Push(part.push.grace),
    )
