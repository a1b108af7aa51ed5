"""The options of `xds-server serve`, and of the TLS side of `bootstrap`: declared and read, nothing else."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from xds_server.cli_kubernetes import add_kubernetes_options, kubernetes_options

if TYPE_CHECKING:
    from xds_server import settings

DEFAULT_XDS = "127.0.0.1:18000"
DEFAULT_ADMIN = "127.0.0.1:19000"


def seconds(text: str) -> float:
    """A number of seconds, 0 or more."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 0 or more")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def add_serve_options(sub: argparse.ArgumentParser) -> None:
    """Declare them."""
    sub.add_argument(
        "--config",
        type=Path,
        metavar="DIR",
        help="directory of *.yaml documents; may be left out with --kubernetes",
    )
    sub.add_argument(
        "--xds", default=DEFAULT_XDS, metavar="HOST:PORT", help=f"where Envoys connect ({DEFAULT_XDS})"
    )
    sub.add_argument(
        "--admin",
        default=DEFAULT_ADMIN,
        metavar="HOST:PORT",
        help=f"health, metrics, status and moves ({DEFAULT_ADMIN}); whoever reaches it may move models",
    )
    sub.add_argument(
        "--probes",
        metavar="HOST:PORT",
        help="health, readiness and metrics alone, where a kubelet and Prometheus reach them (nowhere)",
    )
    sub.add_argument(
        "--access-log",
        choices=("stdout", "off"),
        default="stdout",
        help="Envoy's access log: JSON lines with the subset and the replica of each request (stdout)",
    )
    sub.add_argument(
        "--model-stats",
        type=count,
        default=0,
        metavar="N",
        help="let Envoy count requests, latency and misses by model, in N series at most (off)",
    )
    sub.add_argument(
        "--stop-limit", type=seconds, default=10.0, metavar="SECONDS", help="for a graceful stop (10)"
    )
    sub.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(info)"
    )
    sub.add_argument(
        "--log-format",
        choices=("auto", "console", "json"),
        default="auto",
        help="auto: console on a terminal",
    )
    sub.add_argument(
        "--metrics-per-client",
        action="store_true",
        help="metrics with a label for each client: for a few Envoys, not for thousands",
    )
    add_kubernetes_options(sub)
    _add_security(sub)
    _add_limits(sub)


def _add_security(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group(
        "security of the xDS port", "Files are read again when they change, without a restart."
    )
    group.add_argument(
        "--tls-cert", type=Path, metavar="FILE", help="the server's certificate chain, PEM; turns TLS on"
    )
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    group.add_argument(
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="who signs the clients' certificates, PEM; every client then needs one",
    )
    group.add_argument(
        "--clients",
        type=Path,
        metavar="FILE",
        help="YAML list of the identities that may connect, and of the nodes and clusters they may be",
    )
    group.add_argument(
        "--insecure-plaintext",
        action="store_true",
        help="let --xds be plain text on an address that other machines reach",
    )


def positive(text: str) -> float:
    """A number above 0."""
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return value


def count(text: str) -> int:
    """An integer above 0."""
    if not text.isascii() or not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no integer above 0")
    return int(text)


def _add_limits(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group(
        "limits of the xDS port", "Whatever has to wait or is refused is counted in /metrics."
    )
    group.add_argument(
        "--max-streams",
        type=count,
        default=10_000,
        metavar="N",
        help="open at a time; more are refused (10000)",
    )
    group.add_argument(
        "--max-streams-per-second",
        type=positive,
        default=500.0,
        metavar="N",
        help="new ones; more wait (500)",
    )
    group.add_argument(
        "--max-requests-per-second",
        type=positive,
        default=500.0,
        metavar="N",
        help="of one stream; it is slowed down to that, and ended if it goes on for 10 s (500)",
    )
    group.add_argument(
        "--max-request-bytes",
        type=count,
        default=16 * 1024 * 1024,
        metavar="N",
        help="of one request; a larger one ends its stream (16 MiB)",
    )
    group.add_argument(
        "--max-concurrent-pushes",
        type=count,
        default=200,
        metavar="N",
        help="responses written at a time; more wait and are merged (200)",
    )
    group.add_argument(
        "--stream-lifetime",
        type=positive,
        metavar="SECONDS",
        help="end each stream after this time, give or take a fifth: clients then spread anew (never)",
    )
    group.add_argument(
        "--resource-ttl",
        type=positive,
        metavar="SECONDS",
        help="delta only: Envoys drop what was not renewed for this long, which it is in time (they keep it)",
    )
    group.add_argument(
        "--keepalive",
        type=positive,
        default=30.0,
        metavar="SECONDS",
        help="silence after which a client is pinged; one that does not answer in 10 s is gone (30)",
    )


def serve_options(options: argparse.Namespace) -> settings.ServeOptions:
    """What was given, as the server takes it."""
    from xds_server import settings
    from xds_server.transport.server import ServerOptions

    return settings.ServeOptions(
        config=options.config,
        xds=options.xds,
        admin=options.admin,
        probes=options.probes,
        access_log=options.access_log == "stdout",
        model_stats=options.model_stats,
        stop_limit=options.stop_limit,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        tls_client_ca=options.tls_client_ca,
        clients=options.clients,
        insecure_plaintext=options.insecure_plaintext,
        resource_ttl=options.resource_ttl,
        metrics_per_client=options.metrics_per_client,
        kubernetes=kubernetes_options(options),
        transport=ServerOptions(
            keepalive=options.keepalive,
            lifetime=options.stream_lifetime,
            streams_per_second=options.max_streams_per_second,
            max_streams=options.max_streams,
            max_request=options.max_request_bytes,
            requests_per_second=options.max_requests_per_second,
            max_pushes=options.max_concurrent_pushes,
        ),
    )


def add_bootstrap_tls_options(sub: argparse.ArgumentParser) -> None:
    """Declare them."""
    group = sub.add_argument_group("TLS to the xDS server", "Envoy reads these files as it starts.")
    group.add_argument("--tls", action="store_true", help="connect with TLS; needs --tls-ca")
    group.add_argument("--tls-ca", metavar="FILE", help="who signs the server's certificate, PEM")
    group.add_argument("--tls-cert", metavar="FILE", help="this Envoy's own certificate chain, PEM")
    group.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    group.add_argument(
        "--tls-server-name",
        metavar="NAME",
        help="what the server's certificate has to name: DNS name, IP address or URI (the host of --xds)",
    )
