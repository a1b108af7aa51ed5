"""The names of a Kubernetes cluster's services: which service a host may mean, and what it is called here."""

from __future__ import annotations

import re

DOMAIN = "svc.cluster.local"
"""What the full names of a cluster's services end with."""

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def full_name(namespace: str, name: str) -> str:
    """What a service is called everywhere in this server."""
    return f"{name}.{namespace}.{DOMAIN}"


def meant(host: str, namespace: str) -> str | None:
    """The full name of the service that `host` means in a document of `namespace`; None if it can mean none.

    NAME, NAME.NAMESPACE, NAME.NAMESPACE.svc and the full name do; so does no name of another domain.
    """
    labels = host.removesuffix(f".{DOMAIN}").removesuffix(".svc").split(".")
    if len(labels) == 1 and "." not in host:
        labels.append(namespace)
    if len(labels) != 2 or not all(map(_LABEL.fullmatch, labels)):  # noqa: PLR2004 - name and namespace
        return None
    return full_name(labels[1], labels[0])


def service_of(host: str) -> tuple[str, str] | None:
    """Namespace and name of the service with this full name; None where it is no full name."""
    name, _, rest = host.partition(".")
    namespace, _, domain = rest.partition(".")
    if domain != DOMAIN or not _LABEL.fullmatch(name) or not _LABEL.fullmatch(namespace):
        return None
    return namespace, name
