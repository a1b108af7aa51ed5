"""Envoy's access log: one JSON line a request on standard output."""

from __future__ import annotations

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.access_loggers.stream.v3 as stream

from xds_server.resources.filters import OWN_NAMESPACE
from xds_server.resources.parts import LB_NAMESPACE, packed, struct

FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "upstream": "%UPSTREAM_HOST%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "route": "%ROUTE_NAME%",
    "duration_ms": "%DURATION%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "model": f"%DYNAMIC_METADATA({OWN_NAMESPACE}:model)%",
    "subset": f"%DYNAMIC_METADATA({LB_NAMESPACE})%",
    "from": f"%DYNAMIC_METADATA({OWN_NAMESPACE}:from)%",
    "miss": f"%DYNAMIC_METADATA({OWN_NAMESPACE}:miss)%",
}
"""What a line says.

`model` is the name that the request brought, `from` where it was found, `miss` which miss it met, and
`subset` what the balancer was asked for (the request's `envoy.lb` metadata).
"""


def to_stdout() -> accesslog.AccessLog:
    """Log every request."""
    log_format = core.SubstitutionFormatString(json_format=struct(FIELDS))
    return accesslog.AccessLog(
        name="envoy.access_loggers.stdout", typed_config=packed(stream.StdoutAccessLog(log_format=log_format))
    )
