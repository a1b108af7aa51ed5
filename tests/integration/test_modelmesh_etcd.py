"""ModelMesh's registry in a real etcd: list and watch, ages, moves, compaction, restarts, TLS and users."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import signal
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.certificates import Authority
from tests.etcd_server import running_etcd
from tests.mesh_events import HOST, configuration
from xds_server.demo.modelmesh.records import Record, Registry, instance_of, now_ms
from xds_server.mesh.events import ConfigurationReplaced
from xds_server.mesh.known import Known
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.model import Endpoint, EndpointId, Health
from xds_server.mesh.pools import ModelMesh
from xds_server.sources.modelmesh import etcd as etcd_module
from xds_server.sources.modelmesh.source import ModelMeshSource, targets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.etcd_server import Etcd

PODS = ("modelmesh-serving-mlserver-1.x-5d8f7c9b64-abcde", "modelmesh-serving-mlserver-1.x-5d8f7c9b64-fghij")
PREFIX = "modelmesh-serving/mm/modelmesh-serving/"
LOADED_AFTER = 30.0


@dataclass
class World:
    etcd: Etcd
    mesh: Mesh
    source: ModelMeshSource
    registry: Registry

    def routed(self, pod: str) -> str:
        placed = self.mesh.service(HOST).endpoints
        return " ".join(next(p.models for p in placed if p.endpoint.pod == pod))

    def health(self) -> list[Health]:
        return [status.health for status in self.mesh.status(HOST)]

    async def until(self, what: Callable[[], bool], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not what():  # noqa: ASYNC110 - the mesh tells the publisher, not a test
                await asyncio.sleep(0.01)


def endpoint(number: int, pod: str) -> Endpoint:
    return Endpoint(EndpointId(HOST, f"10.0.0.{number}", 8033), {"http": 8033}, pod=pod)


@contextlib.asynccontextmanager
async def reading(etcd: Etcd, loaded_after: float = LOADED_AFTER, **connection: str) -> AsyncIterator[World]:
    mesh, failures = Mesh(), []
    source = ModelMeshSource(mesh.apply, on_error=failures.append)
    file = etcd.connection_file(**connection)
    discovery = ModelMesh(str(file), "mm/modelmesh-serving/", loaded_after)
    base = configuration("", discovery=discovery)
    endpoints = tuple(endpoint(number, pod) for number, pod in enumerate(PODS, 1))
    whole = type(base)(services=base.services, pools=base.pools, endpoints=endpoints)
    mesh.apply(ConfigurationReplaced(source="files", configuration=whole))
    source.set_targets(targets(mesh.routing, mesh.services()))
    try:
        yield World(etcd, mesh, source, Registry(etcd.writer, PREFIX))
    finally:
        await source.close()
        assert not failures


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[Etcd]:
    async with running_etcd(tmp_path / "etcd") as etcd:
        yield etcd


async def old_copy(world: World, name: str, pod: str) -> str:
    """A model that has been loaded for a long time."""
    model = await world.registry.serve(name, "mt:sklearn", f"models/{name}")
    await world.registry.enter(model, pod, now_ms() - 60_000)
    return model


async def test_what_is_there_is_listed_and_what_comes_is_watched(etcd):
    writer = Registry(etcd.writer, PREFIX)
    for pod in PODS:
        await writer.join(pod)
    model = await writer.serve("tf-mnist", "mt:tensorflow", "mnist")
    await writer.enter(model, PODS[0], now_ms() - 60_000)
    await etcd.writer.put(f"{PREFIX}config/some", {"not": "read"})
    await etcd.writer.put("modelmesh-serving/mm/other-service/registry/x", {"instanceIds": {"a": 1}})
    async with reading(etcd) as world:
        assert await world.source.first_round(10)
        assert world.mesh.service(HOST).known
        assert world.routed(PODS[0]) == f"tf-mnist {model}", "under the clients' name and its own id"
        assert world.routed(PODS[1]) == ""
        world.registry = writer
        await writer.enter(model, PODS[1], now_ms() - 60_000)
        await world.until(lambda: world.routed(PODS[1]) == f"tf-mnist {model}")
        await writer.remove(model, PODS[0])
        await world.until(lambda: world.routed(PODS[0]) == "")
        await writer.leave(PODS[1])
        await world.until(lambda: world.routed(PODS[1]) == "")
        assert world.source.readers[0].listings == 1


async def test_a_copy_counts_once_it_has_aged_and_no_failed_or_shutting_down_one_does(etcd):
    async with reading(etcd, loaded_after=0.5) as world:
        for pod in PODS:
            await world.registry.join(pod)
        model = await world.registry.serve("m", "mt:sklearn", "m")
        began = time.time()
        await world.registry.enter(model, PODS[0])
        await world.until(lambda: world.mesh.next_deadline() is not None)
        assert world.routed(PODS[0]) == ""
        deadline = world.mesh.next_deadline()
        assert began + 0.5 - 0.01 <= deadline <= time.time() + 0.5
        world.mesh.expire(deadline)
        assert world.routed(PODS[0]) == f"m {model}"
        await world.registry.fail(model, PODS[1], "out of memory")
        await world.until(lambda: "out of memory" in str(world.mesh.status(HOST)[1].models))
        assert world.routed(PODS[1]) == ""
        await world.registry.join(PODS[0], shutdown=True)
        await world.until(lambda: world.routed(PODS[0]) == "")


async def test_a_vmodel_is_routed_by_its_active_model_until_it_has_moved(etcd):
    async with reading(etcd) as world:
        for pod in PODS:
            await world.registry.join(pod)
        old = await old_copy(world, "m", PODS[0])
        await world.until(lambda: world.routed(PODS[0]) == f"m {old}")
        new = await world.registry.register("m", "mt:sklearn", "m/v2")
        await world.registry.point("m", old, new)
        await world.registry.enter(new, PODS[1], now_ms() - 60_000)
        await world.until(lambda: world.routed(PODS[1]) == new)
        assert world.routed(PODS[0]) == f"m {old}", "the roll-out is under way: the active model serves"
        await world.registry.point("m", old, new, failed=True)
        await world.registry.point("m", new, new)
        await world.until(lambda: world.routed(PODS[1]) == f"m {new}")
        assert world.routed(PODS[0]) == old
        await world.registry.remove(old, PODS[0])
        await world.until(lambda: world.routed(PODS[0]) == "")


async def test_known_models_tell_not_loaded_from_unknown(etcd):
    async with reading(etcd) as world:
        await world.registry.join(PODS[0])
        await old_copy(world, "loaded", PODS[0])
        await world.registry.serve("standby", "mt:sklearn", "s")
        broken = await world.registry.serve("broken", "mt:sklearn", "b")
        await world.registry.fail(broken, PODS[0], "no such file")
        await world.until(lambda: len(world.mesh.known_models(HOST)) == 3 and world.routed(PODS[0]) != "")
        await world.until(lambda: world.mesh.known_models(HOST)["broken"].reason == "no such file")
        found = {name: known.state for name, known in world.mesh.known_models(HOST).items()}
        assert found == {"broken": Known.FAILED, "loaded": Known.LOADED, "standby": Known.STANDBY}


async def test_a_compaction_while_away_is_a_new_listing(etcd):
    async with reading(etcd) as world:
        await world.registry.join(PODS[0])
        model = await old_copy(world, "m", PODS[0])
        await world.until(lambda: world.routed(PODS[0]) != "")
        etcd.pause()
        etcd.resume()
        for number in range(5):
            await world.registry.enter(model, PODS[0], now_ms() - 60_000 - number)
        await etcd.writer.compact(await etcd.writer.revision())
        await world.registry.remove(model, PODS[0])
        await world.until(lambda: world.routed(PODS[0]) == "")
    assert world.source.readers == ()


async def test_a_watch_from_a_compacted_revision_says_so(etcd, monkeypatch):
    """The revision is gone between list and watch: everything is listed again, and nothing is stale."""
    registry = Registry(etcd.writer, PREFIX)
    await registry.join(PODS[0])
    read, compacted = etcd_module.EtcdSession.read, []

    async def read_then_compact(self):
        revision, listing = await read(self)
        if not compacted:
            compacted.append(revision)
            for _ in range(3):
                await registry.join(PODS[0])
            await registry.join(PODS[1])
            await etcd.writer.compact(await etcd.writer.revision())
        return revision, listing

    monkeypatch.setattr(etcd_module.EtcdSession, "read", read_then_compact)
    async with reading(etcd) as world:
        await world.until(lambda: world.source.readers[0].listings == 2)
        assert world.source.readers[0].registry.instances() == {instance_of(pod) for pod in PODS}
        assert world.source.readers[0].error == ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_etcd_away_loses_freshness_and_no_model(etcd, number):
    async with reading(etcd) as world:
        for pod in PODS:
            await world.registry.join(pod)
        model = await old_copy(world, "m", PODS[0])
        await world.until(lambda: world.routed(PODS[0]) == f"m {model}")
        before = world.mesh.service(HOST)
        await etcd.stop(number)
        await world.until(lambda: world.health() == [Health.STALE] * 2)
        assert world.mesh.service(HOST) is before
        failure = world.mesh.status(HOST)[0].failure
        assert failure.error.startswith("ModelMesh's registry: ")
        assert abs(failure.since - time.time()) < 10
        reader = world.source.readers[0]
        assert (reader.connected, reader.lost_at is not None) == (False, True)
        await etcd.start()
        await world.registry.remove(model, PODS[0])
        await world.until(lambda: world.health() == [Health.OK] * 2 and world.routed(PODS[0]) == "")
        assert (reader.connected, reader.error, reader.lost_at) == (True, "", None)


async def test_a_silent_etcd_is_noticed(etcd, monkeypatch):
    monkeypatch.setattr(etcd_module, "QUIET", 0.3)
    monkeypatch.setattr(etcd_module, "ANSWER_WITHIN", 0.7)
    async with reading(etcd) as world:
        await world.registry.join(PODS[0])
        await world.source.first_round(10)
        reader = world.source.readers[0]
        heard = reader.heard_at
        await world.until(lambda: reader.heard_at > heard, 5)
        assert reader.listings == 1, "it is asked how far it is, and says so"
        etcd.pause()
        try:
            await world.until(lambda: world.health() == [Health.STALE] * 2)
        finally:
            etcd.resume()
        await world.until(lambda: world.health() == [Health.OK] * 2)


async def test_a_store_that_was_wiped_is_read_again_though_its_revisions_are_smaller(etcd, tmp_path):
    async with reading(etcd) as world:
        for pod in PODS:
            await world.registry.join(pod)
        model = await old_copy(world, "m", PODS[0])
        await world.until(lambda: world.routed(PODS[0]) == f"m {model}")
        await etcd.stop()
        (etcd.directory / "data").rename(tmp_path / "gone")
        await etcd.start()
        await world.until(lambda: world.health() == [Health.OK] * 2)
        assert world.routed(PODS[0]) == ""
        await world.registry.join(PODS[1])
        await world.registry.enter(model, PODS[1], now_ms() - 60_000)
        await world.until(lambda: world.routed(PODS[1]) == model)


async def test_an_unreadable_record_is_told_and_the_last_good_one_counts(etcd):
    async with reading(etcd) as world:
        await world.registry.join(PODS[0])
        model = await old_copy(world, "m", PODS[0])
        await world.until(lambda: world.routed(PODS[0]) == f"m {model}")
        await etcd.writer.put(f"{PREFIX}registry/{model}", {"instanceIds": "many"})
        reader = world.source.readers[0]
        await world.until(lambda: reader.registry.problems)
        assert reader.registry.problems == {
            f"registry/{model}": "instanceIds: found 'many'; expected an object"
        }
        assert world.routed(PODS[0]) == f"m {model}"
        await world.registry.remove(model, PODS[0])
        await world.until(lambda: not reader.registry.problems and world.routed(PODS[0]) == "")


async def test_thousands_of_keys_come_in_pages(etcd):
    writer = Registry(etcd.writer, PREFIX)
    await writer.join(PODS[0])
    for number in range(etcd_module.PAGE + 20):
        writer.models[f"m{number:04}"] = Record("mt:sklearn", "p")
    await asyncio.gather(*(writer.enter(model, PODS[0], now_ms() - 60_000) for model in writer.models))
    async with reading(etcd) as world:
        await world.source.first_round(20)
        assert len(world.routed(PODS[0]).split()) == etcd_module.PAGE + 20


async def test_a_connection_file_that_cannot_be_used_is_told_and_read_again(etcd):
    async with reading(etcd, certificate_file="nowhere.pem") as world:
        reader = world.source.readers[0]
        await world.until(lambda: "nowhere.pem cannot be read" in reader.error)
        assert not world.mesh.service(HOST).known
        etcd.connection_file()
        await world.until(lambda: reader.connected)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    (tmp_path / "etcd").mkdir()
    return Authority(tmp_path / "etcd")


def over_tls(authority: Authority, *more: str):
    """An etcd whose certificate the authority signed."""
    server = authority.issue("server", "IP:127.0.0.1")
    client = authority.issue("client")
    context = ssl.create_default_context(cafile=str(authority.ca))
    context.load_cert_chain(client.certificate, client.key)
    files = ("--cert-file", server.certificate, "--key-file", server.key)
    return running_etcd(authority.directory, *map(str, files), *more, tls=context)


async def test_certificates_on_both_sides_from_files_and_from_the_json_itself(authority):
    async with over_tls(authority, "--client-cert-auth", "--trusted-ca-file", str(authority.ca)) as etcd:
        await Registry(etcd.writer, PREFIX).join(PODS[0])
        async with reading(etcd, certificate=authority.ca.read_text()) as world:
            await world.until(lambda: "UNAVAILABLE" in world.source.readers[0].error, 20)
        key = (authority.directory / "client.key").read_text()
        connection = {
            "certificate_file": "ca.pem",
            "client_key": key,
            "client_certificate_file": "client.pem",
        }
        async with reading(etcd, **connection) as world:
            await world.until(lambda: world.source.readers[0].registry.instances() == {instance_of(PODS[0])})


async def test_a_user_who_may_only_read_and_whose_token_expires(authority):
    async with over_tls(authority, "--auth-token-ttl", "2") as etcd:
        await add_users(etcd)
        writer = Registry(etcd.writer, PREFIX)
        await writer.join(PODS[0])
        model = await writer.serve("m", "mt:sklearn", "m")
        await writer.enter(model, PODS[0], now_ms() - 60_000)
        user = {"certificate_file": "ca.pem", "userid": "reader"}
        async with reading(etcd, **user, password="wrong") as world:
            await world.until(lambda: "authentication failed" in world.source.readers[0].error)
        async with reading(etcd, **user, password="read-only") as world:
            await world.until(lambda: world.routed(PODS[0]) == f"m {model}")
            await asyncio.sleep(2.5)  # the token's life, which no event ends: the watch outlives it
            await etcd.writer.authenticate("root", "root")
            await writer.remove(model, PODS[0])
            await world.until(lambda: world.routed(PODS[0]) == "")
            await etcd.stop()
            await world.until(lambda: world.health() == [Health.STALE] * 2)
            await etcd.start()
            await world.until(lambda: world.health() == [Health.OK] * 2)


async def add_users(etcd: Etcd) -> None:
    """`root`, as whom the writer goes on, and `reader`, who may read ModelMesh's keys and nothing else."""
    ask = etcd.writer.ask
    key, end = (base64.b64encode(text).decode() for text in (PREFIX.encode(), PREFIX[:-1].encode() + b"0"))
    for name, password in (("root", "root"), ("reader", "read-only")):
        await ask("auth/user/add", {"name": name, "password": password})
    await ask("auth/role/add", {"name": "root"})
    await ask("auth/role/add", {"name": "look"})
    await ask("auth/role/grant", {"name": "look", "perm": {"permType": "READ", "key": key, "range_end": end}})
    await ask("auth/user/grant", {"user": "root", "role": "root"})
    await ask("auth/user/grant", {"user": "reader", "role": "look"})
    await ask("auth/enable", {})
    await etcd.writer.authenticate("root", "root")
