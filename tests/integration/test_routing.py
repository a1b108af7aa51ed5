"""Requests through a real Envoy to real MLServers, for every kind of document that decides where they go."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.integration.stack import (
    HOST,
    KEY,
    Stack,
    destination_rule,
    gateway,
    pool,
    service_entry,
    until,
    virtual_service,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.integration.conftest import Replica

SEED = Path(__file__).parents[1] / "data" / "seed"


async def place(replicas: list[Replica], placement: dict[str, list[str]]) -> None:
    """Load exactly the placed models: replica name to models."""
    await asyncio.gather(*(r.hold(placement.get(r.name, [])) for r in replicas))


def endpoints(replicas: Iterable[Replica], **labels: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"address": r.address, "ports": {"http": r.port}, "labels": labels.get(r.name, {})} for r in replicas
    ]


async def started(stack: Stack, replicas: list[Replica], *extra: dict[str, Any], **kind: Any) -> None:
    """The usual documents: a pool with models under KEY, header `model`, one gateway."""
    models = pool(on_miss=kind.get("on_miss"), request=kind.get("request"))
    stack.write("services.yaml", service_entry(endpoints(replicas)), models)
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"model": KEY}), *extra)
    await stack.start()


async def test_each_request_reaches_a_holder_of_its_model(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1", "m2"], "r2": ["m2", "m3"], "r3": ["m4"]})
    await started(stack, replicas)
    await stack.routed("m1", ["r1"])
    await stack.routed("m2", ["r1", "r2"])
    await stack.routed("m3", ["r2"])
    await stack.routed("m4", ["r3"])


async def test_the_seed_manifests_route_unchanged(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m2"], "r3": ["m3"]})
    stack.port = 8008
    stack.write("services.yaml", service_entry(endpoints(replicas)), pool())
    for name in ("destination-rule.yaml", "virtual-service.yaml"):
        (stack.directory / name).write_bytes((SEED / name).read_bytes())
    await stack.start()
    for model, replica in (("m1", "r1"), ("m2", "r2"), ("m3", "r3")):
        await stack.routed(model, [replica])
    # ANY_ENDPOINT: a model that nobody has goes to some replica, which says that it does not have it.
    status, text = await stack.infer("m9")
    assert (status, "m9" in text) == (404, True)


async def test_a_model_that_nobody_has_is_refused_by_envoy(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"]})
    await started(stack, replicas)
    await stack.routed("m1", ["r1"])
    assert (await stack.infer("m9"))[0] == 503


async def test_a_request_without_the_header_meets_the_cluster_level(
    stack: Stack, replicas: list[Replica]
) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m1"], "r3": ["m1"]})
    by_header = {"paths": []}
    on_miss = {"noModel": "ANY_ENDPOINT", "notLoaded": "NO_FALLBACK"}
    await started(stack, replicas, on_miss=on_miss, request=by_header)
    await stack.routed("m1", ["r1", "r2", "r3"])
    assert {(await stack.post("/v2/models/m1/infer", {}))[0] for _ in range(6)} == {200}
    assert (await stack.infer("m9"))[0] == 503

    stack.write("services.yaml", service_entry(endpoints(replicas)), pool(request=by_header))

    async def refused() -> bool:
        return (await stack.post("/v2/models/m1/infer", {}))[0] == 503

    await until(refused, "a request without a model to be refused")


async def test_several_keys_and_several_headers(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m1"], "r3": ["m1"]})
    labels = {
        "r1": {"stage": "prod", "version": "v1"},
        "r2": {"stage": "prod", "version": "v2"},
        "r3": {"stage": "test", "version": "v2"},
    }
    stack.write("services.yaml", service_entry(endpoints(replicas, **labels)))
    rule = destination_rule(
        [
            {"keys": ["stage", "version"], "fallbackPolicy": "NO_FALLBACK"},
            {"keys": ["stage"], "fallbackPolicy": "NO_FALLBACK"},
        ]
    )
    headers = {"x-version": "version", "x-stage": "stage"}
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers=headers), rule)
    await stack.start()

    async def answers(**sent: str) -> set[tuple[int, str]]:
        found = {await stack.infer("m1", **sent) for _ in range(8)}
        return {(status, text if status == 200 else "") for status, text in found}

    async def settled() -> bool:
        return await answers(x_version="v2", x_stage="prod") == {(200, "r2")}

    await until(settled, "stage prod, version v2")
    assert await answers(x_version="v1", x_stage="prod") == {(200, "r1")}
    assert await answers(x_version="v2", x_stage="test") == {(200, "r3")}
    assert await answers(x_version="v1", x_stage="test") == {(503, "")}
    assert await answers(x_stage="prod") == {(200, "r1"), (200, "r2")}


async def test_the_default_subset_takes_what_matches_nothing(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m1"], "r3": ["m1"]})
    labels = {"r1": {"stage": "prod"}, "r2": {"stage": "test"}, "r3": {"stage": "test"}}
    stack.write("services.yaml", service_entry(endpoints(replicas, **labels)))
    rule = destination_rule(
        [{"keys": ["stage"], "fallbackPolicy": "DEFAULT_SUBSET", "defaultSubset": {"stage": "prod"}}]
    )
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"x-stage": "stage"}), rule)
    await stack.start()

    async def settled() -> bool:
        return {await stack.infer("m1", x_stage="test") for _ in range(6)} == {(200, "r2"), (200, "r3")}

    await until(settled, "stage test")
    assert {await stack.infer("m1", x_stage="nowhere") for _ in range(6)} == {(200, "r1")}
    assert {await stack.infer("m1") for _ in range(6)} == {(200, "r1")}


async def test_loads_and_unloads_are_followed(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"]})
    await started(stack, replicas)
    await stack.routed("m1", ["r1"])
    await replicas[1].load("m1")
    await stack.routed("m1", ["r1", "r2"])
    await replicas[0].unload("m1")
    await stack.routed("m1", ["r2"])
    await replicas[1].unload("m1")

    async def gone() -> bool:
        return (await stack.infer("m1"))[0] == 503

    await until(gone, "the last holder to be gone")
    await replicas[2].load("m1")
    await stack.routed("m1", ["r3"])


async def test_endpoints_come_and_go_with_their_documents(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m1"], "r3": ["m1"]})
    await started(stack, replicas[:1])
    await stack.routed("m1", ["r1"])
    stack.write("services.yaml", service_entry(endpoints(replicas)), pool())
    await stack.routed("m1", ["r1", "r2", "r3"])
    stack.write("services.yaml", service_entry(endpoints(replicas[1:])), pool())
    await stack.routed("m1", ["r2", "r3"])
    stack.write("services.yaml", service_entry([]), pool())

    async def empty() -> bool:
        return (await stack.infer("m1"))[0] == 503

    await until(empty, "no endpoint left")
    stack.write("services.yaml", service_entry(endpoints(replicas)), pool())
    await stack.routed("m1", ["r1", "r2", "r3"])


async def test_a_bad_reload_keeps_the_last_good_documents(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"]})
    await started(stack, replicas)
    await stack.routed("m1", ["r1"])
    stack.write("zz-broken.yaml", virtual_service(headers={"model": KEY}) | {"kind": "VirtualServise"})

    async def told() -> list[str]:
        return [str(p) for p in (await stack.status())["config"]["problems"]]

    problems = await until(told, "the problem in status")
    assert "zz-broken.yaml" in problems[0]
    assert "VirtualServise" in problems[0]
    await stack.routed("m1", ["r1"])
    await replicas[1].load("m1")
    await stack.routed("m1", ["r1", "r2"])
    (stack.directory / "zz-broken.yaml").unlink()

    async def mended() -> bool:
        return not await told()

    await until(mended, "the problem to leave status")


async def test_fixed_placements_need_no_runtime_api(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m1"], "r3": ["m2"]})
    static = {str(replicas[0]): ["m1"], str(replicas[2]): ["m2"]}
    stack.write("services.yaml", service_entry(endpoints(replicas)), pool(models={"static": static}))
    stack.write("routing.yaml", gateway(stack.port), virtual_service())
    await stack.start()
    await stack.routed("m1", ["r1"])
    await stack.routed("m2", ["r3"])


async def test_a_pool_and_its_service_alone_are_served_on_the_service_port(
    stack: Stack, replicas: list[Replica]
) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m2"]})
    stack.write("services.yaml", service_entry(endpoints(replicas), port=stack.port), pool())
    await stack.start()
    await stack.routed("m1", ["r1"])
    await stack.routed("m2", ["r2"])


async def test_a_sidecar_listens_on_loopback_for_each_service_port(
    sidecar: Stack, replicas: list[Replica]
) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m2"]})
    sidecar.write("services.yaml", service_entry(endpoints(replicas), port=sidecar.port), pool())
    routes = virtual_service(headers={"x-model": KEY}, gateways=["mesh"])
    routes["spec"]["http"][0]["route"][0]["destination"]["port"]["number"] = sidecar.port
    sidecar.write("routing.yaml", routes)
    await sidecar.start()

    async def settled() -> bool:
        return await sidecar.post("/v2/models/m2/infer", {"x-model": "m2"}) == (200, "r2")

    await until(settled, "the sidecar to route")
    assert await sidecar.post("/v2/models/m1/infer", {"x-model": "m1"}) == (200, "r1")
    assert sidecar.envoy is not None
    _, text = sidecar.envoy.get("/listeners?format=json")
    listeners = json.loads(text)["listener_statuses"]
    addresses = {entry["local_address"]["socket_address"]["address"] for entry in listeners}
    assert addresses == {"127.0.0.1"}


async def test_a_move_through_the_server_loses_no_request(stack: Stack, replicas: list[Replica]) -> None:
    await place(replicas, {"r1": ["m1"], "r3": ["m2"]})
    await started(stack, replicas)
    await stack.routed("m1", ["r1"])
    answers: list[tuple[int, str]] = []
    done = asyncio.Event()

    async def traffic() -> None:
        while not done.is_set():
            answers.append(await stack.infer("m1"))

    running = [asyncio.create_task(traffic()) for _ in range(4)]
    r1, r2 = map(str, replicas[:2])
    for held, free in ((r1, r2), (r2, r1), (r1, r2)):
        assert (await stack.call("/v1/loads", {"model": "m1", "endpoint": free}))[0] == 200
        body = {"model": "m1", "endpoint": held, "settle": 0.3, "drain": 0.1}
        assert (await stack.call("/v1/unloads", body))[0] == 200
    done.set()
    await asyncio.gather(*running)
    assert {status for status, _ in answers} == {200}
    assert {replica for _, replica in answers} == {"r1", "r2"}
    status, refusal = await stack.call("/v1/unloads", {"model": "m1", "endpoint": r2})
    assert status == 409, refusal
    assert (await stack.status())["services"][0]["host"] == HOST
