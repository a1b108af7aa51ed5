"""What it costs Envoy to find a request's model, by where the name is.

One Envoy answers all requests itself (the upstream), another routes them: plain round robin without a pool,
and to a pool by header, by path, by path with an escape, and by JSON bodies of 1 KB, 100 KB and 1 MB, each
beside plain round robin with the same body; then to a pool whose models have aliases, where requests say the
model's name or an alias. The configurations are this project's own. wrk sends; variants take turns in every
round, so that what else the machine does meets all of them.

    python -m benchmarks.name_places [--rounds 5] [--seconds 2] [--connections 8]

Per variant: CPU of the routing Envoy a request and throughput, both as the median ratio to plain round robin
with the same body in the same round, and latency p50 and p99.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.ready_to_routed import free_ports
from xds_server.config.loader import load_directory
from xds_server.mesh.events import ConfigurationReplaced
from xds_server.mesh.mesh import Mesh
from xds_server.resources.builder import Builder, BuildOptions
from xds_server.resources.listeners import MANAGER_TYPE
from xds_server.resources.validate import static_bootstrap
from xds_server.xds.model import Node

ENVOY = str(Path(sys.executable).with_name("envoy"))
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
CHAT = "/v1/chat/completions"

SERVICE = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {host}}}
spec:
  hosts: [{host}]
  resolution: STATIC
  ports: [{{number: {port}, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {upstream}}}}}]
---
"""
PLAIN = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: plain}}
spec: {{servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: plain}}
spec: {{hosts: ["*"], gateways: [plain], http: [{{route: [{{destination: {{host: plain}}}}]}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: plain}}
spec: {{host: plain, trafficPolicy: {{loadBalancer: {{simple: ROUND_ROBIN}}}}}}
---
"""
POOL = """\
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {{name: {host}}}
spec: {{host: {host}, models: {{static: {{"127.0.0.1:{upstream}": [m, "org/m"]}}{more}}}}}
---
"""
UPSTREAM = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": {manager}
          stat_prefix: up
          http_filters:
          # An answer before the end of its request's body would cost connections.
          - name: envoy.filters.http.buffer
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.buffer.v3.Buffer
              max_request_bytes: 4194304
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                direct_response: {{status: 200, body: {{inline_string: "{{}}"}}}}
"""


@dataclass(slots=True)
class Variant:
    """Requests of one kind. `baseline`: the variant that it is compared with."""

    name: str
    port: int
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: int = 0
    model: str = "m"
    baseline: str = "plain"
    cpu: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)


def variants(plain: int, pool: int, named: int) -> list[Variant]:
    made = [
        Variant("plain", plain, "/v2/models/m/infer"),
        Variant("header", pool, "/v2/models/m/infer", {"model": "m"}),
        Variant("path", pool, "/v2/models/m/infer"),
        Variant("path, escaped", pool, "/v2/models/org%2Fm/infer"),
        Variant("header, aliases", named, "/v2/models/m/infer", {"model": "m"}),
        Variant("path, aliases", named, "/v2/models/m/infer"),
        Variant("path, renamed", named, "/v2/models/one/infer"),
    ]
    for text, size in (("1 KB", 1 << 10), ("100 KB", 100 << 10), ("1 MB", 1000 << 10)):
        made += [
            Variant(f"plain, {text}", plain, CHAT, body=size, baseline=f"plain, {text}"),
            Variant(f"header, {text}", pool, CHAT, {"model": "m"}, size, baseline=f"plain, {text}"),
            Variant(f"JSON body, {text}", pool, CHAT, body=size, baseline=f"plain, {text}"),
            Variant(f"renamed, {text}", named, CHAT, body=size, model="one", baseline=f"plain, {text}"),
        ]
    return made


def script(folder: Path, variant: Variant) -> list[str]:
    """What wrk needs to send a body: a script of its own."""
    if not variant.body:
        return []
    path = folder / f"{variant.body}-{variant.model}.lua"
    text = json.dumps({"model": variant.model, "messages": [{"content": "x" * variant.body}]})
    path.write_text(
        f'wrk.method = "POST"\nwrk.headers["content-type"] = "application/json"\nwrk.body = [[{text}]]\n'
    )
    return ["-s", str(path)]


def load(folder: Path, variant: Variant, options: argparse.Namespace, process: int) -> None:
    headers = [part for name, value in variant.headers.items() for part in ("-H", f"{name}: {value}")]
    command = ["wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "--latency", *headers]
    before = cpu(process)
    url = f"http://127.0.0.1:{variant.port}{variant.path}"
    ran = subprocess.run(
        [*command, *script(folder, variant), url], check=True, capture_output=True, text=True
    )
    used = cpu(process) - before
    out = ran.stdout
    if "Non-2xx" in out or "Socket errors" in out:
        raise RuntimeError(f"{variant.name}: {out}")
    count = int(re.search(r"(\d+) requests in", out)[1])  # type: ignore[index]
    variant.cpu.append(used / count)
    variant.rate.append(count / options.seconds)
    for percent, into in (("50", variant.p50), ("99", variant.p99)):
        value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)\b", out).groups()  # type: ignore[union-attr]
        into.append(float(value) * UNITS[unit])


def cpu(process: int) -> float:
    """Microseconds of CPU that a process has used."""
    used = 0
    for task in Path(f"/proc/{process}/task").iterdir():
        used += int((task / "schedstat").read_text().split()[0])
    return used / 1000


def configuration(folder: Path, plain: int, pools: dict[str, int], upstream: int) -> dict[str, object]:
    documents = folder / "documents"
    documents.mkdir()
    text = SERVICE.format(host="plain", port=plain, upstream=upstream) + PLAIN.format(port=plain)
    for host, port in pools.items():
        more = ", aliases: {one: m}" if host == "named" else ""
        text += SERVICE.format(host=host, port=port, upstream=upstream)
        text += POOL.format(host=host, upstream=upstream, more=more)
    (documents / "all.yaml").write_text(text)
    loaded = load_directory(documents)
    if loaded.configuration is None:
        raise RuntimeError("\n".join(map(str, loaded.problems)))
    mesh = Mesh()
    mesh.apply(ConfigurationReplaced(source="bench", configuration=loaded.configuration))
    node = Node("bench", "gateway")
    catalog = Builder(BuildOptions(access_log=False)).build(mesh.routing, mesh.services(), 1)
    made: dict[str, object] = static_bootstrap(catalog.snapshot_for(node), node)
    return made


def until_up(url: str) -> None:
    ends = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)


