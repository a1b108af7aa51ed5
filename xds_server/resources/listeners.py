"""Listeners: a port, its TLS, and an HTTP connection manager whose routes come over RDS."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as header_to_metadata
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3

from xds_server.resources.access_log import to_stdout
from xds_server.resources.parts import address, over_ads, packed
from xds_server.resources.routes import HEADER_TO_METADATA

if TYPE_CHECKING:
    from xds_server.mesh.model import Tls

EVERYWHERE = "0.0.0.0"
LOOPBACK = "127.0.0.1"

_HEADERS_WITHIN = timedelta(seconds=15)
"""For a client to send a request's headers: who dribbles them holds a connection for no work."""


def encode_gateway(name: str, port: int, tls: Tls | None, *, access_log: bool) -> bytes:
    """Encode a gateway's Listener: reachable from outside, so the peer's address is what is believed."""
    manager = _connection_manager(name, access_log=access_log)
    manager.use_remote_address = True
    return _encode(name, EVERYWHERE, port, manager, tls)


def encode_sidecar(name: str, port: int, *, access_log: bool) -> bytes:
    """Encode a sidecar's Listener: for the program beside it only."""
    return _encode(name, LOOPBACK, port, _connection_manager(name, access_log=access_log), None)


def _encode(name: str, host: str, port: int, manager: hcm.HttpConnectionManager, tls: Tls | None) -> bytes:
    chain = listener_v3.FilterChain(
        filters=[
            listener_v3.Filter(
                name="envoy.filters.network.http_connection_manager", typed_config=packed(manager)
            )
        ],
        transport_socket=None if tls is None else _transport_socket(tls),
    )
    return bytes(listener_v3.Listener(name=name, address=address(host, port), filter_chains=[chain]))


def _connection_manager(name: str, *, access_log: bool) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix=name,
        # HTTP/1.1, and HTTP/2 with prior knowledge or by ALPN, on one port.
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        rds=hcm.Rds(config_source=over_ads(), route_config_name=name),
        http_filters=[
            # Without rules of its own: each route brings them.
            hcm.HttpFilter(name=HEADER_TO_METADATA, typed_config=packed(header_to_metadata.Config())),
            hcm.HttpFilter(name="envoy.filters.http.router", typed_config=packed(router.Router())),
        ],
        access_log=[to_stdout()] if access_log else [],
        request_headers_timeout=_HEADERS_WITHIN,
        normalize_path=True,
        # A model's name may hold a slash, sent as %2F, or two in a row.
        path_with_escaped_slashes_action=(
            hcm.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED
        ),
        merge_slashes=False,
    )


def _transport_socket(tls: Tls) -> core.TransportSocket:
    context = tls_v3.DownstreamTlsContext(
        common_tls_context=tls_v3.CommonTlsContext(
            alpn_protocols=["h2", "http/1.1"],
            tls_certificates=[
                tls_v3.TlsCertificate(
                    certificate_chain=core.DataSource(filename=tls.certificate),
                    private_key=core.DataSource(filename=tls.private_key),
                )
            ],
            validation_context=None if tls.ca_certificates is None else _verified_by(tls.ca_certificates),
        ),
        require_client_certificate=None if tls.ca_certificates is None else True,
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context))


def _verified_by(ca_certificates: str) -> tls_v3.CertificateValidationContext:
    return tls_v3.CertificateValidationContext(trusted_ca=core.DataSource(filename=ca_certificates))
