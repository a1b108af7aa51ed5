"""What `serve --kubernetes` was asked for."""

from __future__ import annotations

from dataclasses import dataclass, field

from xds_server.sources.kubernetes.access import Login


@dataclass(frozen=True, slots=True)
class KubernetesOptions:
    """Where the API server is, and which of its objects count.

    `namespaces`: none means all. `selector`: of Services and their EndpointSlices, which carry the labels of
    their Service. `pod_selector`: of Pods; a replica whose pod is left out has no labels and no annotations.
    """

    login: Login = field(default_factory=Login)
    namespaces: tuple[str, ...] = ()
    selector: str = ""
    pod_selector: str = ""
