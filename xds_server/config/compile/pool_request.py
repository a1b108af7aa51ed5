"""A ModelPool's `spec.request` to the values of the mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.request import PATHS_WITHOUT_MODEL, JsonBody, RequestNames

if TYPE_CHECKING:
    from xds_server.config.documents.pool_request import RequestPart


def request_names(part: RequestPart) -> RequestNames:
    """Where requests to the pool name their model. Paths without one are added to the protocols' own."""
    body = part.json_body
    return RequestNames(
        headers=tuple(part.headers),
        paths=tuple(part.paths),
        without_model=tuple(dict.fromkeys([*PATHS_WITHOUT_MODEL, *part.without_model])),
        json=None
        if body is None
        else JsonBody(tuple(body.field.split(".")), tuple(body.paths), body.max_body_bytes),
        grpc=part.grpc,
        on_disagreement=part.on_disagreement,
    )
