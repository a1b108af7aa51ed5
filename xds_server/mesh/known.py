"""Models that are known by name, loaded or not: what tells "not loaded" from "unknown"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from xds_server.mesh.names import model_and_version
from xds_server.mesh.pools import StaticModels, TensorFlowServing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from xds_server.mesh.pools import Pool


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


class KnownNames:
    """Who knows which names of a ModelMesh's models: the documents of its namespace, and the registries."""

    def __init__(self) -> None:
        self._declared: frozenset[tuple[str, str]] = frozenset()
        self._told: dict[str, dict[str, tuple[KnownModel, ...]]] = {}
        self._names: dict[tuple[str, str], frozenset[str]] = {}

    def declare(self, declared: Iterable[DeclaredModel]) -> None:
        """Take what all documents declare now."""
        self._declared = frozenset((each.namespace, each.model.name) for each in declared)

    def tell(self, service: str, source: str, models: tuple[KnownModel, ...]) -> None:
        """Take what a source says of a service now; nothing is remembered of one that names no model."""
        told = {**self._told.pop(service, {}), source: models}
        self._names[service, source] = frozenset(model.name for model in models)
        if not models:
            del told[source], self._names[service, source]
        if told:
            self._told[service] = told

    def told(self, service: str) -> list[tuple[KnownModel, ...]]:
        """What each source says of a service, by the sources' names."""
        told = self._told.get(service, {})
        return [told[source] for source in sorted(told)]

    def has(self, service: str, namespace: str, name: str) -> bool:
        """Whether a document of the namespace, or a source, names it."""
        if (namespace, name) in self._declared:
            return True
        return any(name in self._names[service, source] for source in self._told.get(service, ()))


def named_by(pool: Pool) -> frozenset[str]:
    """Every name that the pool's own document gives: of models, and what else they are called.

    Who names a version names its model.
    """
    names = frozenset(_named_by(pool))
    return names | {model_and_version(name)[0] for name in names}


def _named_by(pool: Pool) -> Iterator[str]:
    names, discovery = pool.names, pool.discovery
    for further in (names.aliases, names.fallbacks):
        for name, others in further.items():
            yield name
            yield from others
    for name, split in names.splits.items():
        yield name
        yield from (target for target, _ in split.targets)
    if names.versions is not None:
        yield from names.versions.pinned
    if pool.misses.fallback_model is not None:
        yield pool.misses.fallback_model
    if isinstance(discovery, StaticModels):
        for models in discovery.models.values():
            yield from models
    elif isinstance(discovery, TensorFlowServing):
        yield from discovery.models
