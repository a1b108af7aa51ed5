from __future__ import annotations

import socket
from pathlib import Path

import pytest

from xds_server.demo import runner
from xds_server.demo.options import parse
from xds_server.demo.processes import DemoError
from xds_server.demo.stage import check_ports


def test_the_defaults_are_the_documented_ports():
    options = parse([])
    assert options.gateway == "127.0.0.1:8008"
    assert (options.xds, options.admin, options.envoy_admin) == (
        "127.0.0.1:18000",
        "127.0.0.1:19000",
        "127.0.0.1:9901",
    )
    assert options.replicas == tuple(f"127.0.0.1:{port}" for port in range(9001, 9005))
    assert options.proxies == ()
    assert options.grpc_gateway == "127.0.0.1:8033"
    assert options.replicas_grpc == tuple(f"127.0.0.1:{port}" for port in range(9201, 9205))
    assert (options.rate, options.moves) == (100.0, 6)


def test_mlserver_has_three_replicas_and_a_proxy_before_each(tmp_path):
    (tmp_path / "mlserver").touch()
    options = parse(["--runtime", "mlserver", "--mlserver", str(tmp_path / "mlserver")])
    assert len(options.replicas) == len(options.proxies) == len(options.names) == 3
    assert {option for _, _, option in options.listeners()} >= {"replica-port", "proxy-port"}


def test_ports_can_come_from_the_environment_and_the_command_line_wins(monkeypatch):
    monkeypatch.setenv("DEMO_PORT", "18008")
    monkeypatch.setenv("DEMO_REPLICA_PORT", "19001")
    assert parse([]).gateway == "127.0.0.1:18008"
    assert parse([]).replicas[0] == "127.0.0.1:19001"
    assert parse(["--port", "28008"]).gateway == "127.0.0.1:28008"


def test_a_missing_mlserver_is_said(capsys):
    with pytest.raises(SystemExit):
        parse(["--runtime", "mlserver", "--mlserver", "/nowhere/mlserver"])
    assert "no MLServer at /nowhere/mlserver" in capsys.readouterr().err


def test_ports_in_use_are_named_with_the_option_that_changes_them(tmp_path, capsys):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        arguments = ["--port", str(port), "--envoy", str(Path("envoy"))]
        said = rf"port {port}, wanted for the gateway \(Envoy\): choose another with --port or DEMO_PORT=PORT"
        with pytest.raises(DemoError, match=said):
            check_ports(parse(arguments))
        assert runner.main([*arguments, "--directory", str(tmp_path)]) == runner.FAILED
    assert f"port {port}" in capsys.readouterr().out
