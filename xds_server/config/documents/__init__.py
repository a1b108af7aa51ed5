"""The shape of each kind of document: its fields, their types, and nothing that needs another document."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from xds_server.config.documents.base import ObjectMeta, Part
from xds_server.config.documents.destination_rule import DestinationRuleSpec
from xds_server.config.documents.gateway import GatewaySpec
from xds_server.config.documents.inference_service import InferenceServiceSpec
from xds_server.config.documents.model_pool import ModelPoolSpec
from xds_server.config.documents.service_entry import ServiceEntrySpec
from xds_server.config.documents.virtual_service import VirtualServiceSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds_server.config.problems import Place

SpecT_co = TypeVar("SpecT_co", bound=Part, covariant=True)

ISTIO_VERSIONS = tuple(f"networking.istio.io/{version}" for version in ("v1", "v1beta1", "v1alpha3"))
KSERVE_VERSIONS = ("serving.kserve.io/v1beta1",)
OUR_VERSIONS = ("xds-server.dev/v1alpha1",)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a `kind:` stands for."""

    versions: tuple[str, ...]
    spec: type[Part]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "DestinationRule": Kind(ISTIO_VERSIONS, DestinationRuleSpec),
        "Gateway": Kind(ISTIO_VERSIONS, GatewaySpec),
        "InferenceService": Kind(KSERVE_VERSIONS, InferenceServiceSpec),
        "ModelPool": Kind(OUR_VERSIONS, ModelPoolSpec),
        "ServiceEntry": Kind(ISTIO_VERSIONS, ServiceEntrySpec),
        "VirtualService": Kind(ISTIO_VERSIONS, VirtualServiceSpec),
    }
)


@dataclass(frozen=True, slots=True)
class Document(Generic[SpecT_co]):
    """A document whose shape is right, and where it stands. `status`: as it was found, unchecked."""

    place: Place
    kind: str
    metadata: ObjectMeta
    spec: SpecT_co
    status: object = None

    @property
    def name(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"
