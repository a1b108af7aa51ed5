"""The names of resources, stable for the life of what they name.

A renamed cluster is a removed one for Envoy (seldon-core 5916), so no name carries a counter, a time or
a hash.

A name is unique within what one Envoy gets. Two Envoys may know different content by the same name
(two gateways on one port, each chosen by other nodes): they never share a snapshot then.
"""

from __future__ import annotations


def cluster(host: str, port: int, index: int = 0, count: int = 1) -> str:
    """Name a shard's cluster, and its assignment alike: each cluster has its own (envoy 47302).

    A service that is not split has no shard in its name. The number of shards is part of it, because with
    another number other models are in the cluster: those are new clusters, and the old ones go later.
    """
    return f"{host}|{port}" if count == 1 else f"{host}|{port}|{index}of{count}"


def rest_cluster(host: str, port: int) -> str:
    """Name the cluster of a split service that has every endpoint and no model."""
    return f"{host}|{port}|rest"


def model_cluster(host: str, port: int, model: str) -> str:
    """Name the cluster of one model. The prefix keeps a request from choosing any other cluster by name."""
    return f"{host}|{port}~{model}"


def gateway_listener(port: int) -> str:
    """Name a gateway's listener, and the route configuration that it asks for."""
    return f"gateway|{port}"


def sidecar_listener(port: int) -> str:
    """Name a sidecar's loopback listener, and the route configuration that it asks for."""
    return f"sidecar|{port}"


def route(virtual_service: str, name: str, index: int) -> str:
    """Name a route as the access log shows it: its virtual service and its own name, or its place."""
    return f"{virtual_service}/{name or index}"
