"""The options of `xds-server report`: declared, read, and what of them cannot be."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xds_server.cli_serve import positive

if TYPE_CHECKING:
    import argparse

    from xds_server.mesh.pools import Asked
    from xds_server.report.runner import Annotate, ReportOptions

EPILOG = """\
examples:
  xds-server report --runtime http://127.0.0.1:8080 --server xds.example:18000 --pod "$HOSTNAME" \\
    --tls-ca ca.crt --tls-cert tls.crt --tls-key tls.key
  xds-server report --runtime http://127.0.0.1:8080 --annotate --pod "$HOSTNAME" --namespace ml
"""

RUNTIMES = ("openInference", "openVino", "kserve", "openai", "llamaCpp", "ollama", "torchServe")
EXIT_USAGE = 2

_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def add_report_options(sub: argparse.ArgumentParser) -> None:
    """Declare them."""
    sub.add_argument(
        "--runtime", required=True, metavar="URL", help="the runtime, such as http://127.0.0.1:8080"
    )
    sub.add_argument("--runtime-type", choices=RUNTIMES, default="openInference", help="(openInference)")
    sub.add_argument("--interval", type=positive, default=0.5, metavar="SECONDS", help="between polls (0.5)")
    sub.add_argument("--timeout", type=positive, default=2.0, metavar="SECONDS", help="of a poll (2)")
    sub.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="the xDS port of a server; repeatable, once for each of several",
    )
    who = sub.add_argument_group("whose models these are")
    who.add_argument(
        "--pod",
        default="",
        metavar="NAME",
        help="the pod that this runs in ($POD_NAME, $HOSTNAME); NAMESPACE/NAME where another has its name",
    )
    who.add_argument(
        "--endpoint", default="", metavar="HOST:PORT", help="instead of a pod: the endpoint's address"
    )
    who.add_argument("--service", default="", metavar="HOST", help="of this service only")
    _add_security(sub)
    pods = sub.add_argument_group("the pod's annotation")
    pods.add_argument(
        "--annotate", action="store_true", help="keep the annotation models.xds-server.dev/WRITER of the pod"
    )
    pods.add_argument("--writer", default="report", metavar="WRITER", help="(report)")
    pods.add_argument(
        "--namespace", default="", metavar="NAME", help="the pod's (that of the service account)"
    )
    pods.add_argument("--kubeconfig", type=Path, metavar="FILE", help="(the pod's service account)")


def _add_security(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("security of the stream", "Files are read at each connection.")
    group.add_argument(
        "--tls-ca", type=Path, metavar="FILE", help="who signed the server's certificate; turns TLS on"
    )
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="our own certificate, PEM")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key, PEM")
    group.add_argument("--tls-server-name", default="", metavar="NAME", help="what the certificate is for")
    group.add_argument(
        "--insecure-plaintext", action="store_true", help="let the stream to another machine be plain text"
    )
    group.add_argument("--log-format", choices=("auto", "console", "json"), default="auto", help="(auto)")


def run(options: argparse.Namespace) -> int:
    """Report until a signal; returns the exit code."""
    import asyncio

    from xds_server import logs
    from xds_server.report.runner import report

    try:
        wanted = read(options)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_USAGE
    as_json = {"auto": None, "console": False, "json": True}[options.log_format]
    logs.configure(level="info", as_json=as_json)
    return asyncio.run(report(wanted))


def read(options: argparse.Namespace) -> ReportOptions:
    """What was asked for. ValueError that says what cannot be, and what to give instead."""
    from xds_server.report.runner import ReportOptions
    from xds_server.report.streaming import Subject, Tls
    from xds_server.sources.runtimes.asking import Target

    if mistake := _mistake(options):
        raise ValueError(mistake)
    pod = "" if options.endpoint else _pod(options)
    if not options.endpoint and not pod:
        raise ValueError("whose models these are is not known: give --pod NAME or --endpoint HOST:PORT")
    tls = None
    if options.tls_ca is not None:
        tls = Tls(options.tls_ca, options.tls_cert, options.tls_key, options.tls_server_name)
    return ReportOptions(
        target=Target(
            options.runtime.rstrip("/"), options.interval, options.timeout, _discovery(options.runtime_type)
        ),
        subject=Subject(pod, options.endpoint, options.service),
        servers=tuple(dict.fromkeys(options.server)),
        tls=tls,
        annotate=_annotate(options) if options.annotate else None,
    )


def _pod(options: argparse.Namespace) -> str:
    return str(options.pod or os.environ.get("POD_NAME") or os.environ.get("HOSTNAME") or "")


def _mistake(options: argparse.Namespace) -> str:
    if not options.runtime.startswith(("http://", "https://")):
        return f"--runtime: found {options.runtime!r}; expected a URL such as http://127.0.0.1:8080"
    if not options.server and not options.annotate:
        return "nobody is to be told: give --server HOST:PORT or --annotate"
    if (options.tls_cert is None) != (options.tls_key is None):
        return "--tls-cert and --tls-key belong together: give both or neither"
    if options.tls_cert is not None and options.tls_ca is None:
        return "--tls-cert needs --tls-ca: who signed the server's certificate"
    if options.pod and options.endpoint:
        return "--pod and --endpoint: give one of them"
    return next(filter(None, (_server_mistake(options, server) for server in options.server)), "")


def _server_mistake(options: argparse.Namespace, server: str) -> str:
    from xds_server.admin.guard import is_loopback, split_address

    try:
        host, _ = split_address(server)
    except ValueError as error:
        return f"--server: {error}"
    if options.tls_ca is None and not options.insecure_plaintext and not is_loopback(host):
        return (
            f"--server {server}: another machine, and in plain text anybody on the way can say what is "
            "loaded here. Give --tls-ca FILE (and --tls-cert, --tls-key), or --insecure-plaintext where "
            "the network itself keeps others out."
        )
    return ""


def _annotate(options: argparse.Namespace) -> Annotate:
    from xds_server.report.runner import Annotate
    from xds_server.sources.kubernetes.access import Login

    space, _, pod = _pod(options).rpartition("/")
    if not pod:
        raise ValueError("--annotate: give --pod NAME")
    namespace = options.namespace or space or os.environ.get("POD_NAMESPACE", "")
    if not namespace and _NAMESPACE.is_file():
        namespace = _NAMESPACE.read_text(encoding="utf-8").strip()
    if not namespace:
        raise ValueError("--annotate: the pod's namespace is not known: give --namespace NAME")
    return Annotate(Login(options.kubeconfig), namespace, pod, options.writer)


def _discovery(name: str) -> Asked:
    from xds_server.mesh import pools

    kinds: dict[str, type[Asked]] = {
        "openInference": pools.OpenInference,
        "openVino": pools.OpenVino,
        "kserve": pools.KServe,
        "openai": pools.OpenAI,
        "llamaCpp": pools.LlamaCpp,
        "ollama": pools.Ollama,
        "torchServe": pools.TorchServe,
    }
    return kinds[name]()
