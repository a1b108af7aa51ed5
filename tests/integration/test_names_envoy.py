"""Further names of models through a real Envoy, with real MLServer and real Triton behind it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration import triton
from tests.integration.stack import KEY, Stack, gateway, pool, service_entry, until, virtual_service
from tests.integration.triton import Triton

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.integration.conftest import Replica

ASKED = {"interval": "100ms", "timeout": "2s"}


async def place(replicas: list[Replica], placement: dict[str, list[str]]) -> None:
    await asyncio.gather(*(r.hold(placement.get(r.name, [])) for r in replicas))


async def started(stack: Stack, replicas: Iterable[Replica], **names: Any) -> None:
    endpoints = [{"address": r.address, "ports": {"http": r.port}} for r in replicas]
    stack.write("services.yaml", service_entry(endpoints), pool(models={"openInference": ASKED, **names}))
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"model": KEY}))
    await stack.start()


async def answering(stack: Stack, name: str, path: str) -> set[tuple[int, str]]:
    """Who answers requests for `path` under `name`; a refusal as (status, "")."""
    found = {await stack.post(path, {"model": name}) for _ in range(6)}
    return {(status, who if status == 200 else "") for status, who in found}


async def routed(stack: Stack, name: str, replicas: Iterable[str], model: str) -> None:
    wanted = {(200, each) for each in replicas} or {(503, "")}
    path = f"/v2/models/{model}/infer"

    async def check() -> bool:
        return await answering(stack, name, path) == wanted

    await until(check, f"{name} on {sorted(replicas)}")


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_an_alias_follows_its_models_and_goes_with_a_withdrawal(
    stack: Stack, replicas: list[Replica]
) -> None:
    await place(replicas, {"r1": ["m1"], "r2": ["m1", "m2"], "r3": ["m2"]})
    await started(stack, replicas, aliases={"one": "m1", "any": ["m2", "m3"]})
    await routed(stack, "one", ["r1", "r2"], "m1")
    await routed(stack, "any", ["r2", "r3"], "m2")

    status, answer = await stack.call(
        "/v1/withdrawals", {"model": "m1", "endpoint": str(replicas[0]), "settle": 0, "drain": 0}
    )
    assert status == 200, answer
    assert await answering(stack, "one", "/v2/models/m1/infer") == {(200, "r2")}
    await replicas[1].unload("m1")
    await routed(stack, "one", [], "m1")


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_a_fallback_in_order_and_back(stack: Stack, replicas: list[Replica]) -> None:
    """The replicas are asked under m1's path, which all have: who answers is what is looked at."""
    await place(replicas, {"r1": ["m1", "m4"], "r2": ["m1", "m3"], "r3": ["m1", "m2"]})
    await started(stack, replicas, fallbacks={"m2": ["m3", "m4"]})
    await routed(stack, "m2", ["r3"], "m1")
    await replicas[2].unload("m2")
    await routed(stack, "m2", ["r2"], "m1")
    await replicas[1].unload("m3")
    await routed(stack, "m2", ["r1"], "m1")
    await replicas[0].unload("m4")
    await routed(stack, "m2", [], "m1")
    await replicas[2].load("m2")
    await routed(stack, "m2", ["r3"], "m1")


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Triton]]:
    """Three replicas of one model: t1 serves version 1, t2 versions 1 and 2, t3 version 10."""
    started = {}
    try:
        for name, versions in (("t1", (1,)), ("t2", (1, 2)), ("t3", (10,))):
            repository = tmp_path_factory.mktemp(f"repository-{name}")
            triton.write_model(repository, "m", versions)
            started[name] = Triton(repository, tmp_path_factory.mktemp(name), name).__enter__()
            started[name].load("m")
        yield started
    finally:
        for each in started.values():
            each.stop()


async def said(stack: Stack, name: str, path: str = "/v2/models/m/infer") -> set[str]:
    """What the replicas answer under `name`: `m:VERSION@REPLICA`, or the status of a refusal."""
    assert stack.http is not None
    found = set()
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
    for _ in range(8):
        url = f"http://127.0.0.1:{stack.port}{path}"
        async with stack.http.post(url, json=body, headers={"model": name} if name else {}) as answer:
            if answer.status != 200:
                found.add(str(answer.status))
            else:
                found.add((await answer.json())["outputs"][0]["data"][0])
    return found


async def saying(stack: Stack, name: str, wanted: set[str], path: str = "/v2/models/m/infer") -> None:
    seen: set[str] = set()

    async def check() -> bool:
        seen.clear()
        seen.update(await said(stack, name, path))
        return seen == wanted

    await until(check, f"{name} at {path}: {wanted}, seen {seen}")


@pytest.mark.parametrize("delta", [True], ids=["delta"])
async def test_versions_are_names_and_the_bare_name_means_what_the_pool_says(
    stack: Stack, tritons: dict[str, Triton]
) -> None:
    endpoints = [{"address": t.address, "ports": {"http": t.port}} for t in tritons.values()]

    def document(**versions: Any) -> dict[str, Any]:
        names = {"versions": versions, "aliases": {"stable": "m/versions/2"}}
        return pool(models={"openInference": ASKED, **names})

    stack.write("services.yaml", service_entry(endpoints), document())
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"model": KEY}))
    await stack.start()
    one = "/v2/models/m/versions/1/infer"
    await saying(stack, "m/versions/1", {"m:1@t1", "m:1@t2"}, one)
    await saying(stack, "m/versions/2", {"m:2@t2"}, "/v2/models/m/versions/2/infer")
    await saying(stack, "stable", {"m:2@t2"})
    await saying(stack, "m", {"m:1@t1", "m:2@t2", "m:10@t3"})
    await saying(stack, "m/versions/7", {"503"})

    stack.write("services.yaml", service_entry(endpoints), document(default="LATEST"))
    await saying(stack, "m", {"m:10@t3"})
    await saying(stack, "m/versions/1", {"m:1@t1", "m:1@t2"}, one)

    stack.write("services.yaml", service_entry(endpoints), document(pinned={"m": "1"}))
    await saying(stack, "m", {"m:1@t1", "m:1@t2"}, one)
