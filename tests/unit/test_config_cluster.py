"""Documents that name a cluster's services: which names may mean one, and that they are right without it."""

from __future__ import annotations

import pytest

from xds_server import cli, logs
from xds_server.config.cluster_hosts import full_name, meant, service_of
from xds_server.config.loader import load_directory

TRITON = "triton.models.svc.cluster.local"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("triton", TRITON),
        ("triton.models", TRITON),
        ("triton.models.svc", TRITON),
        (TRITON, TRITON),
        ("triton.other", "triton.other.svc.cluster.local"),
        ("api.example.com", None),
        ("a.b.c.svc", None),
        ("*.models", None),
        ("triton.svc.cluster.local", None),
        ("Triton", None),
        ("", None),
    ],
)
def test_names_that_may_mean_a_service(host, expected):
    assert meant(host, "models") == expected


def test_full_names_and_back():
    assert full_name("models", "triton") == TRITON
    assert service_of(TRITON) == ("models", "triton")
    assert service_of("triton.models") is None
    assert service_of("a.b.models.svc.cluster.local") is None


POOL = """\
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {name: pool, namespace: models}
spec:
  host: HOST
  models: {openInference: {port: http}}
"""


@pytest.mark.parametrize("host", ["triton", "triton.models", "triton.models.svc", TRITON])
def test_a_pool_of_a_service_that_nobody_knows_yet(tmp_path, host):
    (tmp_path / "pool.yaml").write_text(POOL.replace("HOST", host))
    loaded = load_directory(tmp_path, cluster=True)
    assert loaded.problems == ()
    assert [pool.host for pool in loaded.configuration.pools] == [TRITON]
    assert loaded.configuration.services == ()
    (problem,) = load_directory(tmp_path).problems
    assert "which no ServiceEntry defines" in str(problem)


def test_what_cannot_be_a_service_is_an_error_with_a_cluster_too(tmp_path):
    (tmp_path / "pool.yaml").write_text(POOL.replace("HOST", "api.example.com"))
    (problem,) = load_directory(tmp_path, cluster=True).problems
    assert problem.found == '"api.example.com", which no ServiceEntry or Service defines'


def test_a_service_entry_goes_before_the_cluster(tmp_path):
    entry = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: triton, namespace: models}
spec:
  hosts: [triton]
  resolution: STATIC
  ports: [{number: 8008, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1}]
"""
    (tmp_path / "pool.yaml").write_text(POOL.replace("HOST", "triton") + "---\n" + entry)
    loaded = load_directory(tmp_path, cluster=True)
    assert [pool.host for pool in loaded.configuration.pools] == ["triton"]


def test_two_pools_of_one_service_by_two_of_its_names(tmp_path):
    other = POOL.replace("HOST", "triton.models").replace("name: pool", "name: other")
    (tmp_path / "pool.yaml").write_text(POOL.replace("HOST", "triton") + "---\n" + other)
    (problem,) = load_directory(tmp_path, cluster=True).problems
    assert problem.expected == "one ModelPool for each host"


def test_check_takes_the_clusters_services_for_there(tmp_path, capsys):
    (tmp_path / "pool.yaml").write_text(POOL.replace("HOST", "triton"))
    assert cli.main(["check", str(tmp_path)]) == 1
    assert cli.main(["check", str(tmp_path), "--kubernetes"]) == 0
    assert "no error" in capsys.readouterr().out


@pytest.fixture
def unlogged(monkeypatch):
    """`serve` sets the log up for its process, with the standard error of just now: not for this one."""
    monkeypatch.setattr(logs, "configure", lambda **_: None)


@pytest.mark.usefixtures("unlogged")
def test_options_that_mean_nothing_without_a_cluster(capsys, tmp_path):
    options = ["--config", str(tmp_path), "--namespace", "x", "--pod-selector", "app=a"]
    assert cli.main(["serve", *options]) == 2
    assert "--namespace, --pod-selector: give --kubernetes too" in capsys.readouterr().err


@pytest.mark.usefixtures("unlogged")
def test_nothing_to_serve(capsys):
    assert cli.main(["serve"]) == 2
    assert "nothing to serve: give --config DIR, or --kubernetes, or both" in capsys.readouterr().err
