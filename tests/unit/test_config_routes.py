"""VirtualService and Gateway: every field, what it becomes, and its default."""

import pytest
from config_texts import SERVICE, document, errors, load, route

from xds_server.mesh.model import Protocol
from xds_server.mesh.routing import (
    Destination,
    Gateway,
    GatewayServer,
    HeaderToKey,
    MatchKind,
    Retries,
    RouteMatch,
    StringMatch,
    Tls,
)


def gateway(port: int, name: str, namespace: str = "ml") -> str:
    text = f'servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]'
    return document("Gateway", text, name=name).replace("namespace: ml", f"namespace: {namespace}")


class TestVirtualService:
    def test_every_field(self, tmp_path):
        text = route(
            """
name: infer
match:
  - port: 8008
    uri: {prefix: /v2}
    headers: {Model: {exact: tf-mnist}, x-any: {}, x-re: {regex: "a|b"}, x-pre: {prefix: a}}
  - uri: {exact: /v2/health}
  - uri: {regex: "/v2/models/[^/]+/infer"}
headerToDynamicSubsetKey:
  - {header: X-Stage, key: stage}
  - {header: x-version, key: version}
route:
  - {destination: {host: models, port: {number: 8033}}, weight: 90}
  - {destination: {host: models}, weight: 10}
timeout: 30s
retries: {attempts: 2, perTryTimeout: 10s, retryOn: "connect-failure, 503"}
""",
            'hosts: ["*", models.example.com, "*.ml"]\ngateways: [mesh, front, other/back]',
        )
        (service,) = load(
            tmp_path, SERVICE, gateway(8008, "front"), gateway(8009, "back", "other"), text
        ).virtual_services
        assert service.name == "ml/models"
        assert service.hosts == ("*", "models.example.com", "*.ml")
        assert service.gateways == ("mesh", "ml/front", "other/back")
        (compiled,) = service.routes
        assert compiled.name == "infer"
        assert compiled.matches == (
            RouteMatch(
                port=8008,
                uri=StringMatch(MatchKind.PREFIX, "/v2"),
                headers=(
                    ("model", StringMatch(MatchKind.EXACT, "tf-mnist")),
                    ("x-any", StringMatch(MatchKind.PRESENT)),
                    ("x-pre", StringMatch(MatchKind.PREFIX, "a")),
                    ("x-re", StringMatch(MatchKind.REGEX, "a|b")),
                ),
            ),
            RouteMatch(uri=StringMatch(MatchKind.EXACT, "/v2/health")),
            RouteMatch(uri=StringMatch(MatchKind.REGEX, "/v2/models/[^/]+/infer")),
        )
        assert compiled.header_to_key == (
            HeaderToKey("x-stage", "stage"),
            HeaderToKey("x-version", "version"),
        )
        assert compiled.destinations == (Destination("models", 8033, 90), Destination("models", 8033, 10))
        assert compiled.timeout == 30.0
        assert compiled.retries == Retries(2, 10.0, "connect-failure,503")

    def test_defaults(self, tmp_path):
        (service,) = load(tmp_path, SERVICE, route("route: [{destination: {host: models}}]")).virtual_services
        assert service.gateways == ("mesh",)
        (compiled,) = service.routes
        assert compiled.name == "http-0"
        assert compiled.destinations == (Destination("models", 8033, 1),)
        assert (compiled.matches, compiled.header_to_key) == ((), ())
        assert (compiled.timeout, compiled.retries) == (None, None)

    def test_a_share_of_0_beside_others_and_a_timeout_of_0_are_allowed(self, tmp_path):
        text = route(
            "route: [{destination: {host: models}, weight: 0}, {destination: {host: models}, weight: 1}]\n"
            "timeout: 0s"
        )
        (compiled,) = load(tmp_path, SERVICE, text).virtual_services[0].routes
        assert [destination.weight for destination in compiled.destinations] == [0, 1]
        assert compiled.timeout == 0.0

    @pytest.mark.parametrize(
        "regex", [r"a\d+", r"[(?!]", r"[+*]+", r"\\1", r"(?:a|b)?", r"(?i)abc", r"(?P<n>a)", r"a+?"]
    )
    def test_regular_expressions_that_re2_has(self, tmp_path, regex):
        text = route(
            f"match: [{{headers: {{model: {{regex: '{regex}'}}}}}}]\n"
            "route: [{destination: {host: models}}]"
        )
        (compiled,) = load(tmp_path, SERVICE, text).virtual_services[0].routes
        assert compiled.matches[0].headers == (("model", StringMatch(MatchKind.REGEX, regex)),)

    @pytest.mark.parametrize(
        "regex", [r"(a)\1", "(?<=a)b", "(?<!a)b", "(?=a)", "(?!a)", "(?>a)", "a++", "(?P<n>a)(?P=n)"]
    )
    def test_regular_expressions_that_re2_lacks(self, tmp_path, regex):
        text = route(f"match: [{{uri: {{regex: '{regex}'}}}}]\nroute: [{{destination: {{host: models}}}}]")
        (error,) = errors(tmp_path, SERVICE, text)
        assert "match[0].uri.regex: found" in error
        assert "RE2" in error

    def test_a_header_twice_in_different_case_is_an_error(self, tmp_path):
        text = route("match: [{headers: {Model: {}, model: {}}}]\nroute: [{destination: {host: models}}]")
        (error,) = errors(tmp_path, SERVICE, text)
        assert error.endswith("headers.model: found it again; expected each header once; case is ignored")

    @pytest.mark.parametrize("gateway", ["Front", "a/b/c", "/front", "ml/", "a b"])
    def test_what_is_no_reference_to_a_gateway(self, tmp_path, gateway):
        text = route("route: [{destination: {host: models}}]", f'hosts: ["*"]\ngateways: ["{gateway}"]')
        (error,) = errors(tmp_path, SERVICE, text)
        assert error.endswith(f'found "{gateway}"; expected "mesh", "name" or "namespace/name"')

    def test_a_service_without_a_port_in_its_match_may_use_a_gateway_that_another_implies(self, tmp_path):
        one = route(
            "match: [{port: 8008}]\nroute: [{destination: {host: models}}]", 'hosts: ["*"]\ngateways: [g]'
        )
        other = document(
            "VirtualService",
            "hosts: [a]\ngateways: [g]\nhttp: [{route: [{destination: {host: models}}]}]",
            name="other",
        )
        assert len(load(tmp_path, SERVICE, one, other).virtual_services) == 2


