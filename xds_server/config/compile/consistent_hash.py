"""Consistent hashing among a model's holders, checked against what it costs Envoy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.compile.pool_misses import misses_of
from xds_server.mesh.layout import LayoutKind
from xds_server.mesh.names import VERSION_MARK

if TYPE_CHECKING:
    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.model_pool import ModelPoolSpec
    from xds_server.mesh.policies import Policy

MOST_MODELS = 50
"""Names of models in one cluster: at each change Envoy makes a ring or a table for each of them.

Measured at 500 models in a cluster of 100 endpoints, a worker's time for a change: 5 ms round robin, 44 ms
rings, 536 ms Maglev tables.
"""


def check_consistent_hash(document: Document[ModelPoolSpec], policy: Policy, context: Context) -> None:
    """Each model needs a cluster of its own, or there must be few for certain.

    Where models are discovered, how many there will be is not known when the documents are read, and a
    layout that the size decides may become a sharded one, whose shard is picked by the route's only hash.
    """
    if policy.consistent_hash is None:
        return
    spec = document.spec
    alone = _one_cluster(document, policy)
    kind = spec.layout.type
    if kind is LayoutKind.PER_MODEL and alone is None:
        return
    one_cluster = kind is LayoutKind.SINGLE or alone is not None
    names = _names(spec)
    if one_cluster and names is not None and len(names) <= MOST_MODELS:
        return
    found = f"layout {kind.value}" if alone is None else f"one cluster for the pool, since {alone}"
    if one_cluster:
        found += (
            ", and models that are discovered" if names is None else f", and {len(names)} names of models"
        )
    rule = context.declared_by["policy", policy.host].subject
    problem = document.place.problem(
        ("spec", "layout", "type"),
        f"{found}, while {rule} has consistentHash",
        f"perModel, or single and at most {MOST_MODELS} names of models, all of them static: "
        "at each change Envoy makes a table for each model of a cluster",
    )
    context.problems.append(problem)


def _one_cluster(document: Document[ModelPoolSpec], policy: Policy) -> str | None:
    """Why the pool is one cluster whatever its layout; None where it is not."""
    if misses_of(document.spec.on_miss).falls_back:
        return "a model that nobody has falls back to another"
    if document.spec.subset_key in policy.default_subset:
        return "its default subset names a model"
    return None


def _names(spec: ModelPoolSpec) -> set[str] | None:
    """All names that the pool's models can have; None where they are not known before they are reported."""
    models = spec.models
    if models.static is None:
        return None
    known = {name for held in models.static.values() for name in held}
    known |= {name.partition(VERSION_MARK)[0] for name in known}
    return known | (models.aliases or {}).keys() | (models.fallbacks or {}).keys()
