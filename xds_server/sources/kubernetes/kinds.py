"""The kinds of objects that are documents, and where they are in the API."""

from __future__ import annotations

from dataclasses import dataclass

from xds_server.config.objects import DOCUMENTS_LABEL
from xds_server.sources.kubernetes.watched import Resource


@dataclass(frozen=True, slots=True)
class DocumentKind:
    """One kind. `selector` limits what is watched; without `status` the kind has no such subresource."""

    resource: Resource
    kind: str
    selector: str = ""
    status: bool = True

    @property
    def api_version(self) -> str:
        """As objects have it."""
        group = self.resource.group
        return f"{group}/{self.resource.version}" if group else self.resource.version


def _istio(plural: str, kind: str) -> DocumentKind:
    return DocumentKind(Resource("networking.istio.io", "v1", plural), kind)


def _gateway_api(plural: str, kind: str, *, version: str = "v1", namespaced: bool = True) -> DocumentKind:
    group = "gateway.networking.k8s.io"
    return DocumentKind(Resource(group, version, plural, namespaced), kind, status=kind != "ReferenceGrant")


MODEL_POOLS = DocumentKind(Resource("xds-server.dev", "v1alpha1", "modelpools"), "ModelPool")
CONFIG_MAPS = DocumentKind(
    Resource("", "v1", "configmaps"), "ConfigMap", selector=f"{DOCUMENTS_LABEL}=true", status=False
)
INFERENCE_SERVICES = DocumentKind(
    Resource("serving.kserve.io", "v1beta1", "inferenceservices"), "InferenceService", status=False
)
ISTIO = (
    _istio("destinationrules", "DestinationRule"),
    _istio("gateways", "Gateway"),
    _istio("serviceentries", "ServiceEntry"),
    _istio("virtualservices", "VirtualService"),
)
GATEWAY_CLASSES = _gateway_api("gatewayclasses", "GatewayClass", namespaced=False)
GATEWAYS = _gateway_api("gateways", "Gateway")
HTTP_ROUTES = _gateway_api("httproutes", "HTTPRoute")
REFERENCE_GRANTS = _gateway_api("referencegrants", "ReferenceGrant", version="v1beta1")
GATEWAY_API = (GATEWAY_CLASSES, GATEWAYS, HTTP_ROUTES, REFERENCE_GRANTS)

ALL = (MODEL_POOLS, CONFIG_MAPS, INFERENCE_SERVICES, *ISTIO, *GATEWAY_API)
"""Every kind that is watched for documents; each may be missing in a cluster, and may come later."""
