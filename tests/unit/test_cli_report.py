"""The options of `xds-server report`: what becomes of them, and each mistake in its words."""

from __future__ import annotations

from pathlib import Path

import pytest

from xds_server import cli
from xds_server.cli_report import read
from xds_server.mesh.pools import OpenInference, OpenVino
from xds_server.report.streaming import Subject, Tls
from xds_server.sources.runtimes.asking import Target

RUNTIME = ("--runtime", "http://127.0.0.1:8080/")


def options(*arguments: str):
    return read(cli._parser().parse_args(["report", *RUNTIME, *arguments]))


def test_what_is_asked_for(monkeypatch):
    monkeypatch.setenv("HOSTNAME", "pod-from-hostname")
    found = options("--server", "127.0.0.1:18000")
    assert found.target == Target("http://127.0.0.1:8080", 0.5, 2.0, OpenInference())
    assert (found.subject, found.tls, found.annotate) == (Subject("pod-from-hostname"), None, None)
    monkeypatch.setenv("POD_NAME", "pod-from-the-downward-api")
    tls = ("--tls-ca", "ca", "--tls-cert", "cert", "--tls-key", "key")
    found = options("--server", "a.example:1", "--server", "b.example:1", *tls, "--runtime-type", "openVino")
    assert found.subject == Subject("pod-from-the-downward-api")
    assert found.servers == ("a.example:1", "b.example:1")
    assert found.tls == Tls(Path("ca"), Path("cert"), Path("key"))
    assert found.target.discovery == OpenVino()
    found = options("--server", "127.0.0.1:1", "--endpoint", "10.0.0.1:8080", "--service", "models")
    assert found.subject == Subject("", "10.0.0.1:8080", "models")
    found = options("--annotate", "--pod", "p", "--namespace", "ml", "--writer", "me")
    assert (found.annotate.namespace, found.annotate.pod, found.annotate.writer) == ("ml", "p", "me")
    both = options("--annotate", "--server", "127.0.0.1:1", "--pod", "ml/p")
    assert (both.annotate.namespace, both.annotate.pod, both.subject.pod) == ("ml", "p", "ml/p")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "nobody is to be told: give --server HOST:PORT or --annotate"),
        (("--server", "nowhere"), "--server: "),
        (("--server", "xds.example:18000"), "--server xds.example:18000: another machine, and in plain text"),
        (("--server", "127.0.0.1:1", "--tls-cert", "c"), "--tls-cert and --tls-key belong together"),
        (("--server", "127.0.0.1:1", "--tls-cert", "c", "--tls-key", "k"), "--tls-cert needs --tls-ca"),
        (("--server", "127.0.0.1:1", "--pod", "p", "--endpoint", "1.2.3.4:5"), "--pod and --endpoint"),
        (("--server", "127.0.0.1:1", "--runtime", "localhost:8080"), "--runtime: found 'localhost:8080'"),
        (("--annotate", "--pod", "p"), "--annotate: the pod's namespace is not known"),
    ],
)
def test_mistakes(arguments, said, monkeypatch, capsys):
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    with pytest.raises(ValueError) as caught:
        options(*arguments)
    assert str(caught.value).startswith(said)
    assert cli.main(["report", *RUNTIME, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_a_name_there_is_nobody_to_report_on(monkeypatch):
    for name in ("POD_NAME", "HOSTNAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="give --pod NAME or --endpoint"):
        options("--server", "127.0.0.1:1")


def test_plain_text_to_another_machine_has_to_be_meant():
    assert options("--server", "10.0.0.1:1", "--insecure-plaintext", "--pod", "p").servers == ("10.0.0.1:1",)
