"""`/metrics`: each figure with its meaning, parsed back as Prometheus does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from admin_world import Files, Readiness, admin_of
from moves_world import HOST, FakeEnvoy, World
from prometheus_client.parser import text_string_to_metric_families

from xds_server.config.problems import Problem
from xds_server.mesh.events import FailureKind, ModelsReported, ModelState
from xds_server.transport.tls import CertificateError, Certificates, TlsFiles
from xds_server.xds.model import ENDPOINT
from xds_server.xds.status import Delay, Refusal

if TYPE_CHECKING:
    from pathlib import Path

Found = Callable[..., float]


@pytest.fixture
async def world() -> World:
    return World().start(m="1,2", solo="3")


async def scrape(world: World, **parts: object) -> dict[tuple[str, frozenset[str]], float]:
    async with admin_of(world, **parts) as admin:
        code, text = await admin.get("/metrics")
    assert code == 200
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def samples(world: World, **parts: object) -> Found:
    found = await scrape(world, **parts)
    return lambda name, *labels: found["xds_server_" + name, frozenset(labels)]


async def test_services(world: World) -> None:
    world.fail(3)
    found = await samples(world)
    assert found("endpoints", HOST, "OK") == 2
    assert found("endpoints", HOST, "DOWN") == 1
    assert found("models", HOST) == 1
    assert found("placements", HOST) == 2
    assert 0 <= found("oldest_report_age_seconds", HOST) < 60
    assert found("pool_stale", HOST) == 0
    assert (found("polls_total"), found("poll_failures_total")) == (7, 2)
    assert found("not_found_answers_total", "polled") == 5
    assert found("not_found_answers_total", "other") == 1
    assert found("second_looks_total") == 3


async def test_the_age_of_a_service_is_that_of_its_oldest_report(world: World) -> None:
    rows = (ModelState("m", "1"),)
    at = time.time() - 30
    world.mesh.apply(ModelsReported(endpoint=world.id(2), source="runtime", models=rows, at=at))
    assert 30 <= (await samples(world))("oldest_report_age_seconds", HOST) < 90


async def test_the_certificates_of_the_xds_port(world: World, tmp_path: Path) -> None:
    certificates = Certificates(TlsFiles(tmp_path / "absent.crt", tmp_path / "absent.key"))
    with pytest.raises(CertificateError):
        await certificates.load()
    for _ in range(3):
        certificates.handshakes.begin()
    for peer in ("ipv4:10.0.0.1:1", "ipv4:10.0.0.1:1", "ipv4:10.0.0.1:2"):
        certificates.handshakes.met(peer)
    found = await samples(world, certificates=certificates)
    assert (found("tls_loads_total", "ok"), found("tls_loads_total", "failed")) == (0, 1)
    assert found("tls_last_load_successful") == 0
    assert (found("tls_handshakes_total"), found("tls_connections_total")) == (3, 2)


async def test_a_stale_pool(world: World) -> None:
    for number in (1, 2, 3):
        world.fail(number, FailureKind.TIMEOUT)
    found = await samples(world)
    assert found("pool_stale", HOST) == 1
    assert found("endpoints", HOST, "STALE") == 3


async def test_clients(world: World) -> None:
    FakeEnvoy(world, "a")
    strict = FakeEnvoy(world, "strict")
    strict.nack = "no"
    world.loaded[world.id(3)].add("m")
    world.report(world.id(3))
    world.publisher.flush()
    strict.pump()
    world.hub.stats.bytes[ENDPOINT] += 512
    found = await samples(world)
    assert found("xds_clients", "EDS", "ERROR") == 1
    assert found("xds_clients", "CDS", "SYNCED") == 2
    assert found("xds_nacks_total", "EDS") == 1
    assert found("xds_acks_total", "EDS") >= 2
    assert found("xds_pushes_total", "EDS") >= 3
    assert found("xds_requests_total", "EDS") > found("xds_acks_total", "EDS")
    assert found("xds_response_bytes_total", "EDS") == 512
    assert (found("xds_streams"), found("xds_streams_opened_total")) == (2, 2)
    assert found("publications_total") == 2


async def test_layouts_and_rests(world: World) -> None:
    for _ in range(2):
        world.publisher.pace.may(("a",), 1.0, withdrawal=False, urgent=False)
    found = await samples(world, made_of=world.builder.state)
    assert found("layout_clusters", HOST, "single") == 1
    assert found("layout_former_clusters", HOST) == 0
    assert found("spaced_pushes_total") == 1


async def test_documents_and_process(world: World) -> None:
    found = await samples(world)
    assert found("config_last_reload_successful") == 1
    assert found("config_loaded_time_seconds") == 1000
    assert (found("ready"), found("start_time_seconds")) == (1, 900)
    problem = Problem("a.yaml", 1, "", "spec", "x", "y")
    files = Files(problems=(problem,), loaded_at=None, reloads_failed=3)
    found = await samples(world, files=files, readiness=Readiness(ready=False))
    assert found("config_last_reload_successful") == 0
    assert found("config_problems") == 1
    assert found("config_reloads_total", "failed") == 3
    with pytest.raises(KeyError):
        found("config_loaded_time_seconds")
    assert found("ready") == 0


async def test_moves(world: World) -> None:
    await world.mover.withdraw("m", world.at(1), settle=0, drain=0)
    found = await samples(world)
    assert found("withdrawals") == 1
    assert found("moves_total", "withdraw", "done") == 1
    assert found("moves_total", "load", "failed") == 0


async def test_no_label_names_a_model_a_replica_or_a_client(world: World) -> None:
    FakeEnvoy(world, "envoy-1")
    labels = {value for _, values in await scrape(world) for value in values}
    assert not labels & {"m", "solo", "fixed", "envoy-1", *(world.at(n) for n in (1, 2, 3))}


async def test_histograms_and_what_waited_or_was_refused(world: World) -> None:
    envoy = FakeEnvoy(world, "a")
    stats = world.hub.stats
    stats.queue_time.observe(0.003)
    stats.sizes[ENDPOINT].observe(5_000_000)
    stats.refusals[Refusal.TOO_MANY_STREAMS] += 2
    stats.delays[Delay.PUSH] += 3
    stats.encoded[ENDPOINT] += 4
    stats.shared[ENDPOINT] += 5
    world.loaded[world.id(3)].add("m")
    world.report(world.id(3))
    world.publisher.flush()
    envoy.pump()
    found = await samples(world)
    assert found("xds_push_queue_seconds_bucket", "0.0025") == 0
    assert found("xds_push_queue_seconds_bucket", "0.005") == 1
    assert found("xds_response_size_bytes_bucket", "EDS", "4194304.0") == 0
    assert found("xds_response_size_bytes_bucket", "EDS", "16000000.0") == 1
    assert found("xds_response_size_bytes_count", "EDS") == 1
    assert found("xds_convergence_seconds_count") >= 1
    assert found("xds_refusals_total", "too_many_streams") == 2
    assert found("xds_refusals_total", "foreign_node") == 0
    assert found("xds_delays_total", "push") == 3
    assert (found("xds_encodings_total", "EDS"), found("xds_encodings_saved_total", "EDS")) == (4, 5)


async def test_labels_for_each_client_where_that_is_asked_for(world: World) -> None:
    envoy = FakeEnvoy(world, "envoy-1")
    found = await samples(world, metrics_per_client=True)
    client, cluster = world.hub.clients()[0].id, envoy.session.node.cluster
    assert found("xds_client_state", client, cluster, "EDS", "SYNCED") == 1
    assert found("xds_client_last_ack_age_seconds", client, cluster, "EDS") >= 0
