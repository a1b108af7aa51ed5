"""Asks a real Envoy whether it would accept what a node would be sent. For the command line only: it blocks.

`envoy --mode validate` asks no xDS server, so the resources are written into one static file: routes into
their listeners, endpoints into their clusters.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xds_server.resources.bootstrap import overload_manager
from xds_server.resources.rendered import all_of
from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE

if TYPE_CHECKING:
    from xds_server.resources.views import ViewCatalog
    from xds_server.xds.model import Node, Snapshot

TIMEOUT = 60.0
"""Seconds for Envoy to load the file; it takes some milliseconds a resource."""

_LOG_LINE = re.compile(r"^\[[^\]]*\]\[\d+\]\[(?P<level>\w+)\]\[\w+\] \[[^\]]*\] (?P<text>.*)$")


def validate_with_envoy(catalog: ViewCatalog, node: Node, envoy: str) -> list[str]:
    """Validate with the binary `envoy` what `node` would be sent; one line for each problem."""
    document = static_bootstrap(catalog.snapshot_for(node), node)
    with tempfile.TemporaryDirectory(prefix="xds-server-") as directory:
        path = Path(directory) / "static.json"
        path.write_text(json.dumps(document), encoding="utf-8")
        command = [envoy, "--mode", "validate", "--disable-hot-restart", "-c", str(path)]
        try:
            run = subprocess.run(  # noqa: S603 - the operator names the binary
                command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
            )
        except OSError as error:
            return [f"{envoy} cannot be run: {error.strerror or error}"]
        except subprocess.TimeoutExpired:
            return [f"{envoy} did not finish validating within {TIMEOUT:.0f} seconds"]
    return [] if run.returncode == 0 else _problems(run.stderr, run.returncode, str(path))


def static_bootstrap(snapshot: Snapshot, node: Node) -> dict[str, Any]:
    """Write a node's resources as a bootstrap that needs no xDS server."""
    routes = {each["name"]: each for each in all_of(snapshot, ROUTE)}
    assignments = {each["cluster_name"]: each for each in all_of(snapshot, ENDPOINT)}
    return {
        "node": {"id": node.id, "cluster": node.cluster},
        "static_resources": {
            "listeners": [_with_routes(each, routes) for each in all_of(snapshot, LISTENER)],
            "clusters": [_with_endpoints(each, assignments) for each in all_of(snapshot, CLUSTER)],
        },
        "overload_manager": overload_manager(),
    }


def _with_routes(listener: dict[str, Any], routes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    for chain in listener["filter_chains"]:
        for each in chain["filters"]:
            manager = each["typed_config"]
            # Over RDS, Envoy takes routes to clusters that it does not have yet.
            routes_of_it = {**routes[manager.pop("rds")["route_config_name"]], "validate_clusters": False}
            manager["route_config"] = routes_of_it
    return listener


def _with_endpoints(cluster: dict[str, Any], assignments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Write the endpoints in; a cluster whose assignment is withheld gets none."""
    name = cluster["name"]
    del cluster["eds_cluster_config"]
    cluster["type"] = "STATIC"
    cluster["load_assignment"] = assignments.get(name, {"cluster_name": name})
    return cluster


def _problems(output: str, code: int, path: str) -> list[str]:
    """Pick what Envoy complains of from its log; each line once, in order."""
    found: list[str] = []
    for line in output.splitlines():
        match = _LOG_LINE.match(line)
        level, text = (match["level"], match["text"]) if match else ("", line)
        if level in {"critical", "error"} or (not level and text.strip()):
            text = text.replace(f"error initializing configuration '{path}': ", "").strip()
            if text and not any(text in each for each in found):
                found.append(text)
    return found or [f"Envoy ended with code {code} and said nothing about why"]
