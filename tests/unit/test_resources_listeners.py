"""Listeners are joined from encoded parts: what comes out is what the library itself reads and writes."""

from __future__ import annotations

import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.extensions.access_loggers.grpc.v3 as grpc_log
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3
import pytest
import yaml

from xds_server.mesh.routing import Tls
from xds_server.resources.bootstrap import bootstrap
from xds_server.resources.listeners import EVERYWHERE, LOOPBACK, encode_gateway, encode_sidecar

TLS = Tls("/certs/tls.crt", "/certs/tls.key", "/certs/ca.crt")


def manager_of(listener: listener_v3.Listener) -> hcm.HttpConnectionManager:
    (chain,) = listener.filter_chains
    (network,) = chain.filters
    assert network.typed_config is not None
    manager = network.typed_config.unpack()
    assert isinstance(manager, hcm.HttpConnectionManager)
    return manager


@pytest.mark.parametrize("access_log", [True, False])
@pytest.mark.parametrize("tls", [None, TLS])
@pytest.mark.parametrize(("name", "port"), [("gateway|8008", 8008), ("é|65535", 65535), ("x" * 300, 1)])
def test_the_joined_bytes_are_the_message(name: str, port: int, tls: Tls | None, access_log: bool) -> None:
    body = encode_gateway(name, port, tls, access_log=access_log)
    listener = listener_v3.Listener.parse(body)
    assert listener.name == name
    assert listener.address is not None
    assert listener.address.socket_address is not None
    assert (listener.address.socket_address.address, listener.address.socket_address.port_value) == (
        EVERYWHERE,
        port,
    )
    manager = manager_of(listener)
    assert manager.stat_prefix == name
    assert manager.rds is not None
    assert manager.rds.route_config_name == name
    assert manager.use_remote_address is True
    assert bool(manager.access_log) is access_log
    # Nothing is lost or unknown: read and written by the library it has the same length.
    assert len(bytes(listener)) == len(body)
    assert len(bytes(manager)) == len(listener.filter_chains[0].filters[0].typed_config.value)


def test_tls_has_the_certificate_files_and_asks_for_a_clients() -> None:
    listener = listener_v3.Listener.parse(encode_gateway("g", 1, TLS, access_log=False))
    socket = listener.filter_chains[0].transport_socket
    assert socket is not None
    assert socket.typed_config is not None
    context = socket.typed_config.unpack()
    assert isinstance(context, tls_v3.DownstreamTlsContext)
    assert context.require_client_certificate is True
    assert context.common_tls_context is not None
    (certificate,) = context.common_tls_context.tls_certificates
    assert certificate.certificate_chain is not None
    assert certificate.certificate_chain.filename == TLS.certificate


def test_a_sidecar_listens_on_loopback_and_believes_its_program() -> None:
    listener = listener_v3.Listener.parse(encode_sidecar("sidecar|80", 80, access_log=True))
    assert listener.address is not None
    assert listener.address.socket_address is not None
    assert listener.address.socket_address.address == LOOPBACK
    assert manager_of(listener).use_remote_address is None


def test_listeners_share_what_is_not_their_own() -> None:
    one = encode_gateway("a", 1, None, access_log=True)
    other = encode_gateway("b", 2, None, access_log=True)
    assert one != other
    assert manager_of(listener_v3.Listener.parse(one)).http_filters == (
        manager_of(listener_v3.Listener.parse(other)).http_filters
    )


def router_of(listener: bytes) -> router_v3.Router:
    *_, last = manager_of(listener_v3.Listener.parse(listener)).http_filters
    assert last.typed_config is not None
    return router_v3.Router.parse(last.typed_config.value)


def test_attempts_are_told_of_where_replicas_hold_models_and_nowhere_else() -> None:
    (log,) = router_of(encode_gateway("a", 1, None, access_log=False, pools=True)).upstream_log
    assert router_of(encode_gateway("a", 1, None, access_log=False)).upstream_log == []
    assert router_of(encode_sidecar("a", 1, access_log=False, pools=True)).upstream_log == [log]
    assert router_of(encode_sidecar("a", 1, access_log=False)).upstream_log == []
    assert log.typed_config is not None
    common = grpc_log.HttpGrpcAccessLogConfig.parse(log.typed_config.value).common_config
    assert common is not None
    assert common.grpc_service is not None
    assert common.grpc_service.envoy_grpc is not None
    (cluster,) = yaml.safe_load(bootstrap())["static_resources"]["clusters"]
    assert common.grpc_service.envoy_grpc.cluster_name == cluster["name"]
