"""Listeners: a port, its TLS, and an HTTP connection manager whose routes come over RDS."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3

from xds_server.resources.access_log import to_stdout
from xds_server.resources.filters import early_mutations, http_filters, local_replies
from xds_server.resources.model_stats import counted_by_model
from xds_server.resources.parts import address, over_ads, packed
from xds_server.wire import field, string

if TYPE_CHECKING:
    from xds_server.mesh.routing import Tls

MANAGER_TYPE = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
EVERYWHERE = "0.0.0.0"
LOOPBACK = "127.0.0.1"

_HEADERS_WITHIN = timedelta(seconds=15)
"""For a client to send a request's headers: who dribbles them holds a connection for no work."""


def encode_gateway(
    name: str, port: int, tls: Tls | None, *, access_log: bool, model_stats: int = 0, pools: bool = False
) -> bytes:
    """Encode a gateway's Listener: reachable from outside, so the peer's address is what is believed.

    `pools`: its routes lead to pools of models, too.
    """
    common = _common_manager(access_log=access_log, model_stats=model_stats, pools=pools, outside=True)
    manager = _manager(name, common)
    return _listener(name, address(EVERYWHERE, port), manager, tls)


def encode_sidecar(
    name: str, port: int, *, access_log: bool, model_stats: int = 0, pools: bool = False
) -> bytes:
    """Encode a sidecar's Listener: for the program beside it only. `pools` as for a gateway."""
    common = _common_manager(access_log=access_log, model_stats=model_stats, pools=pools, outside=False)
    manager = _manager(name, common)
    return _listener(name, address(LOOPBACK, port), manager, None)


def _listener(name: str, at: core.Address, manager: bytes, tls: Tls | None) -> bytes:
    """Join a Listener from its parts: the large one, its connection manager, is encoded already."""
    any_manager = string(1, MANAGER_TYPE) + field(2, manager)
    chain = field(3, string(1, "envoy.filters.network.http_connection_manager") + field(4, any_manager))
    if tls is not None:
        chain += field(6, _transport_socket(tls))
    return string(1, name) + field(2, bytes(at)) + field(3, chain)


def _manager(name: str, common: bytes) -> bytes:
    """Join an HttpConnectionManager: what is the listener's own, then what all have in common."""
    rds = field(1, bytes(over_ads())) + string(2, name)
    return string(2, name) + field(3, rds) + common


@cache
def _common_manager(*, access_log: bool, model_stats: int, pools: bool, outside: bool) -> bytes:
    """Encode all of a connection manager but its name and its routes' name. Slow: some 10 ms."""
    return bytes(
        hcm.HttpConnectionManager(
            # HTTP/1.1, and HTTP/2 with prior knowledge or by ALPN, on one port.
            codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
            http_filters=http_filters(pools=pools),
            early_header_mutation_extensions=early_mutations(),
            local_reply_config=local_replies(),
            access_log=[
                *([to_stdout()] if access_log else []),
                *(counted_by_model(model_stats) if model_stats else []),
            ],
            use_remote_address=True if outside else None,
            request_headers_timeout=_HEADERS_WITHIN,
            normalize_path=True,
            # A model's name may hold a slash, sent as %2F, or two in a row.
            path_with_escaped_slashes_action=(
                hcm.HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED
            ),
            merge_slashes=False,
        )
    )


def _transport_socket(tls: Tls) -> bytes:
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
    return bytes(core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=packed(context)))


def _verified_by(ca_certificates: str) -> tls_v3.CertificateValidationContext:
    return tls_v3.CertificateValidationContext(trusted_ca=core.DataSource(filename=ca_certificates))
