"""The options of `serve` about a Kubernetes cluster: declared and read, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from xds_server.sources.kubernetes.options import KubernetesOptions

_TEXT = """\
With --kubernetes, a ModelPool (or another document) may name a Service of the cluster: NAME,
NAME.NAMESPACE, or the full name. Its replicas then come from its EndpointSlices, their labels
from their Pods, live, and no ServiceEntry is needed. A Service that is not there yet is waited
for. Needs `list` and `watch` on services, pods and endpointslices.discovery.k8s.io; what is
missing is named in /status and /readyz.
"""

_ALONE = ("kubeconfig", "context", "namespace", "selector", "pod_selector")
"""Options that mean nothing without --kubernetes."""


def add_kubernetes_options(sub: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = sub.add_argument_group("Kubernetes", _TEXT)
    group.add_argument(
        "--kubernetes",
        action="store_true",
        help="follow a cluster: that of the pod this runs in, else that of --kubeconfig",
    )
    group.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="where the API server is and who we are to it ($KUBECONFIG, ~/.kube/config)",
    )
    group.add_argument("--context", metavar="NAME", help="of the kubeconfig file (its current one)")
    group.add_argument(
        "--namespace",
        action="append",
        metavar="NAME",
        help="follow this namespace only; repeatable: a Role in each is enough then (all namespaces)",
    )
    group.add_argument(
        "--selector",
        metavar="LABELS",
        help="follow only Services, and EndpointSlices, with these labels, such as app=triton",
    )
    group.add_argument(
        "--pod-selector",
        metavar="LABELS",
        help="read only Pods with these labels: for large clusters; others' replicas have no labels",
    )


def kubernetes_options(options: argparse.Namespace) -> KubernetesOptions | None:
    """What was given, as the source takes it; None without --kubernetes. UsageError for the rest alone."""
    from xds_server.sources.kubernetes.access import Login
    from xds_server.sources.kubernetes.options import KubernetesOptions

    if not options.kubernetes:
        given = [f"--{name.replace('_', '-')}" for name in _ALONE if getattr(options, name) is not None]
        if given:
            raise UsageError(f"{', '.join(given)}: give --kubernetes too, which turns following a cluster on")
        return None
    return KubernetesOptions(
        login=Login(options.kubeconfig, options.context),
        namespaces=tuple(sorted(set(options.namespace or ()))),
        selector=options.selector or "",
        pod_selector=options.pod_selector or "",
    )


class UsageError(ValueError):
    """Options contradict each other; the text says which, and what to give instead."""