class TestGateway:
    def test_every_field(self, tmp_path):
        text = """
selector: {tier: front, app: gateway}
servers:
  - port: {number: 8008, name: http, protocol: HTTP}
    hosts: ["*"]
  - port: {number: 8443, name: https, protocol: HTTP2}
    hosts: [models.example.com, "*.ml"]
    tls: {mode: SIMPLE, serverCertificate: cert.pem, privateKey: key.pem}
  - port: {number: 8444, name: mtls, protocol: GRPC}
    hosts: ["*"]
    tls: {mode: MUTUAL, serverCertificate: cert.pem, privateKey: key.pem, caCertificates: ca.pem}
"""
        assert load(tmp_path, document("Gateway", text)).gateways == (
            Gateway(
                name="ml/models",
                servers=(
                    GatewayServer(8008, "http", Protocol.HTTP, ("*",)),
                    GatewayServer(
                        8443,
                        "https",
                        Protocol.HTTP2,
                        ("models.example.com", "*.ml"),
                        Tls("cert.pem", "key.pem"),
                    ),
                    GatewayServer(8444, "mtls", Protocol.GRPC, ("*",), Tls("cert.pem", "key.pem", "ca.pem")),
                ),
                selector={"app": "gateway", "tier": "front"},
            ),
        )

    @pytest.mark.parametrize("selector", ["", "selector: {}"])
    def test_without_a_selector_it_is_for_every_node(self, tmp_path, selector):
        text = f'{selector}\nservers: [{{port: {{number: 1, name: a, protocol: HTTP}}, hosts: ["*"]}}]'
        assert load(tmp_path, document("Gateway", text)).gateways[0].selector is None

    def server(self, selector: str, name: str) -> str:
        servers = 'servers: [{port: {number: 80, name: a, protocol: HTTP}, hosts: ["*"]}]'
        text = f"selector: {selector}\n{servers}"
        return document("Gateway", text, name=name)

    def test_gateways_that_cannot_meet_on_a_node_may_share_a_port(self, tmp_path):
        configuration = load(tmp_path, self.server("{t: a, x: y}", "one"), self.server("{t: b}", "two"))
        assert len(configuration.gateways) == 2

    @pytest.mark.parametrize("selector", ["{t: a}", "{t: a, x: y}", "{x: y}", "{}"])
    def test_gateways_that_can_meet_on_a_node_may_not(self, tmp_path, selector):
        (error,) = errors(tmp_path, self.server("{t: a}", "one"), self.server(selector, "two"))
        assert "spec.servers[0].port.number: found 80, which Gateway ml/one" in error

    def test_the_name_mesh_is_taken(self, tmp_path):
        (error,) = errors(tmp_path, self.server("{}", "mesh"))
        assert error.endswith(
            'found "mesh"; expected another name: in a VirtualService, mesh means the sidecars'
        )

    def test_certificate_authority_without_mutual(self, tmp_path):
        text = """
servers:
  - port: {number: 1, name: a, protocol: HTTP}
    hosts: ["*"]
    tls: {mode: SIMPLE, serverCertificate: a, privateKey: b, caCertificates: c}
"""
        (error,) = errors(tmp_path, document("Gateway", text))
        assert (
            "caCertificates: found one with mode SIMPLE; expected caCertificates only with mode MUTUAL"
            in error
        )
