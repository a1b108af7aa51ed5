"""The `xds-server` command: reads options and hands over; no logic lives here."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xds_server import __version__, cli_explain, cli_plan, cli_report
from xds_server.cli_kubernetes import UsageError
from xds_server.cli_serve import (
    DEFAULT_ADMIN,
    DEFAULT_XDS,
    add_bootstrap_tls_options,
    add_serve_options,
    seconds,
    serve_options,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Command = Callable[[argparse.Namespace], int]

OVERVIEW = """\
Model-aware routing for plain Envoy. The server learns which models are READY on which replica and
tells Envoy, which then sends each request to a replica that has its model.

a first start:
  xds-server init conf --replicas 10.0.0.11:8080,10.0.0.12:8080 --port 8008
  xds-server check conf
  xds-server serve --config conf &
  xds-server bootstrap --xds 127.0.0.1:18000 > envoy.yaml && envoy -c envoy.yaml
  curl -H 'model: NAME' http://127.0.0.1:8008/v2/models/NAME/infer -d @request.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 refused or failed, 2 wrong usage, 3 a port or the admin port cannot
        be reached, 70 an internal failure.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    command: Command = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of a pipe has left (`| head`): what is left to print is not wanted.
        sys.stderr.close()
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xds-server", description=OVERVIEW, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"xds-server {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_server(commands)
    _add_documents(commands)
    _add_cluster(commands)
    _add_clients(commands)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    text: str,
    *,
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    sub = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.set_defaults(command=run)
    return sub


def _add_server(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _add(
        commands,
        "serve",
        _serve,
        "run the xDS server on documents, reloaded live, and on a cluster's services",
    )
    add_serve_options(sub)

    sub = _add(
        commands,
        "bootstrap",
        _bootstrap,
        "print an Envoy bootstrap that points at the xDS server",
        epilog="example:\n  xds-server bootstrap --xds 10.0.0.5:18000 --cluster gateway > envoy.yaml\n"
        "  envoy -c envoy.yaml",
    )
    sub.add_argument(
        "--xds", default=DEFAULT_XDS, metavar="HOST:PORT", help=f"the xDS server ({DEFAULT_XDS})"
    )
    sub.add_argument("--node-id", default="envoy-1", metavar="ID", help="this Envoy's own name (envoy-1)")
    sub.add_argument(
        "--cluster",
        default="gateway",
        metavar="NAME",
        help="its group, which Gateway selectors match; 'sidecar' gets the mesh listeners (gateway)",
    )
    sub.add_argument(
        "--admin", default="127.0.0.1:9901", metavar="HOST:PORT", help="Envoy's admin port (127.0.0.1:9901)"
    )
    sub.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="a label; repeatable")
    sub.add_argument("--sotw", action="store_true", help="state-of-the-world xDS instead of delta")
    sub.add_argument(
        "--per-model",
        action="store_true",
        help="for pools of layout perModel: clusters made on demand, few stats of each",
    )
    sub.add_argument(
        "--zone",
        default="",
        metavar="NAME",
        help="where it runs, as its endpoints have it: for rules with localityLbSetting (none)",
    )
    sub.add_argument("--region", default="", metavar="NAME", help="of --zone, if its endpoints have one")
    sub.add_argument("--sub-zone", default="", metavar="NAME", help="of --zone, if its endpoints have one")
    add_bootstrap_tls_options(sub)


def _add_documents(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _add(commands, "init", _init, "write a first, commented set of documents")
    sub.add_argument("directory", type=Path, metavar="DIR")
    sub.add_argument(
        "--replicas",
        required=True,
        metavar="HOST:PORT,...",
        help="the runtimes, each by its IP address and Open Inference port",
    )
    sub.add_argument("--port", type=int, default=8008, help="where the gateway listens (8008)")

    sub = _add(commands, "check", _check, "check a directory of documents and print every error")
    sub.add_argument("directory", type=Path, metavar="DIR")
    sub.add_argument(
        "--envoy", action="store_true", help="also let an installed Envoy validate what it would be sent"
    )
    sub.add_argument(
        "--envoy-path",
        metavar="PATH",
        help="the same with this Envoy binary (the one on PATH, else the one installed beside xds-server)",
    )
    sub.add_argument(
        "--kubernetes", action="store_true", help="for serve --kubernetes: hosts may be a cluster's Services"
    )

    sub = _add(commands, "render", _render, "print what an Envoy would be sent, and what was implied")
    sub.add_argument("directory", type=Path, metavar="DIR")
    sub.add_argument("--format", choices=("json", "yaml"), default="yaml", help="(yaml)")
    sub.add_argument(
        "--cluster", default="gateway", metavar="NAME", help="the asking Envoy's cluster (gateway)"
    )
    sub.add_argument(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="a label of it; repeatable"
    )
    sub.add_argument(
        "--discover",
        action="store_true",
        help="ask the runtimes once, so that their models are in the output",
    )

    sub = _add(
        commands,
        "plan",
        cli_plan.run,
        "predict layout, rebuild time, bytes and memory for a fleet that you have in mind",
        epilog=cli_plan.EPILOG,
    )
    cli_plan.add_plan_options(sub)

    sub = _add(
        commands,
        "explain",
        cli_explain.run,
        "what would happen to a request, and why",
        epilog=cli_explain.EPILOG,
    )
    cli_explain.add_explain_options(sub)
    _admin_option(sub)

    sub = _add(
        commands,
        "report",
        cli_report.run,
        "tell servers, or the pod's annotation, which models the runtime beside it has",
        epilog=cli_report.EPILOG,
    )
    cli_report.add_report_options(sub)


def _add_cluster(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    _add(commands, "crd", _crd, "print the CustomResourceDefinition of ModelPool, for kubectl apply -f -")


def _add_clients(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sub = _add(
        commands, "status", _status, "show models against replicas, and what each Envoy has acknowledged"
    )
    sub.add_argument("--json", action="store_true", help="as the server's JSON")
    _admin_option(sub)

    sub = _add(
        commands,
        "withdraw",
        _withdraw,
        "stop routing a model to one replica; returns when it is safe to unload it",
    )
    _move_options(sub)
    sub.add_argument("--force", action="store_true", help="even when no other replica has the model")

    sub = _add(commands, "cancel", _cancel, "end a withdrawal: the model is routed to its replica again")
    sub.add_argument("id", metavar="ID", help="as `withdraw` printed it, or from `status`")
    _admin_option(sub)

    sub = _add(commands, "load", _load, "load a model on one replica; returns when every Envoy routes to it")
    _move_options(sub, drains=False)

    sub = _add(commands, "unload", _unload, "withdraw a model from one replica, wait, then unload it there")
    _move_options(sub)
    sub.add_argument("--force", action="store_true", help="even when no other replica has the model")


def _admin_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--admin", default=DEFAULT_ADMIN, metavar="HOST:PORT", help=f"the server ({DEFAULT_ADMIN})"
    )


def _move_options(sub: argparse.ArgumentParser, *, drains: bool = True) -> None:
    sub.add_argument("model", metavar="MODEL")
    sub.add_argument("endpoint", metavar="HOST:PORT", help="the replica, by any of its ports")
    sub.add_argument("--service", metavar="HOST", help="which service, where several have that replica")
    sub.add_argument(
        "--timeout", type=seconds, default=30.0, metavar="SECONDS", help="for Envoy's acknowledgement (30)"
    )
    if drains:
        sub.add_argument(
            "--settle", type=seconds, default=1.0, metavar="SECONDS", help="after the acknowledgement (1)"
        )
        sub.add_argument(
            "--drain", type=seconds, default=5.0, metavar="SECONDS", help="for requests under way (5)"
        )
    _admin_option(sub)


def _serve(options: argparse.Namespace) -> int:
    from xds_server import app, logs

    as_json = {"auto": None, "console": False, "json": True}[options.log_format]
    logs.configure(level=options.log_level, as_json=as_json)
    try:
        asked = serve_options(options)
    except UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return asyncio.run(app.serve(asked))


def _bootstrap(options: argparse.Namespace) -> int:
    from xds_server import offline

    return offline.bootstrap(
        xds=options.xds,
        node_id=options.node_id,
        cluster=options.cluster,
        admin=options.admin,
        labels=options.label,
        delta=not options.sotw,
        per_model=options.per_model,
        tls=options.tls,
        tls_ca=options.tls_ca,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        tls_server_name=options.tls_server_name,
        region=options.region,
        zone=options.zone,
        sub_zone=options.sub_zone,
    )


def _init(options: argparse.Namespace) -> int:
    from xds_server import offline

    return offline.init(options.directory, options.replicas.split(","), options.port)


def _check(options: argparse.Namespace) -> int:
    from xds_server import offline

    return offline.check(
        options.directory,
        with_envoy=options.envoy or options.envoy_path is not None,
        envoy_path=options.envoy_path,
        cluster=options.kubernetes,
    )


def _render(options: argparse.Namespace) -> int:
    from xds_server import offline

    return offline.render(
        options.directory,
        fmt=options.format,
        cluster=options.cluster,
        labels=options.label,
        discover=options.discover,
    )


def _crd(_: argparse.Namespace) -> int:
    from xds_server.config.crd import model_pool_crd_yaml

    sys.stdout.write(model_pool_crd_yaml())
    return 0


def _status(options: argparse.Namespace) -> int:
    from xds_server.admin import client

    return client.status(options.admin, as_json=options.json)


def _withdraw(options: argparse.Namespace) -> int:
    from xds_server.admin import client

    return client.withdraw(
        options.admin,
        options.model,
        options.endpoint,
        service=options.service,
        settle=options.settle,
        drain=options.drain,
        timeout=options.timeout,
        force=options.force,
    )


def _cancel(options: argparse.Namespace) -> int:
    from xds_server.admin import client

    return client.cancel(options.admin, options.id)


def _load(options: argparse.Namespace) -> int:
    from xds_server.admin import client

    return client.load(
        options.admin, options.model, options.endpoint, service=options.service, timeout=options.timeout
    )


def _unload(options: argparse.Namespace) -> int:
    from xds_server.admin import client

    return client.unload(
        options.admin,
        options.model,
        options.endpoint,
        service=options.service,
        settle=options.settle,
        drain=options.drain,
        timeout=options.timeout,
        force=options.force,
    )
