"""API objects as the API server gives them, for the tests of what they become."""

from typing import Any

ISTIO = "networking.istio.io/v1"
GATEWAY_API = "gateway.networking.k8s.io/v1"
OURS = "xds-server.dev/v1alpha1"
KEY = "modelmesh.asm.alibabacloud.com"


def made(
    version: str,
    kind: str,
    spec: dict[str, Any],
    name: str = "models",
    namespace: str = "ml",
    **metadata: Any,
) -> dict[str, Any]:
    found = {
        "name": name,
        "namespace": namespace,
        "uid": f"uid-{name}",
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "managedFields": [{"manager": "kubectl"}],
        "deletionGracePeriodSeconds": 30,
        **metadata,
    }
    if not namespace:
        del found["namespace"]
    return {"apiVersion": version, "kind": kind, "metadata": found, "spec": spec, "status": {"anything": 1}}


def entry(host: str = "models", **metadata: Any) -> dict[str, Any]:
    spec = {
        "hosts": [host],
        "resolution": "STATIC",
        "ports": [{"number": 8033, "name": "http", "protocol": "HTTP"}],
        "endpoints": [{"address": "10.0.0.1"}],
    }
    return made(ISTIO, "ServiceEntry", spec, **metadata)


def pool(host: str = "models", **metadata: Any) -> dict[str, Any]:
    return made(OURS, "ModelPool", {"host": host, "models": {"openInference": {}}}, **metadata)


def virtual_service(
    host: str = "models", gateways: list[str] | None = None, **metadata: Any
) -> dict[str, Any]:
    route = {"route": [{"destination": {"host": host}}]}
    spec = {"hosts": ["*"], "gateways": gateways or ["mesh"], "http": [route]}
    return made(ISTIO, "VirtualService", spec, **metadata)


def istio_gateway(port: int = 8008, **metadata: Any) -> dict[str, Any]:
    server = {"port": {"number": port, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}
    return made(ISTIO, "Gateway", {"servers": [server]}, **metadata)


def config_map(texts: dict[str, str], **metadata: Any) -> dict[str, Any]:
    value = made("v1", "ConfigMap", {}, **metadata)
    del value["spec"], value["status"]
    return {**value, "data": texts}


def gateway_class(name: str = "xds-server", controller: str = "xds-server.dev/gateway-controller"):
    return made(GATEWAY_API, "GatewayClass", {"controllerName": controller}, name=name, namespace="")


def gateway(*listeners: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    given = listeners or ({},)
    spec = {
        "gatewayClassName": "xds-server",
        "listeners": [{"name": "http", "port": 8080, "protocol": "HTTP", **each} for each in given],
    }
    return made(GATEWAY_API, "Gateway", spec, **{"name": "front", **metadata})


def backend(name: str = "models", **rest: Any) -> dict[str, Any]:
    return {"group": "xds-server.dev", "kind": "ModelPool", "name": name, **rest}


def http_route(*rules: dict[str, Any], name: str = "route", **rest: Any) -> dict[str, Any]:
    metadata = {key: rest.pop(key) for key in ("namespace", "creationTimestamp", "generation") if key in rest}
    spec = {"parentRefs": [{"name": "front"}], "rules": list(rules) or [{"backendRefs": [backend()]}], **rest}
    return made(GATEWAY_API, "HTTPRoute", spec, name=name, **metadata)


def grant(source: str, target: str, to_name: str | None = None) -> dict[str, Any]:
    to = {"group": "xds-server.dev", "kind": "ModelPool", **({"name": to_name} if to_name else {})}
    spec = {
        "from": [{"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": source}],
        "to": [to],
    }
    return made("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", spec, name="grant", namespace=target)
