"""What Envoy tells this server of attempts: those that a replica answered with "not found".

Envoy sends an entry for each, retried or not, and nothing for any other; no request waits for that. They
go to the cluster of the bootstrap that xDS comes from. Where nobody takes them, or a bootstrap has no such
cluster, Envoy keeps some kilobytes on each thread and drops the rest.
"""

from __future__ import annotations

from datetime import timedelta

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 as grpc_log

from xds_server.resources.bootstrap import XDS_CLUSTER
from xds_server.resources.parts import packed
from xds_server.xds.model import NOT_FOUND_LOG

FLUSH_AFTER = timedelta(milliseconds=100)
"""Entries that come within this time travel together."""

_NOT_FOUND = 404


def not_found_log() -> accesslog.AccessLog:
    """Send what was answered with 404, or with the gRPC status NOT_FOUND.

    Two conditions: for Envoy a plain 404 has the gRPC status UNIMPLEMENTED.
    """
    common = grpc_log.CommonGrpcAccessLogConfig(
        log_name=NOT_FOUND_LOG,
        transport_api_version=core.ApiVersion.V3,
        grpc_service=core.GrpcService(envoy_grpc=core.GrpcServiceEnvoyGrpc(cluster_name=XDS_CLUSTER)),
        buffer_flush_interval=FLUSH_AFTER,
    )
    plain = accesslog.StatusCodeFilter(
        comparison=accesslog.ComparisonFilter(
            op=accesslog.ComparisonFilterOp.EQ,
            value=core.RuntimeUInt32(default_value=_NOT_FOUND, runtime_key="xds-server.never"),
        )
    )
    status = accesslog.GrpcStatusFilter(statuses=[accesslog.GrpcStatusFilterStatus.NOT_FOUND])
    either = accesslog.OrFilter(
        filters=[
            accesslog.AccessLogFilter(status_code_filter=plain),
            accesslog.AccessLogFilter(grpc_status_filter=status),
        ]
    )
    return accesslog.AccessLog(
        name="envoy.access_loggers.http_grpc",
        filter=accesslog.AccessLogFilter(or_filter=either),
        typed_config=packed(grpc_log.HttpGrpcAccessLogConfig(common_config=common)),
    )
