"""What a real Envoy makes of the resources: it routes as they say."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.resources_pictures import (
    KEY,
    SIDECAR,
    picture,
    placed,
    policy,
    pool,
    route,
    routing,
    service,
    services,
    virtual_service,
)
from tests.static_envoy import StaticEnvoy, Upstream, free_ports, get, spread
from xds_server.mesh.model import PlacedEndpoint, ServicePicture, ServicePort
from xds_server.mesh.policies import Fallback, Selector
from xds_server.mesh.routing import Destination, Gateway, GatewayServer, HeaderToKey, Tls
from xds_server.resources.builder import Builder, BuildOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from xds_server.mesh.pools import Pool

ANY, NO, DEFAULT = Fallback.ANY_ENDPOINT, Fallback.NO_FALLBACK, Fallback.DEFAULT_SUBSET
ODD_NAMES = ("a/b", 'quo"te', "a b", "a%2Fb", "naïve-☃", "*", "{}", "a,b", "x" * 300)


class World:
    """One Envoy for all scenarios: each has a service and a gateway port of its own."""

    def __init__(self, directory: Path) -> None:
        self._upstreams = {name: Upstream(name) for name in ("a", "b")}
        ports = iter(free_ports(20))
        self._ports = ports
        self.at = {name: upstream.port for name, upstream in self._upstreams.items()}
        self.at["dead"] = next(ports)
        self.port: dict[str, int] = {}
        self.service_port = next(ports)
        self._pictures: list[ServicePicture] = []
        self._gateways: list[Gateway] = []
        self._services = []
        self._certificate = self._self_signed(directory)
        self._scenarios()
        chosen = routing(self._pictures, self._services, self._gateways)
        built = Builder(BuildOptions()).build(chosen, services(*self._pictures), 1)
        try:
            self.envoy = StaticEnvoy(built, SIDECAR, directory)
        except BaseException:
            self._close_upstreams()
            raise

    def close(self) -> None:
        self.envoy.close()
        self._close_upstreams()

    def _close_upstreams(self) -> None:
        for upstream in self._upstreams.values():
            upstream.close()

    def at_port(self, upstream: str, models: tuple[str, ...] = (), **labels: str) -> PlacedEndpoint:
        return placed(self.at[upstream], models, labels)

    def unhealthy(self, upstream: str, *models: str) -> PlacedEndpoint:
        return placed(self.at[upstream], models, healthy=False)

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._certificate.certificate)

    def _add(
        self,
        name: str,
        *endpoints: PlacedEndpoint,
        selectors: tuple[Selector, ...] = (Selector((KEY,), NO),),
        mapping: tuple[HeaderToKey, ...] = (HeaderToKey("model", KEY),),
        of: Pool | None = None,
        default_subset: dict[str, str] | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.port[name] = next(self._ports)
        rule = policy(*selectors, host=name, default_subset=default_subset or {})
        port = ServicePort(self.service_port, "http")
        self._pictures.append(picture(*endpoints, of=service(name, port), policy=rule, pool=of or pool(name)))
        server = GatewayServer(self.port[name], "http", tls=tls)
        self._gateways.append(Gateway(f"ns/{name}", (server,)))
        destination = Destination(name, self.service_port)
        self._services.append(
            virtual_service(
                route(destination, header_to_key=mapping), name=f"ns/{name}", gateways=(f"ns/{name}",)
            )
        )

    def _scenarios(self) -> None:
        a, b = self.at_port("a", ("m1", "both")), self.at_port("b", ("m2", "both"))
        several = (
            HeaderToKey("model", KEY),
            HeaderToKey("stage", "stage"),
            HeaderToKey("version", "version"),
        )
        v1 = self.at_port("a", ("m1",), stage="prod", version="1")
        v2 = self.at_port("b", ("m1",), stage="prod", version="2")
        self._add("strict", a, b)
        self._add("any", a, b, selectors=(Selector((KEY,), ANY),))
        self._add("no-model", a, b, of=pool("no-model", no_model=ANY))
        self._add("not-loaded", a, b, selectors=(Selector((KEY,), ANY),), of=pool("", not_loaded=NO))
        self._add("retry", self.at_port("dead", ("m1",)), self.at_port("b", ("m1",)))
        self._add("only-unhealthy", self.unhealthy("a", "m1"), b)
        self._add("odd", self.at_port("a", ODD_NAMES), b)
        self._add("more-headers", a, b, mapping=several)
        self._add("tls", a, b, tls=self._certificate)
        self._add(
            "keys",
            v1,
            v2,
            mapping=several,
            selectors=(Selector(("stage", "version")), Selector((KEY, "version"))),
        )
        self._add(
            "default",
            self.at_port("a", (), stage="prod"),
            self.at_port("b", (), stage="test"),
            mapping=several,
            selectors=(Selector(("stage",), DEFAULT),),
            default_subset={"stage": "prod"},
        )
        self._add(
            "one-without-models",
            self.at_port("a", ("m1",), zone="x"),
            self.at_port("b", (), zone="x"),
            selectors=(Selector((KEY, "zone")),),
            mapping=(HeaderToKey("model", KEY), HeaderToKey("zone", "zone")),
        )

    @staticmethod
    def _self_signed(directory: Path) -> Tls:
        certificate, key = directory / "cert.pem", directory / "key.pem"
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=test",
        ]
        command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        return Tls(str(certificate), str(key))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("envoy"))
    yield made
    made.close()


def test_a_model_is_answered_by_who_has_it(world: World) -> None:
    port = world.port["strict"]
    assert spread(port, {"model": "m1"}) == {"a": 12}
    assert spread(port, {"model": "m2"}) == {"b": 12}
    assert set(spread(port, {"model": "both"})) == {"a", "b"}


def test_no_fallback_refuses_what_nobody_has_and_what_names_no_model(world: World) -> None:
    assert spread(world.port["strict"], {"model": "m3"}) == {"503": 12}
    assert spread(world.port["strict"]) == {"503": 12}


def test_any_endpoint_takes_what_nobody_has_and_what_names_no_model(world: World) -> None:
    port = world.port["any"]
    assert spread(port, {"model": "m1"}) == {"a": 12}
    assert set(spread(port, {"model": "m3"})) == {"a", "b"}
    assert set(spread(port)) == {"a", "b"}


def test_a_pool_decides_apart_what_names_no_model(world: World) -> None:
    assert set(spread(world.port["no-model"])) == {"a", "b"}
    assert spread(world.port["no-model"], {"model": "m3"}) == {"503": 12}


def test_a_pool_decides_apart_what_is_not_loaded(world: World) -> None:
    assert set(spread(world.port["not-loaded"])) == {"a", "b"}
    assert spread(world.port["not-loaded"], {"model": "m3"}) == {"503": 12}


def test_a_refused_connection_is_retried_on_another_holder(world: World) -> None:
    assert spread(world.port["retry"], {"model": "m1"}, 20) == {"b": 20}


def test_an_unhealthy_only_holder_gets_nothing(world: World) -> None:
    assert spread(world.port["only-unhealthy"], {"model": "m1"}) == {"503": 12}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_of_any_characters(world: World, name: str) -> None:
    assert spread(world.port["odd"], {"model": name}, 4) == {"a": 4}


def test_a_key_that_no_selector_has_does_no_harm(world: World) -> None:
    headers = {"model": "m2", "stage": "prod", "version": "7"}
    assert spread(world.port["more-headers"], headers) == {"b": 12}


def test_several_keys_together(world: World) -> None:
    port = world.port["keys"]
    assert spread(port, {"stage": "prod", "version": "1"}) == {"a": 12}
    assert spread(port, {"stage": "prod", "version": "2"}) == {"b": 12}
    assert spread(port, {"model": "m1", "version": "2"}) == {"b": 12}
    assert spread(port, {"stage": "prod", "version": "3"}) == {"503": 12}
    assert spread(port, {"stage": "prod"}) == {"503": 12}


def test_the_default_subset(world: World) -> None:
    port = world.port["default"]
    assert spread(port, {"stage": "test"}) == {"b": 12}
    assert spread(port, {"stage": "other"}) == {"a": 12}
    assert spread(port) == {"a": 12}


def test_a_replica_without_models_is_in_no_subset_of_models(world: World) -> None:
    port = world.port["one-without-models"]
    assert spread(port, {"model": "m1", "zone": "x"}) == {"a": 12}
    # With an empty list of models Envoy would put b in a subset of the zone alone.
    assert spread(port, {"zone": "x"}) == {"503": 12}


@pytest.mark.parametrize("path", ["/v2/models/a%2Fb/infer", "/v2//models", "/v2/models/a%20b?x=%2F", "/%25"])
def test_a_path_reaches_the_replica_as_it_was_sent(world: World, path: str) -> None:
    assert get(world.port["strict"], {"model": "m1"}, path) == (200, "a", path)


def test_tls(world: World) -> None:
    assert get(world.port["tls"], {"model": "m2"}, tls=world.tls)[:2] == (200, "b")


def test_a_sidecar_serves_each_host_on_loopback(world: World) -> None:
    for host, model, name in (("strict", "m1", "a"), ("any", "m2", "b")):
        headers = {"host": f"{host}:{world.service_port}", "model": model}
        connection = socket.create_connection(("127.0.0.1", world.service_port))
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        with connection, connection.makefile("rb") as reader:
            connection.sendall(f"GET / HTTP/1.1\r\n{lines}connection: close\r\n\r\n".encode())
            answer = reader.read().decode()
        assert answer.startswith("HTTP/1.1 200")
        assert f'["{name}", "/"]' in answer


def test_the_access_log_says_which_subset_was_asked_for_and_who_answered(world: World) -> None:
    get(world.port["strict"], {"model": "m1"}, "/logged")
    line = json.loads(world.envoy.wait_for("/logged"))
    assert line["subset"] == {KEY: "m1"}
    assert line["upstream"] == f"127.0.0.1:{world.at['a']}"
    assert line["cluster"] == f"strict|{world.service_port}"
    assert (line["route"], line["code"], line["attempts"]) == ("ns/strict/default", 200, 1)
