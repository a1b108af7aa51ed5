"""The shape of `/status`: what the server writes and the tables read. Times are seconds since the epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from xds_server.admin.kubernetes import KubernetesRecord
    from xds_server.admin.layouts import LayoutRecord
    from xds_server.admin.told import RegistryRecord, ReporterRecord


class ProblemRecord(TypedDict):
    """One error in the documents; `text` is the whole line."""

    file: str
    document: int
    subject: str
    field: str
    found: str
    expected: str
    text: str


class ConfigRecord(TypedDict):
    """The documents: what is in force, and what the last load refused."""

    directory: str
    loaded_at: float | None
    problems: list[ProblemRecord]


class ImpliedRecord(TypedDict):
    """Something that nobody wrote and that a document made necessary."""

    kind: str
    name: str
    implied_by: str
    text: str


class ModelRecord(TypedDict):
    """One row of what a runtime reports."""

    name: str
    version: str
    state: str
    reason: str


class FailureRecord(TypedDict):
    """Why a runtime cannot be read at present."""

    kind: str
    error: str
    since: float
    last: float


class SourceRecord(TypedDict):
    """One of the sources that count for a replica: its last good report's rows and age in seconds.

    `stale_seconds`: for how long it has been failing; None while it is not.
    """

    source: str
    rows: int
    reported_at: float | None
    age_seconds: float | None
    stale_seconds: float | None
    failure: FailureRecord | None


class KnownRecord(TypedDict):
    """A model that clients of a ModelMesh may ask for; `state` as KServe says it: Loaded, Standby, ..."""

    name: str
    state: str
    reason: str


class EndpointRecord(TypedDict):
    """One replica. `routed`: the models that Envoy is told of. Ages in seconds.

    `source`, its age and its failure are those of the source that was heard last, of all `sources`.
    """

    endpoint: str
    pod: str
    ports: dict[str, int]
    labels: dict[str, str]
    zone: str
    health: str
    models: list[ModelRecord]
    routed: list[str]
    withdrawn: list[str]
    source: str
    reported_at: float | None
    age_seconds: float | None
    failure: FailureRecord | None
    sources: list[SourceRecord]


class ServiceRecord(TypedDict):
    """One service. `known` is false until its models have been learnt once."""

    host: str
    namespace: str
    pool: str | None
    subset_key: str | None
    layout: LayoutRecord | None
    known: bool
    stale: bool
    known_models: list[KnownRecord]
    endpoints: list[EndpointRecord]


class WithdrawalRecord(TypedDict):
    """A model that is kept off an endpoint."""

    id: str
    model: str
    endpoint: str
    service: str
    at: float


class PlaceRecord(TypedDict):
    """An endpoint that a model is routed to."""

    service: str
    endpoint: str


class ClientTypeRecord(TypedDict):
    """One type of resources at one client. `state`: SYNCED, STALE, NOT_SENT or ERROR.

    `blamed`: those of `rejected_names` that the client's own `error` speaks of.
    """

    type: str
    state: str
    subscribed: list[str]
    sent: str | None
    acknowledged: str | None
    rejected: str | None
    rejected_names: list[str]
    blamed: list[str]
    error: str | None
    sent_seconds_ago: float | None
    acknowledged_seconds_ago: float | None
    rejected_seconds_ago: float | None


class ClientRecord(TypedDict):
    """One stream of a connected Envoy. `variant`: sotw or delta; `aggregated`: all types on one stream."""

    id: str
    node: str
    cluster: str
    labels: dict[str, str]
    peer: str
    variant: str
    aggregated: bool
    connected_seconds: float
    types: list[ClientTypeRecord]


class Status(TypedDict):
    """The whole answer. `models`: each model to the endpoints that it is routed to."""

    version: str
    started_at: float
    now: float
    ready: bool
    reason: str
    config: ConfigRecord
    registries: list[RegistryRecord]
    reporters: list[ReporterRecord]
    kubernetes: KubernetesRecord | None
    implied: list[ImpliedRecord]
    services: list[ServiceRecord]
    models: dict[str, list[PlaceRecord]]
    withdrawals: list[WithdrawalRecord]
    clients: list[ClientRecord]
