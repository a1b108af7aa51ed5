"""DestinationRule documents to policies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.problems import describe
from xds_server.mesh.policies import (
    ConnectionPool,
    OutlierDetection,
    Policy,
    Selector,
    TcpKeepalive,
    Warmup,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.destination_rule import (
        ConnectionPoolPart,
        DestinationRuleSpec,
        OutlierDetectionPart,
    )


def compile_policies(documents: Iterable[Document[DestinationRuleSpec]], context: Context) -> None:
    """Adds the policy of each document's host."""
    for document in documents:
        path = ("spec", "host")
        service = context.service(document.place, path, document.spec.host, document.metadata.namespace)
        if service is None:
            continue
        if other := context.claim("policy", service.host, document.place):
            found = f"{describe(document.spec.host)}, which {other} has a rule for too"
            problem = document.place.problem(path, found, "one DestinationRule for each host")
            context.problems.append(problem)
            continue
        context.policies[service.host] = _policy(document, service.host)


def _policy(document: Document[DestinationRuleSpec], host: str) -> Policy:
    traffic = document.spec.traffic_policy
    subset = traffic.load_balancer.dynamic_subset
    warmup = traffic.load_balancer.the_warmup
    hashed = traffic.load_balancer.consistent_hash
    selectors = subset.subset_selectors if subset else []
    return Policy(
        name=document.name,
        host=host,
        balancer=traffic.load_balancer.simple,
        selectors=tuple(Selector(tuple(s.keys), s.fallback_policy) for s in selectors),
        default_subset=dict(sorted(subset.the_default_subset.items())) if subset else {},
        connection_pool=_connection_pool(traffic.connection_pool) if traffic.connection_pool else None,
        outlier_detection=_outlier_detection(traffic.outlier_detection)
        if traffic.outlier_detection
        else None,
        warmup=Warmup(warmup.duration, warmup.minimum_percent, warmup.aggression) if warmup else None,
        consistent_hash=hashed.value if hashed else None,
        own_zone_first=traffic.load_balancer.own_zone_first,
    )


def _connection_pool(part: ConnectionPoolPart) -> ConnectionPool:
    tcp = part.tcp.model_dump(exclude={"tcp_keepalive"}) if part.tcp else {}
    http = part.http.model_dump() if part.http else {}
    keepalive = part.tcp.tcp_keepalive if part.tcp else None
    return ConnectionPool(
        **tcp, **http, tcp_keepalive=TcpKeepalive(**keepalive.model_dump()) if keepalive else None
    )


def _outlier_detection(part: OutlierDetectionPart) -> OutlierDetection:
    return OutlierDetection(**part.model_dump())
