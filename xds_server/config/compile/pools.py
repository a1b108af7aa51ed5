"""ModelPool documents to pools, checked against the rule and the endpoints of their service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.alias_generators import to_camel

from xds_server.config.compile.consistent_hash import check_consistent_hash
from xds_server.config.compile.modelmesh import model_mesh
from xds_server.config.compile.pool_misses import (
    check_default_subset,
    check_unknown,
    fallback_of,
    misses_of,
    selectors_on,
)
from xds_server.config.compile.pool_names import names_of
from xds_server.config.compile.pool_request import request_names
from xds_server.config.compile.runtimes import asked, check_port
from xds_server.config.problems import describe, join_or
from xds_server.mesh.layout import PoolLayout
from xds_server.mesh.model import join_host_port
from xds_server.mesh.pools import Annotations, Pool, Push, StaticModels

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.model_pool import ModelPoolSpec
    from xds_server.mesh.policies import Policy
    from xds_server.mesh.pools import Discovery

_MODELS = ("spec", "models")
_STATIC = (*_MODELS, "static")


def compile_pools(documents: Iterable[Document[ModelPoolSpec]], context: Context) -> None:
    """Adds the pool of each document's host."""
    for document in documents:
        path = ("spec", "host")
        service = context.service(document.place, path, document.spec.host, document.metadata.namespace)
        if service is None:
            continue
        if other := context.claim("pool", service.host, document.place):
            found = f"{describe(document.spec.host)}, which {other} is for too"
            context.problems.append(document.place.problem(path, found, "one ModelPool for each host"))
            continue
        policy = context.policies.get(service.host)
        check_default_subset(document, policy, context)
        check_unknown(document, policy, context)
        if policy is not None:
            _check_against(policy, document, context)
            check_consistent_hash(document, policy, context)
        spec = document.spec
        context.pools[service.host] = Pool(
            name=document.name,
            host=service.host,
            discovery=_discovery(document, service.host, context),
            subset_key=spec.subset_key,
            no_model=fallback_of(spec.on_miss.no_model),
            not_loaded=fallback_of(spec.on_miss.not_loaded),
            names=names_of(spec.models),
            layout=PoolLayout(spec.layout.type, _shards(spec.layout.shards), spec.layout.budget),
            request=request_names(spec.request),
            misses=misses_of(spec.on_miss),
        )


def _shards(written: str | int) -> int | None:
    """The number, or None for `auto`."""
    return written if isinstance(written, int) else None


def _check_against(policy: Policy, document: Document[ModelPoolSpec], context: Context) -> None:
    """The rule must select on the pool's key, and must not contradict what the pool says of a miss.

    A rule without any selector does neither: the one on the pool's key is implied (mesh/implied.py).
    """
    if not policy.selectors:
        return
    spec = document.spec
    selectors = selectors_on(policy, spec.subset_key)
    rule = context.declared_by["policy", policy.host].subject
    if not selectors:
        problem = document.place.problem(
            ("spec", "subsetKey"),
            f"{describe(spec.subset_key)}, which no selector of {rule} has: no model would be matched",
            _mend(policy, spec.subset_key),
        )
        context.problems.append(problem)
    wanted = spec.on_miss.not_loaded
    if any(selector.fallback is not fallback_of(wanted) for selector in selectors) and wanted is not None:
        said = join_or(sorted({selector.fallback.value for selector in selectors}))
        problem = document.place.problem(
            ("spec", "onMiss", "notLoaded"),
            f"{wanted.value}, while the selector on the key in {rule} says {said}",
            "the same in both, or notLoaded left out",
        )
        context.problems.append(problem)


def _mend(policy: Policy, key: str) -> str:
    keys = sorted({key for selector in policy.selectors for key in selector.keys})
    return f"a selector {{keys: [{key}]}} there, or one of its keys here: {join_or(keys)}"


def _discovery(document: Document[ModelPoolSpec], host: str, context: Context) -> Discovery:
    models, endpoints = document.spec.models, context.endpoints[host]
    if models.model_mesh is not None:
        return model_mesh(document.place, models.model_mesh, endpoints, context)
    if models.push is not None:
        return Push(models.push.grace)
    if models.annotations is not None:
        return Annotations()
    way = asked(models)
    if way is not None:
        field, discovery = way
        check_port(document.place, (*_MODELS, to_camel(field), "port"), discovery.port, endpoints, context)
        return discovery
    return StaticModels(_placements(document, host, context))


def _placements(document: Document[ModelPoolSpec], host: str, context: Context) -> dict[str, tuple[str, ...]]:
    """Models by endpoint id, whichever of the endpoint's ports the document names it by.

    Endpoints that another source declares may come later: they are taken by the names given.
    """
    if context.is_elsewhere(host):
        written = document.spec.models.static or {}
        return {name: tuple(sorted(written[name])) for name in sorted(written)}
    known = {
        join_host_port(endpoint.id.address, port): str(endpoint.id)
        for endpoint in context.endpoints[host]
        for port in endpoint.ports.values()
    }
    known |= {str(endpoint.id): str(endpoint.id) for endpoint in context.endpoints[host]}
    placements: dict[str, tuple[str, ...]] = {}
    for name, models in (document.spec.models.static or {}).items():
        if name not in known:
            ids = sorted({str(endpoint.id) for endpoint in context.endpoints[host]})
            expected = f"HOST:PORT of an endpoint of {host}: {join_or(ids) or 'it has none'}"
            problem = document.place.problem((*_STATIC, name), "no such endpoint", expected)
            context.problems.append(problem)
        elif known[name] in placements:
            found = f"endpoint {known[name]} again"
            problem = document.place.problem((*_STATIC, name), found, "all models of an endpoint in one list")
            context.problems.append(problem)
        else:
            placements[known[name]] = tuple(sorted(models))
    return dict(sorted(placements.items()))
