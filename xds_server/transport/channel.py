"""How gRPC keeps the connections of the xDS port. The bare server of the benchmarks keeps them alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xds_server.transport.server import ServerOptions

_READ_AHEAD = 1024 * 1024
"""Bytes of requests that a client may send before they are read."""


def channel_options(options: ServerOptions) -> list[tuple[str, int]]:
    """Put the options into gRPC's words."""
    return [
        ("grpc.so_reuseport", 0),
        # Above this gRPC refuses by itself; what lies between is refused with our words, and counted.
        ("grpc.max_receive_message_length", 2 * options.max_request),
        ("grpc.max_send_message_length", -1),
        ("grpc.keepalive_time_ms", int(options.keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", int(options.keepalive_timeout * 1000)),
        # Of the two this is the one that ends it: without it a silent peer keeps its place for a minute.
        ("grpc.http2.ping_timeout_ms", int(options.keepalive_timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # The library's own five minutes would take Envoy's pings for an attack.
        ("grpc.http2.min_ping_interval_without_data_ms", int(options.shortest_ping * 1000)),
        # No ping after every few requests to find out how fast they come: a sixth of all the CPU time.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", _READ_AHEAD),
    ]
