"""A ModelPool's `spec.onMiss` to the values of the mesh: what the balancer does, what callers are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.config.problems import join_or
from xds_server.mesh.misses import Choice, Misses
from xds_server.mesh.policies import Fallback

if TYPE_CHECKING:
    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.model_pool import ModelPoolSpec
    from xds_server.config.documents.pool_misses import OnMissPart
    from xds_server.mesh.policies import Policy, Selector

_ROUTED = {
    Choice.ANY_ENDPOINT: Fallback.ANY_ENDPOINT,
    Choice.DEFAULT_SUBSET: Fallback.DEFAULT_SUBSET,
}
_TO_REPLICAS = (*_ROUTED, Choice.FALLBACK_MODEL)


def fallback_of(choice: Choice | None) -> Fallback | None:
    """What the balancer does: where the choice is an answer, or a model, it finds nothing to fall back to."""
    return None if choice is None else _ROUTED.get(choice, Fallback.NO_FALLBACK)


def misses_of(part: OnMissPart) -> Misses:
    """What callers are told."""
    return Misses(
        no_model=part.no_model,
        not_loaded=part.not_loaded,
        unknown=part.unknown,
        holders_down=part.holders_down,
        fallback_model=part.fallback_model,
        retry_after=round(part.retry_after),
    )


def check_default_subset(document: Document[ModelPoolSpec], policy: Policy | None, context: Context) -> None:
    """A miss can only fall back to a default subset that the host's rule names."""
    if policy is not None and policy.default_subset:
        return
    for field, choice in (
        ("noModel", document.spec.on_miss.no_model),
        ("notLoaded", document.spec.on_miss.not_loaded),
    ):
        if choice is Choice.DEFAULT_SUBSET:
            problem = document.place.problem(
                ("spec", "onMiss", field),
                f"{choice}, while no DestinationRule of the host names a default subset",
                "another choice, or dynamicSubset.defaultSubset in a DestinationRule",
            )
            context.problems.append(problem)


def check_unknown(document: Document[ModelPoolSpec], policy: Policy | None, context: Context) -> None:
    """A name that nobody knows is told apart where Envoy has found no replica, and nowhere else."""
    on_miss = document.spec.on_miss
    if on_miss.unknown is None:
        return
    goes = _goes_to_replicas(document, policy, context)
    if goes is None:
        return
    problem = document.place.problem(
        ("spec", "onMiss", "unknown"),
        f"{on_miss.unknown}, while {goes}: a name that nobody knows goes to a replica like any other",
        "notLoaded: NOT_FOUND, UNAVAILABLE or NO_FALLBACK beside it, or unknown left out",
    )
    context.problems.append(problem)


def _goes_to_replicas(
    document: Document[ModelPoolSpec], policy: Policy | None, context: Context
) -> str | None:
    """What lets a request go to a replica whose model is loaded nowhere; None: nothing does."""
    choice = document.spec.on_miss.not_loaded
    if choice is not None:
        return f"notLoaded is {choice}" if choice in _TO_REPLICAS else None
    if policy is not None and policy.selectors:
        selectors = selectors_on(policy, document.spec.subset_key)
        found = sorted({each.fallback.value for each in selectors} - {Fallback.NO_FALLBACK.value})
        rule = context.declared_by["policy", policy.host].subject
        return f"the selector on the key in {rule} says {join_or(found)}" if found else None
    if document.spec.models.model_mesh is not None:
        return "notLoaded is left out, so that any replica of a ModelMesh may load a model"
    return None


def selectors_on(policy: Policy, key: str) -> list[Selector]:
    """The selector on exactly this key, or else all that have it among theirs."""
    selectors = [selector for selector in policy.selectors if key in selector.keys]
    return [selector for selector in selectors if selector.keys == (key,)] or selectors
