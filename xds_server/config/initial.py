"""A first set of documents for somebody who has none: `xds-server init`."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from xds_server.mesh.model import join_host_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LAST_PORT = 65535
_SERVICE_PORT = 8080

_SERVICES = """\
# What runs where. Edit and save: a running xds-server follows within a second.
# `xds-server check DIR` says what is wrong, if anything is.

# The service: what routes send requests to, and the replicas behind it.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: models}}
spec:
  hosts: [models]            # the name that routing.yaml uses
  resolution: STATIC         # the replicas are listed here, by IP address
  ports:
    - {{number: {service_port}, name: http, protocol: HTTP}}   # GRPC or HTTP2: HTTP/2 to the replicas
  endpoints:
    # One line a replica. `ports` gives its own port for each port name above.
    # More may stand here: labels: {{stage: prod}}, locality: region/zone, weight: 2
{endpoints}
---
# The models: every replica is asked which it has loaded, and requests follow that.
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {{name: models}}
spec:
  host: models
  models:
    # The repository index of the Open Inference Protocol (KServe V2), as MLServer and Triton have it.
    openInference:
      interval: 1s           # how often each replica is asked
      timeout: 2s            # how long an answer may take
      grace: 10s             # how long a replica that times out keeps its models
      # port: 9000           # where the index is not on the traffic port: a number, or a name in `ports`
  onMiss:
    noModel: NO_FALLBACK     # a request that names no model: 503; or ANY_ENDPOINT
"""

_ROUTING = """\
# Where requests come in, and how they find a replica that has their model.

# The port that Envoy listens on.
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: models}}
spec:
  # selector: {{app: gateway}}   # only for Envoys with these labels; without it, for every Envoy
  servers:
    - port: {{number: {port}, name: http, protocol: HTTP}}
      hosts: ["*"]
---
# From the gateway to the service. The header `model` says which model a request is for.
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: models}}
spec:
  hosts: ["*"]
  gateways: [models]
  http:
    - name: models
      headerToDynamicSubsetKey:
        - {{header: model, key: modelmesh.asm.alibabacloud.com}}
      route:
        - destination: {{host: models, port: {{number: {service_port}}}}}
      timeout: 60s             # an inference may take this long; 0s: no limit
---
# How the replicas are grouped: those that have a model are its subset.
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: models}}
spec:
  host: models
  trafficPolicy:
    loadBalancer:
      simple: LEAST_REQUEST    # among those that have the model; or ROUND_ROBIN, RANDOM
      dynamicSubset:
        subsetSelectors:
          - keys: [modelmesh.asm.alibabacloud.com]
            fallbackPolicy: NO_FALLBACK   # loaded nowhere: 503; or ANY_ENDPOINT
"""


def write_initial(directory: Path, replicas: Sequence[str], port: int) -> list[Path]:
    """Writes services.yaml and routing.yaml for the replicas (IP:PORT) and a gateway port.

    Returns the files written. Raises, with a sentence for the user, ValueError on a replica or
    port that is not valid, and FileExistsError when one of the files exists; then nothing is
    written. Raises another OSError where the directory cannot be made or written.
    """
    if not 1 <= port <= _LAST_PORT:
        raise ValueError(f"the gateway port is {port}; expected a number from 1 to {_LAST_PORT}")
    addresses = [_replica(replica) for replica in replicas]
    if not addresses:
        raise ValueError("no replica is given; expected at least one IP:PORT, such as 127.0.0.1:9001")
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            raise ValueError(f"the replica {join_host_port(*address)} is given twice; expected each once")
    endpoints = "\n".join(f'    - {{address: "{ip}", ports: {{http: {number}}}}}' for ip, number in addresses)
    texts = {
        directory / "services.yaml": _SERVICES.format(endpoints=endpoints, service_port=_SERVICE_PORT),
        directory / "routing.yaml": _ROUTING.format(port=port, service_port=_SERVICE_PORT),
    }
    if existing := [file.name for file in texts if file.exists() or file.is_symlink()]:
        raise FileExistsError(
            f"{directory} has {' and '.join(existing)} already; expected a directory without"
        )
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    return list(texts)


def _replica(text: str) -> tuple[str, int]:
    """The address and port of `IP:PORT` or `[IPV6]:PORT`."""
    host, colon, number = text.strip().rpartition(":")
    if not colon or not number.isascii() or not number.isdigit() or not 1 <= int(number) <= _LAST_PORT:
        raise ValueError(f'the replica "{text}" has no valid port; expected IP:PORT, such as 127.0.0.1:9001')
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(
            f'the replica "{text}" has the name {host or "nothing"} as its address; expected an IP address, '
            "since a ServiceEntry with resolution STATIC takes no names"
        ) from None
    if (address.version == 6) != (bare != host):  # noqa: PLR2004 - IP version
        raise ValueError(f'the replica "{text}" is ambiguous; expected [IPV6]:PORT for an IPv6 address only')
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f'the replica "{text}" has no address of a machine; expected one such as 127.0.0.1')
    return str(address), int(number)
