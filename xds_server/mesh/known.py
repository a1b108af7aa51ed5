"""Models that are known by name, loaded or not: what tells "not loaded" from "unknown"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Known(StrEnum):
    """What has become of a model, in KServe's words (InferenceService `status.modelStatus.states`)."""

    PENDING = "Pending"
    STANDBY = "Standby"
    """Loaded nowhere; it is loaded when it is asked for."""
    LOADING = "Loading"
    LOADED = "Loaded"
    FAILED = "FailedToLoad"


@dataclass(frozen=True, slots=True, order=True)
class KnownModel:
    """A name that clients may ask for, its state, and why, where there is something to say."""

    name: str
    state: Known
    reason: str = ""


@dataclass(frozen=True, slots=True, order=True)
class DeclaredModel:
    """A model that a document declares (an InferenceService): known to the ModelMesh of its namespace."""

    namespace: str
    model: KnownModel


def joined(
    declared: Iterable[DeclaredModel],
    told: Iterable[Iterable[KnownModel]],
    namespace: str,
    routed: Iterable[str],
) -> Mapping[str, KnownModel]:
    """By name, sorted: what the documents of the namespace declare, what sources tell, which are newer.

    Whatever is `routed` to some replica is loaded, whoever says otherwise, and nothing else is.
    """
    found = {each.model.name: each.model for each in declared if each.namespace == namespace}
    found |= {model.name: model for models in told for model in models}
    loaded = frozenset(routed)
    for name, model in found.items():
        if name in loaded:
            found[name] = KnownModel(name, Known.LOADED)
        elif model.state is Known.LOADED:
            found[name] = KnownModel(name, Known.LOADING, model.reason)
    return dict(sorted(found.items()))
