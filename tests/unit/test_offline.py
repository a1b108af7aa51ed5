"""The commands that need no server, as they are typed: what they print, where, and their exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from config_texts import SERVICE, document, pool

from xds_server import offline
from xds_server.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    from xds_server.resources.views import ViewCatalog
    from xds_server.xds.model import Node

Captured = pytest.CaptureFixture[str]

POOL = pool("host: models\nmodels: {openInference: {}}")
RULE = document("DestinationRule", "host: models\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "a.yaml").write_text(f"{SERVICE}---\n{POOL}")
    return tmp_path


def test_init_then_check_then_render(tmp_path: Path, capsys: Captured) -> None:
    conf = tmp_path / "conf"
    assert main(["init", str(conf), "--replicas", "127.0.0.1:9001,127.0.0.1:9002", "--port", "8008"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: xds-server serve --config {conf}"
    assert main(["check", str(conf)]) == 0
    out, err = capsys.readouterr()
    assert "1 service, 2 endpoints, 1 model pool, 1 virtual service; no error" in out
    assert err == ""
    assert main(["render", str(conf), "--format", "json"]) == 0
    rendered = json.loads(capsys.readouterr().out)
    assert [listener["name"] for listener in rendered["listeners"]] == ["gateway|8008"]
    assert main(["init", str(conf), "--replicas", "127.0.0.1:9001"]) == 1
    assert "already" in capsys.readouterr().err


def test_errors_go_to_standard_error_with_their_number(directory: Path, capsys: Captured) -> None:
    (directory / "b.yaml").write_text(pool("host: nowhere\nmodels: {static: {}}", "b") + "---\nkind: X\n")
    for command in ("check", "render"):
        assert main([command, str(directory)]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert 'found "nowhere"' in err
        assert err.endswith(f" errors in {directory}\n")


def test_render_shows_what_a_pool_adds_to_a_rule_without_selectors(directory: Path, capsys: Captured) -> None:
    (directory / "b.yaml").write_text(RULE)
    assert main(["render", str(directory)]) == 0
    rendered: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    keys = [{"keys": ["modelmesh.asm.alibabacloud.com"], "fallbackPolicy": "NO_FALLBACK"}]
    assert rendered["implied"]["policies"] == [
        {"host": "models", "selectors": keys, "impliedBy": "ml/models"}
    ]
    (cluster,) = rendered["clusters"]
    text = json.dumps(cluster["load_balancing_policy"])
    assert text.index("subset") < text.index("round_robin")


def test_render_refuses_a_label_without_a_value(directory: Path, capsys: Captured) -> None:
    assert main(["render", str(directory), "--label", "app"]) == 2
    assert "--label 'app': expected KEY=VALUE" in capsys.readouterr().err


def test_every_gateway_is_validated_whatever_its_selector(
    directory: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for port, selector in ((81, "{}"), (82, "{app: front}"), (83, "{app: back, zone: a}")):
        server = f"servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['*']}}]"
        text = document("Gateway", f"selector: {selector}\n{server}", name=f"g{port}")
        (directory / f"g{port}.yaml").write_text(text)
    seen = set()

    def validate(catalog: ViewCatalog, node: Node, envoy: str) -> list[str]:
        assert envoy == "/opt/envoy"
        rendered = json.loads(offline.rendering.render(catalog, node, "json"))
        seen.update(listener["name"] for listener in rendered["listeners"])
        return ["no such file"] if node.labels.get("app") == "back" else []

    monkeypatch.setattr(offline, "validate_with_envoy", validate)
    assert main(["check", str(directory), "--envoy-path", "/opt/envoy"]) == 1
    assert seen >= {"gateway|81", "gateway|82", "gateway|83", "gateway|8033", "sidecar|8033"}
    out, err = capsys.readouterr()
    assert err == "Envoy (gateway, app=back, zone=a): no such file\n"
    assert "Envoy (gateway, app=front): accepted" in out
    assert "Envoy (sidecar): accepted" in out


def test_bootstrap_refuses_an_address_without_a_port(capsys: Captured) -> None:
    assert main(["bootstrap", "--xds", "10.0.0.5"]) == 2
    assert "10.0.0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "locality"),
    [
        (["--zone", "a"], {"zone": "a"}),
        (
            ["--region", "eu", "--zone", "a", "--sub-zone", "1"],
            {"region": "eu", "zone": "a", "sub_zone": "1"},
        ),
        (["--zone", ""], None),
        ([], None),
    ],
)
def test_bootstrap_has_the_zone_that_it_is_given(
    capsys: Captured, options: list[str], locality: dict[str, str] | None
) -> None:
    assert main(["bootstrap", *options]) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert document["node"].get("locality") == locality
    assert ("cluster_manager" in document) is (locality is not None)


@pytest.mark.parametrize("option", ["--region", "--sub-zone"])
def test_bootstrap_refuses_a_place_without_a_zone(capsys: Captured, option: str) -> None:
    assert main(["bootstrap", option, "eu"]) == 2
    assert capsys.readouterr().err == f"{option} 'eu' needs --zone\n"


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "x"])
def test_waits_are_seconds(capsys: Captured, seconds: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["withdraw", "m", "127.0.0.1:1", "--drain", seconds])
    assert ended.value.code == 2
    assert f"--drain: '{seconds}' is no number of seconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tls"], "--tls needs --tls-ca FILE"),
        (["--tls-ca", "ca.pem"], "--tls-ca 'ca.pem' needs --tls"),
        (["--tls-server-name", "x"], "--tls-server-name 'x' needs --tls"),
        (["--tls", "--tls-ca", "ca.pem", "--tls-cert", "c.pem"], "belong together"),
    ],
)
def test_bootstrap_refuses_half_of_tls(capsys: Captured, options: list[str], said: str) -> None:
    assert main(["bootstrap", *options]) == 2
    assert said in capsys.readouterr().err
