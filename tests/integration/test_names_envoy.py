"""Further names of models through a real Envoy, with real Triton behind it."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.integration import triton
from tests.integration.stack import KEY, Stack, gateway, pool, service_entry, until, virtual_service
from tests.integration.triton import Triton
from xds_server.mesh.names import sticky_share

if TYPE_CHECKING:
    from collections.abc import Iterator


ONE = pytest.mark.parametrize("delta", [True], ids=["delta"])
"""What is pushed is the same in both variants of xDS."""
ASKED = {"interval": "100ms", "timeout": "2s"}


@pytest.fixture(scope="module")
def tritons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Triton]]:
    """Three replicas of m: t1 has version 1, t2 versions 1 and 2, t3 version 10. Each can load a, b, c."""
    started = {}
    try:
        for name, versions in (("t1", (1,)), ("t2", (1, 2)), ("t3", (10,))):
            repository = tmp_path_factory.mktemp(f"repository-{name}")
            triton.write_model(repository, "m", versions)
            for other in "abc":
                triton.write_model(repository, other)
            started[name] = Triton(repository, tmp_path_factory.mktemp(name), name).__enter__()
            started[name].load("m")
        yield started
    finally:
        for each in started.values():
            each.stop()


async def place(tritons: dict[str, Triton], placement: dict[str, str]) -> None:
    """Load exactly these of a, b and c on each replica."""
    for name, replica in tritons.items():
        for model in "abc":
            if model in placement.get(name, ""):
                await asyncio.to_thread(replica.load, model)
            else:
                await asyncio.to_thread(replica.unload, model)


def documents(stack: Stack, tritons: dict[str, Triton], **names: Any) -> None:
    endpoints = [{"address": t.address, "ports": {"http": t.port}} for t in tritons.values()]
    stack.write("services.yaml", service_entry(endpoints), pool(models={"openInference": ASKED, **names}))
    stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"model": KEY}))


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


@ONE
async def test_an_alias_follows_its_models_and_goes_with_a_withdrawal(
    stack: Stack, tritons: dict[str, Triton]
) -> None:
    """All replicas are asked for m: who answers is what is looked at."""
    await place(tritons, {"t1": "a", "t2": "ab", "t3": "b"})
    documents(stack, tritons, aliases={"one": "a", "any": ["b", "c"]})
    await stack.start()
    await saying(stack, "one", {"m:1@t1", "m:2@t2"})
    await saying(stack, "any", {"m:2@t2", "m:10@t3"})

    first = f"127.0.0.1:{tritons['t1'].port}"
    order = {"model": "a", "endpoint": first, "settle": 0, "drain": 0}
    status, answer = await stack.call("/v1/withdrawals", order)
    assert status == 200, answer
    assert await said(stack, "one") == {"m:2@t2"}
    await asyncio.to_thread(tritons["t2"].unload, "a")
    await saying(stack, "one", {"503"})


@ONE
async def test_a_fallback_in_order_and_back(stack: Stack, tritons: dict[str, Triton]) -> None:
    await place(tritons, {"t1": "c", "t2": "b", "t3": "a"})
    documents(stack, tritons, fallbacks={"a": ["b", "c"]})
    await stack.start()
    await saying(stack, "a", {"m:10@t3"})
    for replica, model, wanted in (("t3", "a", "m:2@t2"), ("t2", "b", "m:1@t1"), ("t1", "c", "503")):
        await asyncio.to_thread(tritons[replica].unload, model)
        await saying(stack, "a", {wanted})
    await asyncio.to_thread(tritons["t3"].load, "a")
    await saying(stack, "a", {"m:10@t3"})


@ONE
async def test_versions_are_names_and_the_bare_name_means_what_the_pool_says(
    stack: Stack, tritons: dict[str, Triton]
) -> None:
    aliases = {"stable": "m/versions/2"}
    documents(stack, tritons, versions={}, aliases=aliases)
    await stack.start()
    one = "/v2/models/m/versions/1/infer"
    await saying(stack, "m/versions/1", {"m:1@t1", "m:1@t2"}, one)
    await saying(stack, "m/versions/2", {"m:2@t2"}, "/v2/models/m/versions/2/infer")
    await saying(stack, "stable", {"m:2@t2"})
    await saying(stack, "m", {"m:1@t1", "m:2@t2", "m:10@t3"})
    await saying(stack, "m/versions/7", {"503"})

    documents(stack, tritons, versions={"default": "LATEST"})
    await saying(stack, "m", {"m:10@t3"})
    await saying(stack, "m/versions/1", {"m:1@t1", "m:1@t2"}, one)

    documents(stack, tritons, versions={"pinned": {"m": "1"}})
    await saying(stack, "m", {"m:1@t1", "m:1@t2"}, one)


def balance(found: Counter[str], name: str) -> float:
    return sum(count for said, count in found.items() if said.startswith(name)) / found.total()


async def counted(stack: Stack, path: str, headers: dict[str, str], times: int) -> Counter[str]:
    assert stack.http is not None
    found: Counter[str] = Counter()
    body = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1.0]}]}
    for _ in range(times):
        async with stack.http.post(
            f"http://127.0.0.1:{stack.port}{path}", json=body, headers=headers
        ) as answer:
            told = (await answer.json())["outputs"][0]["data"][0] if answer.status == 200 else None
            found[told or str(answer.status)] += 1
    return found


@ONE
async def test_the_runtime_is_asked_under_the_name_that_it_knows(
    stack: Stack, tritons: dict[str, Triton]
) -> None:
    await place(tritons, {"t1": "a", "t2": "b", "t3": ""})
    names = {"one": "a", "any": ["a", "b"], "old m": "m/versions/1"}
    documents(stack, tritons, versions={}, aliases=names)
    await stack.start()
    for path, wanted in (
        ("/v2/models/one/infer", {"a:1@t1"}),
        ("/v2/models/old%20m/infer", {"m:1@t1", "m:1@t2"}),
        ("/v2/models/m/versions/2/infer", {"m:2@t2"}),
        ("/v2/models/m/versions/7/infer", {"503"}),
        ("/v2/models/b/infer", {"b:1@t2"}),
    ):
        await saying(stack, "", wanted, path)
    # The header says what is meant; a path that names the same goes along with it.
    await saying(stack, "one", {"a:1@t1"}, "/v2/models/one/infer")
    await saying(stack, "m/versions/1", {"m:1@t1", "m:1@t2"}, "/v2/models/m/infer")
    # Of an alias of several, each replica is asked for the one that it has.
    await saying(stack, "", {"a:1@t1", "b:1@t2"}, "/v2/models/any/infer")


@ONE
async def test_a_split_by_weight_and_the_same_for_the_same_user(
    stack: Stack, tritons: dict[str, Triton]
) -> None:
    await place(tritons, {"t1": "a", "t2": "b", "t3": "ab"})
    targets = [{"name": "a", "weight": 80}, {"name": "newest", "weight": 20}]
    versions = [{"name": "m/versions/1", "weight": 1}, {"name": "m/versions/10", "weight": 1}]
    documents(
        stack,
        tritons,
        versions={},
        aliases={"newest": "b"},
        splits={"canary": {"targets": targets, "stickyHeader": "x-user"}, "m": {"targets": versions}},
    )
    await stack.start()
    await saying(stack, "", {"a:1@t1", "a:1@t3", "b:1@t2", "b:1@t3"}, "/v2/models/canary/infer")
    drawn = await counted(stack, "/v2/models/canary/infer", {}, 200)
    assert 0.68 < balance(drawn, "a:") < 0.92

    for number in range(40):
        user = f"user-{number}"
        wanted = "a:" if sticky_share(user, 100) < 80 else "b:"
        found = await counted(stack, "/v2/models/canary/infer", {"x-user": user}, 2)
        assert balance(found, wanted) == 1, (user, found)

    both = await counted(stack, "/v2/models/m/infer", {}, 100)
    assert balance(both, "m:1@") + balance(both, "m:10@t3") == 1
    assert 0.3 < balance(both, "m:10@") < 0.7


@ONE
async def test_a_body_names_the_model_that_an_alias_means(stack: Stack) -> None:
    """The replica here says what it was sent: no real one that speaks OpenAI's protocol installs."""

    async def echo(request: web.Request) -> web.Response:
        text = await request.text()
        return web.json_response({"path": request.path, "sent": text})

    application = web.Application(client_max_size=1 << 23)
    application.router.add_post("/{rest:.*}", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        port = runner.addresses[0][1]
        split = {"ab": {"targets": [{"name": "llama-8b", "weight": 1}]}}
        models = {
            "static": {f"127.0.0.1:{port}": ["llama-8b"]},
            "aliases": {"chat": "llama-8b"},
            "splits": split,
        }
        endpoint = {"address": "127.0.0.1", "ports": {"http": port}}
        stack.write("services.yaml", service_entry([endpoint]), pool(models=models))
        stack.write("routing.yaml", gateway(stack.port), virtual_service(headers={"model": KEY}))
        await stack.start()
        assert stack.http is not None
        url = f"http://127.0.0.1:{stack.port}/v1/chat/completions"
        bodies = [
            ('{"model": "chat", "messages": []}', '{"model": "llama-8b", "messages": []}'),
            ('{"x": {"model": "chat"}, "model" : "ab"}', '{"x": {"model": "chat"}, "model" : "llama-8b"}'),
            ('{"model":"llama-8b","q":"\\"model\\": 1"}', '{"model":"llama-8b","q":"\\"model\\": 1"}'),
            ('{"a": [{"model": "chat"}], "model": "chat", "p": "' + "y" * 2_000_000 + '"}', None),
        ]
        for sent, wanted in bodies:

            async def answered(sent: str = sent) -> str | None:
                assert stack.http is not None
                headers = {"content-type": "application/json; charset=utf-8"}
                async with stack.http.post(url, data=io.BytesIO(sent.encode()), headers=headers) as answer:
                    return (await answer.json())["sent"] if answer.status == 200 else None

            got = await until(answered, f"an answer to {sent[:60]}")
            assert got == (wanted or sent.replace('"model": "chat", "p"', '"model": "llama-8b", "p"'))
    finally:
        await runner.cleanup()
