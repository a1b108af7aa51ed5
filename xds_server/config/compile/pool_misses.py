"""A ModelPool's `spec.onMiss` to the values of the mesh: what the balancer does, what callers are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.misses import Choice, Misses
from xds_server.mesh.policies import Fallback

if TYPE_CHECKING:
    from xds_server.config.compile.context import Context
    from xds_server.config.documents import Document
    from xds_server.config.documents.model_pool import ModelPoolSpec
    from xds_server.config.documents.pool_misses import OnMissPart
    from xds_server.mesh.policies import Policy

_ROUTED = {
    Choice.ANY_ENDPOINT: Fallback.ANY_ENDPOINT,
    Choice.DEFAULT_SUBSET: Fallback.DEFAULT_SUBSET,
}


def fallback_of(choice: Choice | None) -> Fallback | None:
    """What the balancer does: where the choice is an answer, or a model, it finds nothing to fall back to."""
    return None if choice is None else _ROUTED.get(choice, Fallback.NO_FALLBACK)


def misses_of(part: OnMissPart) -> Misses:
    """What callers are told."""
    return Misses(
        no_model=part.no_model,
        not_loaded=part.not_loaded,
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
