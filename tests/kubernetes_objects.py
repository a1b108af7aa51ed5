"""Short ways to write Kubernetes objects: one service `triton` in namespace `models`."""

from __future__ import annotations

from xds_server.sources.kubernetes.objects import ANNOTATION

NAMESPACE, NAME = "models", "triton"
HOST = f"{NAME}.{NAMESPACE}.svc.cluster.local"


def service(ports=(("http", 8008),), families=("IPv4",), name=NAME, **spec):
    listed = [{"name": n, "port": number, "protocol": "TCP"} for n, number in ports]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": listed, "ipFamilies": list(families), **spec},
    }


def entry(address, pod=None, *, ready=True, serving=None, terminating=False, zone=None):
    """One endpoint of a slice."""
    found = {"addresses": [address], "conditions": {"ready": ready, "terminating": terminating}}
    if serving is not None:
        found["conditions"]["serving"] = serving
    if pod is not None:
        found["targetRef"] = {"kind": "Pod", "namespace": NAMESPACE, "name": pod}
    if zone is not None:
        found["zone"] = zone
    return found


def endpoint_slice(name, *entries, ports=(("http", 8080),), family="IPv4", service=NAME):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service} if service else {},
        },
        "addressType": family,
        "ports": [{"name": n, "port": number, "protocol": "TCP"} for n, number in ports],
        "endpoints": list(entries),
    }


def pod(name, *, labels=None, writers=None, uid=None, deleted=False):
    """`writers`: the text of each writer's annotation."""
    metadata = {
        "name": name,
        "namespace": NAMESPACE,
        "labels": labels or {},
        "annotations": {f"{ANNOTATION}{writer}": text for writer, text in (writers or {}).items()},
    }
    if uid is not None:
        metadata["uid"] = uid
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    spec = {"containers": [{"name": "runtime", "image": "runtime"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
