"""Documents to the mesh's values: references resolved, documents checked against each other.

Nothing is implied here but what a check needs to know (mesh/implied.py fills in the rest), and
no shape is checked (config/documents does).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from xds_server.config.compile.context import Context, Doubt
from xds_server.config.compile.gateways import check_listeners, compile_gateways
from xds_server.config.compile.inference_services import compile_inference_services
from xds_server.config.compile.policies import compile_policies
from xds_server.config.compile.pools import compile_pools
from xds_server.config.compile.routes import compile_virtual_services
from xds_server.config.compile.services import compile_services
from xds_server.mesh.routing import Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xds_server.config.documents import Document
    from xds_server.config.documents.base import Part
    from xds_server.config.documents.destination_rule import DestinationRuleSpec
    from xds_server.config.documents.gateway import GatewaySpec
    from xds_server.config.documents.inference_service import InferenceServiceSpec
    from xds_server.config.documents.model_pool import ModelPoolSpec
    from xds_server.config.documents.service_entry import ServiceEntrySpec
    from xds_server.config.documents.virtual_service import VirtualServiceSpec
    from xds_server.config.problems import Problem
    from xds_server.mesh.model import Service

__all__ = ["Doubt", "compile_documents"]


def compile_documents(
    documents: Sequence[Document[Part]],
    doubt: Doubt,
    elsewhere: Mapping[str, Service] | None = None,
    *,
    cluster: bool = False,
) -> tuple[Configuration, list[Problem]]:
    """What the documents declare, and everything that contradicts or dangles. Problems come unsorted.

    `elsewhere`: services by host that another source declares. Documents may refer to them; they are no
    part of what is returned. `cluster`: whatever may be the name of a cluster's service is taken for one
    that is yet to be found, so that what is right does not depend on what the cluster has just now.
    """
    context = Context(doubt, elsewhere, cluster)
    distinct = _distinct(documents, context)

    def of_kind(kind: str) -> list[Document[Part]]:
        return [document for document in distinct if document.kind == kind]

    compile_services(cast("list[Document[ServiceEntrySpec]]", of_kind("ServiceEntry")), context)
    compile_policies(cast("list[Document[DestinationRuleSpec]]", of_kind("DestinationRule")), context)
    compile_pools(cast("list[Document[ModelPoolSpec]]", of_kind("ModelPool")), context)
    compile_gateways(cast("list[Document[GatewaySpec]]", of_kind("Gateway")), context)
    compile_virtual_services(cast("list[Document[VirtualServiceSpec]]", of_kind("VirtualService")), context)
    check_listeners(context)
    compile_inference_services(
        cast("list[Document[InferenceServiceSpec]]", of_kind("InferenceService")), context
    )
    return _configuration(context), context.problems


def _distinct(documents: Sequence[Document[Part]], context: Context) -> list[Document[Part]]:
    """The first document of each kind, namespace and name; the others are problems."""
    first: dict[tuple[str, str], Document[Part]] = {}
    for document in documents:
        other = first.setdefault((document.kind, document.name), document)
        if other is not document:
            found = f'"{document.metadata.name}", the name of {other.place} too'
            expected = f"another name: a {document.kind} has its name once in a namespace"
            context.problems.append(document.place.problem(("metadata", "name"), found, expected))
    return list(first.values())


def _configuration(context: Context) -> Configuration:
    return Configuration(
        services=tuple(
            context.services[host] for host in sorted(context.services) if not context.is_elsewhere(host)
        ),
        endpoints=tuple(sorted((e for es in context.endpoints.values() for e in es), key=lambda e: e.id)),
        policies=tuple(context.policies[host] for host in sorted(context.policies)),
        pools=tuple(context.pools[host] for host in sorted(context.pools)),
        gateways=tuple(context.gateways[name] for name in sorted(context.gateways)),
        virtual_services=tuple(sorted(context.virtual_services, key=lambda v: v.name)),
        declared=tuple(sorted(context.declared)),
    )
