"""The admin port over HTTP: what each path answers, each error, and who is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from admin_world import Files, Readiness, admin_of, state_of
from moves_world import HOST, FakeEnvoy, World, refused

from xds_server.admin import guard, layouts
from xds_server.admin.probes import ProbeServer
from xds_server.admin.server import AdminServer
from xds_server.config.problems import Problem
from xds_server.mesh.events import FailureKind
from xds_server.moves.errors import RuntimeSilentError

NOW = {"settle": 0, "drain": 0}


@pytest.fixture
async def world() -> World:
    return World().start(m="1,2", solo="3")


def body(world: World, number: int = 1, model: str = "m", **more: Any) -> dict[str, Any]:
    return {"model": model, "endpoint": world.at(number)} | more


async def test_health_and_the_list_of_paths(world: World) -> None:
    async with admin_of(world) as admin:
        assert await admin.get("/healthz") == (200, "ok\n")
        code, page = await admin.get("/")
        assert code == 200
        for path in ("/readyz", "/metrics", "/status", "/v1/withdrawals", "/v1/loads", "/v1/unloads"):
            assert path in page


async def test_not_ready_is_503_with_the_reason(world: World) -> None:
    readiness = Readiness(ready=False, reason="every runtime is being asked once")
    async with admin_of(world, readiness=readiness) as admin:
        assert await admin.get("/readyz") == (503, "not ready: every runtime is being asked once\n")
        assert (await admin.get("/healthz"))[0] == 200
        code, answer = await admin.post("/v1/withdrawals", body(world, **NOW))
        assert code == 503
        assert "every runtime is being asked once" in answer["error"]
        assert world.mover.withdrawals() == ()
        readiness.ready = True
        assert await admin.get("/readyz") == (200, "ready\n")


async def test_ready_names_stale_pools(world: World) -> None:
    for number in (1, 2, 3):
        world.fail(number, FailureKind.TIMEOUT, "no answer")
    async with admin_of(world) as admin:
        code, text = await admin.get("/readyz")
        assert code == 200
        assert text.startswith("ready\n")
        assert f"stale: {HOST}:" in text
        world.report(world.id(2))
        assert await admin.get("/readyz") == (200, "ready\n")


async def test_a_withdrawal_over_http(world: World) -> None:
    envoy = FakeEnvoy(world, "a")
    async with admin_of(world) as admin:
        code, done = await admin.post("/v1/withdrawals", body(world, **NOW))
        assert code == 200
        assert done["acknowledged"] == [envoy.session.id]
        assert {key: done[key] for key in ("model", "endpoint", "service")} == {
            "model": "m",
            "endpoint": world.at(1),
            "service": HOST,
        }
        assert set(done["seconds"]) >= {"acknowledged", "total"}
        code, held = await admin.get("/v1/withdrawals")
        assert [each["id"] for each in held["withdrawals"]] == [done["id"]]
        assert (await admin.get(f"/v1/withdrawals/{done['id']}"))[1]["model"] == "m"
        code, cancelled = await admin.ask("DELETE", f"/v1/withdrawals/{done['id']}")
        assert (code, cancelled["id"]) == (200, done["id"])
        assert world.routed(1) == ("m",)
        for method in ("GET", "DELETE"):
            code, answer = await admin.ask(method, f"/v1/withdrawals/{done['id']}")
            assert code == 404
            assert done["id"] in answer["error"]


async def test_load_and_unload_over_http(world: World) -> None:
    async with admin_of(world) as admin:
        code, done = await admin.post("/v1/loads", body(world, 2, "new"))
        assert (code, done["model"]) == (200, "new")
        assert set(done["seconds"]) == {"loaded", "ready", "acknowledged", "total"}
        code, done = await admin.post("/v1/unloads", body(world, 2, "new", force=True, **NOW))
        assert code == 200
        assert done["seconds"]["gone"] >= done["seconds"]["unloaded"]
        assert [action for action, _, _ in world.orders] == ["load", "unload"]


@pytest.mark.parametrize(
    ("path", "document", "said"),
    [
        ("/v1/withdrawals", {}, "field 'model' is missing; field 'endpoint' is missing"),
        ("/v1/withdrawals", {"model": "m"}, "field 'endpoint' is missing"),
        ("/v1/withdrawals", {"model": "", "endpoint": "x"}, "field 'model': found \"\""),
        (
            "/v1/withdrawals",
            {"model": 1, "endpoint": "x"},
            "field 'model': found 1, which should be a valid string",
        ),
        ("/v1/withdrawals", {"model": "m", "endpoint": "x", "settle": -1}, "field 'settle': found -1"),
        ("/v1/withdrawals", {"model": "m", "endpoint": "x", "drain": "1s"}, "field 'drain': found \"1s\""),
        (
            "/v1/withdrawals",
            {"model": "m", "endpoint": "x", "timeout": 1e9},
            "field 'timeout': found 1000000000",
        ),
        ("/v1/withdrawals", {"model": "m", "endpoint": "x", "force": "yes"}, "field 'force': found \"yes\""),
        (
            "/v1/withdrawals",
            {"model": "m", "endpoint": "x", "wait": 1},
            "field 'wait' is unknown; known: model,",
        ),
        ("/v1/loads", {"model": "m", "endpoint": "x", "drain": 1}, "field 'drain' is unknown"),
        ("/v1/unloads", {"model": "m", "endpoint": "x", "keep": True}, "field 'keep' is unknown"),
        ("/v1/unloads", [], "must be a JSON object"),
    ],
)
async def test_a_bad_body_names_its_field(world: World, path: str, document: Any, said: str) -> None:
    async with admin_of(world) as admin:
        code, answer = await admin.post(path, document)
        assert code == 400
        assert said in answer["error"]
    assert world.mover.withdrawals() == ()


@pytest.mark.parametrize("data", [b"model=m", b"\xff", b"[" * 60_000])
async def test_a_body_that_is_no_json(world: World, data: bytes) -> None:
    async with (
        admin_of(world) as admin,
        admin.http.post(f"http://{admin.address}/v1/loads", data=data) as answer,
    ):
        assert answer.status == 400
        assert "not JSON" in (await answer.json())["error"]


async def test_errors_have_fitting_statuses(world: World) -> None:
    async with admin_of(world) as admin:

        async def code(path: str, document: dict[str, Any]) -> int:
            status, answer = await admin.post(path, document)
            assert answer["error"]
            return status

        unknown = {"model": "m", "endpoint": "127.0.0.1:1"}
        assert await code("/v1/withdrawals", unknown) == 404
        assert await code("/v1/withdrawals", body(world, 3, "solo", **NOW)) == 409
        assert await code("/v1/withdrawals", body(world, 1, "solo", **NOW)) == 409
        assert await code("/v1/loads", {"model": "fixed", "endpoint": "127.0.0.1:7001"}) == 409
        world.refusal = refused()
        assert await code("/v1/loads", body(world, 2, "new")) == 502
        assert await code("/v1/unloads", body(world, 1, **NOW)) == 502
        world.refusal = RuntimeSilentError("no answer")
        assert await code("/v1/loads", body(world, 2, "new")) == 504
        world.refusal, world.deaf = None, True
        assert await code("/v1/loads", body(world, 2, "new", runtime_timeout=0)) == 504
        FakeEnvoy(world, "silent").acks = False
        assert await code("/v1/withdrawals", body(world, 1, timeout=0, **NOW)) == 504


async def test_unknown_paths_and_methods_answer_json(world: World) -> None:
    async with admin_of(world) as admin:
        assert await admin.get("/nope") == (404, {"error": "Not Found: GET /nope"})
        assert await admin.ask("DELETE", "/status") == (405, {"error": "Method Not Allowed: DELETE /status"})


async def test_an_internal_error_is_told_without_its_details(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(world.mover, "withdrawals", fail)
    async with admin_of(world) as admin:
        code, answer = await admin.get("/v1/withdrawals")
        assert code == 500
        assert "secret" not in answer["error"]


async def test_a_caller_that_hangs_up_ends_its_withdrawal(world: World) -> None:
    FakeEnvoy(world, "silent").acks = False
    async with admin_of(world) as admin:
        asking = asyncio.create_task(admin.post("/v1/withdrawals", body(world, timeout=60)))
        await world.until(lambda: bool(world.mover.withdrawals()))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await world.until(lambda: not world.mover.withdrawals())
        assert world.routed(1) == ("m",)


async def test_stopping_ends_the_withdrawals_that_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xds_server.admin.server.STOP_LIMIT", 0.01)
    FakeEnvoy(world, "silent").acks = False
    async with admin_of(world) as admin:
        asking = asyncio.create_task(admin.post("/v1/withdrawals", body(world, timeout=60)))
        await world.until(lambda: bool(world.mover.withdrawals()))
    with pytest.raises(aiohttp.ClientError):
        await asking
    assert world.mover.withdrawals() == ()


async def test_an_address_in_use_is_an_os_error(world: World) -> None:
    async with admin_of(world) as admin:
        with pytest.raises(OSError, match="address already in use"):
            await AdminServer(state_of(world), admin.address).start()


# Who is refused


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "10.0.0.1:80", "localhost.evil.example", "[", ""]
)
async def test_a_foreign_host_is_refused_on_loopback(world: World, host: str) -> None:
    async with admin_of(world) as admin:
        code, answer = await admin.get("/status", Host=host)
        assert code == 403
        assert "loopback" in answer["error"]


@pytest.mark.parametrize("host", ["localhost", "localhost:19000", "127.0.0.1", "127.8.8.8:1", "[::1]:19000"])
async def test_loopback_by_any_of_its_names_is_answered(world: World, host: str) -> None:
    async with admin_of(world) as admin:
        assert (await admin.get("/healthz", Host=host))[0] == 200


async def test_a_probe_without_a_host_is_answered(world: World) -> None:
    async with admin_of(world) as admin:
        reader, writer = await asyncio.open_connection(*guard.split_address(admin.address))
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 200 OK" in await reader.readline()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1"])
async def test_a_foreign_page_cannot_move_models(world: World, origin: str) -> None:
    async with admin_of(world) as admin:
        code, _ = await admin.post("/v1/withdrawals", body(world, **NOW), Origin=origin)
        assert code == 403
        assert world.mover.withdrawals() == ()
        assert (await admin.get("/healthz", Origin=f"http://{admin.address}"))[0] == 200


def test_any_host_where_the_port_is_not_on_loopback() -> None:
    assert guard.refusal("0.0.0.0", "xds.example:19000", None) is None
    assert guard.refusal("0.0.0.0", "xds.example:19000", "http://evil.example") is not None


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:19000", ("127.0.0.1", 19000)), ("[::1]:0", ("::1", 0)), ("localhost:1", ("localhost", 1))],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert guard.split_address(address) == parts


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "1.2.3.4:", "h:x", "h:99999", "u@h:1", "http://h:1", "[::1:1"]
)
def test_no_addresses(address: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        guard.split_address(address)


# Status


async def test_status(world: World) -> None:
    envoy = FakeEnvoy(world, "a")
    world.fail(3, FailureKind.TIMEOUT, "no answer within 2 s")
    async with admin_of(world) as admin:
        await admin.post("/v1/withdrawals", body(world, **NOW))
        code, status = await admin.get("/status")
    assert code == 200
    assert (status["ready"], status["config"]["directory"], status["config"]["problems"]) == (
        True,
        "conf",
        [],
    )
    services = {each["host"]: each for each in status["services"]}
    assert list(services) == [HOST, "static.example"]
    models = services[HOST]
    assert (models["pool"], models["known"], models["stale"]) == ("ns/models", True, False)
    first, second, third = models["endpoints"]
    assert first["endpoint"] == world.at(1)
    assert (first["health"], first["routed"], first["withdrawn"]) == ("OK", [], ["m"])
    assert first["models"] == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    assert (first["ports"], first["labels"]) == ({"http": 9001, "rest": 9101}, {"rack": "r1"})
    assert 0 <= first["age_seconds"] < 60
    assert (second["routed"], second["failure"]) == (["m"], None)
    assert (third["health"], third["failure"]["kind"]) == ("SUSPECT", "timeout")
    assert third["failure"]["error"] == "no answer within 2 s"
    assert status["models"]["m"] == [{"service": HOST, "endpoint": world.at(2)}]
    assert status["models"]["fixed"] == [{"service": "static.example", "endpoint": "127.0.0.1:7001"}]
    assert [each["model"] for each in status["withdrawals"]] == ["m"]
    (client,) = status["clients"]
    assert (client["id"], client["node"], client["variant"]) == (envoy.session.id, "a", "delta")
    states = {each["type"]: each for each in client["types"]}
    assert states["EDS"]["state"] == "SYNCED"
    assert states["EDS"]["acknowledged"] == states["EDS"]["sent"]
    assert any(each["kind"] == "DestinationRule" for each in status["implied"])
    assert any("model -> " in each["text"] for each in status["implied"])


async def test_status_of_a_client_that_rejects(world: World) -> None:
    envoy = FakeEnvoy(world, "strict")
    envoy.nack = "no such thing"
    async with admin_of(world) as admin:
        await admin.post("/v1/loads", body(world, 2, "new", timeout=0))
        _, status = await admin.get("/status")
    states = {each["type"]: each for each in status["clients"][0]["types"]}
    assert states["EDS"]["state"] == "ERROR"
    assert states["EDS"]["error"] == "no such thing"
    assert states["EDS"]["rejected_names"]
    assert states["CDS"]["state"] == "SYNCED"


async def test_status_of_bad_documents(world: World) -> None:
    problem = Problem("a.yaml", 2, "Gateway ns/g", "spec.servers", "nothing", "a list")
    async with admin_of(world, files=Files(problems=(problem,), loaded_at=None)) as admin:
        _, status = await admin.get("/status")
    assert status["config"]["loaded_at"] is None
    (told,) = status["config"]["problems"]
    assert told["text"] == str(problem)
    assert told["field"] == "spec.servers"


async def test_the_probes_port_has_nothing_that_changes_or_tells_anything(world: World) -> None:
    probes = ProbeServer(state_of(world), "127.0.0.1:0")
    port = await probes.start()
    try:
        async with aiohttp.ClientSession() as http:
            found = {}
            for path in ("/healthz", "/readyz", "/metrics", "/", "/status", "/v1/withdrawals"):
                async with http.get(f"http://127.0.0.1:{port}{path}") as answer:
                    found[path] = answer.status
            async with http.post(f"http://127.0.0.1:{port}/v1/unloads", json=body(world)) as answer:
                found["POST"] = answer.status
    finally:
        await probes.stop()
    assert found == {
        "/healthz": 200,
        "/readyz": 200,
        "/metrics": 200,
        "/": 404,
        "/status": 404,
        "/v1/withdrawals": 404,
        "POST": 404,
    }


async def test_status_says_which_layout_was_chosen_and_why(world: World) -> None:
    async with admin_of(world) as admin:
        _, told = await admin.get("/status")
        assert told["services"][0]["layout"] is None  # nothing tells what was made of it
    async with admin_of(world, made_of=world.builder.state) as admin:
        _, told = await admin.get("/status")
    layout = next(each["layout"] for each in told["services"] if each["host"] == HOST)
    assert (layout["asked"], layout["layout"]) == ("auto", "single")
    assert (layout["clusters"], layout["former"]) == (1, 0)
    assert layout["why"] == "one cluster stays within 5 ms a change"
    assert layouts.said(layout).startswith("layout single (auto): 1 cluster; 0.0")
