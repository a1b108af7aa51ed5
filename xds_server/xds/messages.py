"""What goes over a stream, as plain values: requests as read, responses before they are encoded.

No protobuf here: the transport turns bytes into requests and responses into bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.xds.model import Node, Resource


class Variant(StrEnum):
    """The two dialects of xDS: state of the world, and incremental."""

    SOTW = "sotw"
    DELTA = "delta"


class ProtocolError(Exception):
    """A request that no later one can repair: the stream has to end. The text is for the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A DiscoveryRequest. `error_detail` is the client's own text of a NACK, None for anything else."""

    type_url: str = ""
    resource_names: tuple[str, ...] = ()
    version_info: str = ""
    response_nonce: str = ""
    error_detail: str | None = None
    node: Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRequest:
    """A DeltaDiscoveryRequest. `error_detail` as in Request."""

    type_url: str = ""
    subscribe: tuple[str, ...] = ()
    unsubscribe: tuple[str, ...] = ()
    initial_resource_versions: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    response_nonce: str = ""
    error_detail: str | None = None
    node: Node | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A DiscoveryResponse. For clusters and listeners `resources` is all that the client should have."""

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaResponse:
    """A DeltaDiscoveryResponse; `removed` are names that do not exist (any longer).

    `ttl`: seconds after which the client drops a resource that is not sent or renewed again; None: never.
    `renewed`: names and versions of what the client goes on to have; only their time begins anew.
    """

    type_url: str
    version: str
    nonce: str
    resources: tuple[Resource, ...]
    removed: tuple[str, ...]
    ttl: float | None = None
    renewed: tuple[tuple[str, str], ...] = ()