def run(options: argparse.Namespace) -> list[Variant]:
    plain, pool, named, upstream = free_ports(4)
    found = variants(plain, pool, named)
    pools = {"pool": pool, "named": named}
    with tempfile.TemporaryDirectory(prefix="xds-names-") as name:
        folder = Path(name)
        (folder / "front.json").write_text(json.dumps(configuration(folder, plain, pools, upstream)))
        (folder / "upstream.yaml").write_text(UPSTREAM.format(upstream=upstream, manager=MANAGER_TYPE))
        running = [
            subprocess.Popen(
                [
                    ENVOY,
                    "-c",
                    str(folder / file),
                    "--disable-hot-restart",
                    "--concurrency",
                    "1",
                    "-l",
                    "error",
                ]
            )
            for file in ("upstream.yaml", "front.json")
        ]
        try:
            for port in (plain, pool, named):
                until_up(f"http://127.0.0.1:{port}/v2/models/m/infer")
            for _ in range(options.rounds):
                for variant in found:
                    load(folder, variant, options, running[1].pid)
        finally:
            for process in running:
                process.terminate()
                process.wait(10)
    return found


def report(found: list[Variant]) -> None:
    by_name = {each.name: each for each in found}
    print(f"| {'where the name is':18} | CPU a request | throughput | p50, ms | p99, ms |")
    print("|---|---|---|---|---|")
    for each in found:
        base = by_name[each.baseline]
        used = statistics.median(x / y for x, y in zip(each.cpu, base.cpu, strict=True))
        rate = statistics.median(x / y for x, y in zip(each.rate, base.rate, strict=True))
        p50, p99 = statistics.median(each.p50), statistics.median(each.p99)
        print(f"| {each.name:18} | {used:.2f} | {rate:.2f} | {p50:.2f} | {p99:.2f} |")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of load for each variant in each round")
    parser.add_argument("--connections", type=int, default=8)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed: it is what sends the requests")
    found = run(options)
    system = f"{platform.platform()}, {os.cpu_count()} cores"
    print(f"{system}; {options.rounds} rounds of {options.seconds} s; ratios to plain, medians")
    report(found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
