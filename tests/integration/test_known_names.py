"""Under which name a replica is asked, in every place of a request: one that it has, whatever it was called.

The replicas are scripted (named_replica.py): each answers only to the names that it has.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.inference_calls import SERVICE, call, message, tensor
from tests.integration.mlserver import free_ports
from tests.integration.named_replica import NamedReplica
from tests.integration.stack import Stack, gateway, pool, service_entry, until, virtual_service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {"type": "single"},
    "sharded": {"type": "sharded", "shards": 4},
    "perModel": {"type": "perModel"},
}
EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)
ASKED = {"port": "api", "interval": "100ms", "timeout": "2s"}


class World:
    """Envoy before some replicas, with a port for REST and one for gRPC."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.rest, self.grpc = free_ports(2)
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{self.grpc}", options=[("grpc.max_send_message_length", 1 << 25)]
        )

    def write(
        self,
        replicas: list[NamedReplica],
        models: dict[str, Any],
        layout: str = "single",
        **spec: Any,
    ) -> None:
        made = []
        for host, port in (("rest", self.rest), ("grpc", self.grpc)):
            endpoints = [each.endpoint(grpc_traffic=host == "grpc") for each in replicas]
            protocol = "GRPC" if host == "grpc" else "HTTP"
            made.append(service_entry(endpoints, host=host, port=port, protocol=protocol))
            document = pool(host=host, models=models)
            document["spec"] |= {"layout": LAYOUTS[layout], **spec}
            made.append(document)
        self.stack.write("documents.yaml", *made)

    async def post(self, path: str, body: Any = None, **headers: str) -> str:
        """`AS by REPLICA`, or the status and what was said."""
        text = body if isinstance(body, str) else json.dumps(body or {})
        try:
            status, said = await asyncio.to_thread(_post, self.rest, path, text, headers)
        except OSError as error:
            return repr(error)
        answer = json.loads(said)
        return f"{answer['as']} by {answer['by']}" if status == 200 else f"{status} {said}"

    async def infer(self, model: str, version: str = "", header: str = "", **fields: Any) -> str:
        """The same over gRPC."""
        metadata = (("model", header),) if header else ()
        try:
            answer = await call(
                self.channel, "ModelInfer", metadata, model_name=model, model_version=version, **fields
            )
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        return f"{answer.model_name} by {answer.id}"

    async def says(self, wanted: str, ask: Any) -> None:
        seen = ""

        async def check() -> bool:
            nonlocal seen
            seen = await ask()
            return seen == wanted

        try:
            await until(check, wanted, 20)
        except AssertionError as error:
            raise AssertionError(f"{wanted}: {seen}") from error


def _post(port: int, path: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", path, body.encode(), {"content-type": "application/json"} | headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@asynccontextmanager
async def worlds(tmp_path: Path, *replicas: NamedReplica) -> AsyncIterator[World]:
    async with AsyncExitStack() as opened:
        for each in replicas:
            await opened.enter_async_context(each)
        world = World(await opened.enter_async_context(Stack(tmp_path)))
        opened.push_async_callback(world.channel.close)
        yield world


CHAT = "/v1/chat/completions"


@EACH_LAYOUT
async def test_aliases_splits_and_fallbacks_in_every_place(tmp_path: Path, layout: str) -> None:
    slashed = "org/versions/x"  # a model's own name, in a pool without versions
    r1, r2 = NamedReplica("r1", {"a": [], "c": []}), NamedReplica("r2", {"b": [], slashed: []})
    async with worlds(tmp_path, r1, r2) as world:
        names = {
            "aliases": {"one": "a", "any": ["b", "c"]},
            "splits": {"half": {"targets": [{"name": "one", "weight": 1}]}},
            "fallbacks": {"gone": ["missing", "one"], "away": ["b"]},
        }
        world.write([r1, r2], {"openInference": ASKED, **names}, layout)
        await world.stack.start()
        cases = {"a": "a by r1", "one": "a by r1", "half": "a by r1", "gone": "a by r1", "away": "b by r2"}
        for name, wanted in cases.items():
            await world.says(wanted, lambda name=name: world.post(f"/v2/models/{name}/infer"))
            await world.says(wanted, lambda name=name: world.infer(name, inputs=[tensor()]))
            body = {"messages": [], "model": name}
            assert await world.post(CHAT, body) == wanted
            assert await world.post(CHAT, body, model=name) == wanted  # the header says it too
            assert await world.post(f"/v2/models/{name}/infer", model=name) == wanted
            assert await world.infer(name, header=name) == wanted
            ready = await call(world.channel, "ModelReady", name=name)
            assert ready.ready
            told = await call(world.channel, "ModelMetadata", name=name)
            assert told.name == wanted[0]
        # An alias of several: each replica under the one that it has.
        both = {await world.infer("any") for _ in range(12)}
        assert both == {"c by r1", "b by r2"}
        both = {await world.post("/v2/models/any/infer") for _ in range(12)}
        assert both == {"c by r1", "b by r2"}
        assert await world.infer(slashed) == f"{slashed} by r2"
        assert await world.post(CHAT, {"model": slashed}) == f"{slashed} by r2"
        assert await world.post("/v2/models/org%2Fversions%2Fx/infer") == f"{slashed} by r2"
        assert {each for r in (r1, r2) for each in r.asked} <= {"a", "b", "c", slashed}
        assert "x-xds-known-as" not in {name.lower() for each in r1.headers for name in each}


@EACH_LAYOUT
async def test_of_two_pools_on_one_route_each_is_asked_under_its_own_names(
    tmp_path: Path, layout: str
) -> None:
    r1, r2 = NamedReplica("r1", {"a": [], "c": []}), NamedReplica("r2", {"a": [], "b": []})
    async with worlds(tmp_path, r1, r2) as world:
        made = []
        for host, replica, names in (
            ("p1", r1, {"one": "a", "b": "c"}),
            ("p2", r2, {"one": "b"}),
        ):
            document = pool(host=host, models={"openInference": ASKED, "aliases": names})
            document["spec"]["layout"] = LAYOUTS[layout if host == "p2" else "single"]
            made += [service_entry([replica.endpoint()], host=host, port=free_ports(1)[0]), document]
        service = virtual_service()
        service["spec"]["http"][0]["route"] = [
            {"destination": {"host": host}, "weight": 50} for host in ("p1", "p2")
        ]
        world.rest = world.stack.port
        world.stack.write("documents.yaml", *made, gateway(world.rest), service)
        await world.stack.start()
        for name, wanted in (("one", {"a by r1", "b by r2"}), ("b", {"c by r1", "b by r2"})):
            for ask in (
                lambda name=name: world.post(f"/v2/models/{name}/infer"),
                lambda name=name: world.post(CHAT, {"model": name}),
            ):
                for each in wanted:
                    await world.says(each, ask)
                assert {await ask() for _ in range(20)} <= wanted


async def test_a_body_under_a_header_is_renamed_however_its_name_is_escaped(tmp_path: Path) -> None:
    r1, r2 = NamedReplica("r1", {"a": []}), NamedReplica("r2", {"b": []})
    async with worlds(tmp_path, r1, r2) as world:
        names = {"org/one": "a", "mod\u00e8le-\u6a21-\U0001f999": "a", 'a\\u0041"': "a", "ul": "a"}
        world.write([r1, r2], {"openInference": ASKED, "aliases": names})
        await world.stack.start()
        for name in names:
            await world.says("a by r1", lambda name=name: world.post(CHAT, {"model": name}))
            header = {"model": name.encode().decode("latin-1")}
            for written in (json.dumps(name), json.dumps(name, ensure_ascii=False)):
                for text in (written, written.replace("/", "\\/")):
                    assert await world.post(CHAT, f'{{"model": {text}}}', **header) == "a by r1"
        # Not what only looks alike: it goes on as it came.
        for other in ("null", '"u\\\\u006c"', '"u\\n"'):
            text = f'{{"model": {other}}}'
            await world.post(CHAT, text, model="ul")
            assert r1.bodies[-1].decode() == text
        assert world.stack.envoy is not None
        assert "script log" not in world.stack.envoy.log


async def test_versions_in_messages(tmp_path: Path) -> None:
    r1, r2 = NamedReplica("r1", {"m": ["1", "2"]}), NamedReplica("r2", {"m": ["3"], "n": ["1"]})
    async with worlds(tmp_path, r1, r2) as world:
        names = {
            "versions": {"pinned": {"n": "1"}},
            "aliases": {"stable": "m/versions/2", "nn": "n"},
            "splits": {"canary": {"targets": [{"name": "m/versions/3", "weight": 1}]}},
            "fallbacks": {"m/versions/9": ["m/versions/3"], "m/versions/8": ["n"]},
        }
        world.write([r1, r2], {"openInference": ASKED, **names})
        await world.stack.start()
        for model, version, wanted in (
            ("m", "1", "m@1 by r1"),
            ("m", "3", "m@3 by r2"),
            ("stable", "", "m@2 by r1"),
            ("canary", "", "m@3 by r2"),
            ("n", "", "n@1 by r2"),
            ("nn", "", "n@1 by r2"),
            ("m", "9", "m@3 by r2"),
            ("m", "8", "n@1 by r2"),
        ):
            await world.says(wanted, lambda m=model, v=version: world.infer(m, v))
            beside = f"/versions/{version}" if version else ""
            assert await world.post(f"/v2/models/{model}{beside}/infer") == wanted
        assert await world.infer("m", header="m/versions/3") == "m@3 by r2"
        # OpenAI's bodies have no version: the replica is asked for the model, and takes its own.
        assert await world.post(CHAT, {"model": "m/versions/3"}) == "m by r2"
        assert await world.post(CHAT, {"model": "stable"}) == "m by r1"
        assert (await world.infer("m", "7")).startswith(
            "UNAVAILABLE model m/versions/7 is loaded on no replica"
        )
        assert (await world.infer("m", "1\n")).startswith("INVALID_ARGUMENT")


async def test_a_message_is_changed_in_its_name_alone(tmp_path: Path) -> None:
    r1 = NamedReplica("r1", {"a": []})
    async with worlds(tmp_path, r1) as world:
        world.write([r1], {"openInference": ASKED, "aliases": {"an-alias-of-some-length": "a"}})
        await world.stack.start()
        await world.says("a by r1", lambda: world.infer("an-alias-of-some-length"))
        request = message("ModelInferRequest")(
            id="7", inputs=[tensor()], raw_input_contents=[bytes(range(256)) * (1 << 15)]
        )
        request.parameters["k"].string_param = "v"
        rest = request.SerializeToString()
        infer = world.channel.unary_unary(f"/{SERVICE}/ModelInfer")
        name = message("ModelInferRequest")(model_name="an-alias-of-some-length").SerializeToString()
        renamed = message("ModelInferRequest")(model_name="a", model_version="").SerializeToString()
        unknown = b"\xfa\x3f\x03abc\xf0\x3f\x07"  # fields that nobody knows are kept
        for sent, wanted in (
            (name + rest + unknown, renamed + rest + unknown),
            (rest + name, renamed + rest),
        ):
            await infer(sent, timeout=20)
            assert r1.bodies[-1] == wanted


async def test_a_stream_is_renamed_message_by_message_while_it_goes_on(tmp_path: Path) -> None:
    r1 = NamedReplica("r1", {"a": []})
    async with worlds(tmp_path, r1) as world:
        world.write([r1], {"openInference": ASKED, "fallbacks": {"gone": ["a"]}})
        await world.stack.start()
        await world.says("a by r1", lambda: world.infer("gone"))
        stream = world.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=message("ModelStreamInferResponse").FromString,
        )(timeout=20)
        for size in (1, 1 << 20, 3, 70_000):
            contents = [bytes([size % 251]) * size]
            await stream.write(message("ModelInferRequest")(model_name="gone", raw_input_contents=contents))
            answer = await stream.read()  # before the next message is sent
            assert answer.infer_response.model_name == "a"
            got = message("ModelInferRequest").FromString(r1.bodies[-1])
            assert (got.model_name, list(got.raw_input_contents)) == ("a", contents)
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


async def test_another_try_asks_under_the_other_replicas_name(tmp_path: Path) -> None:
    """r1 says that it has b, and answers 404: what was sent to it must not go on to r2."""
    r1, r2 = NamedReplica("r1", {"b": [], "any": []}), NamedReplica("r2", {"c": [], "keep": []})
    r1.broken = True
    async with worlds(tmp_path, r1, r2) as world:
        names = {"aliases": {"any": ["c", "b"], "all": ["b", "c"], "keep": "b"}}
        world.write([r1, r2], {"openInference": ASKED, **names})
        await world.stack.start()
        for name, its in (("all", "c"), ("any", "c"), ("keep", "keep")):
            wanted = f"{its} by r2"
            await world.says(wanted, lambda name=name: world.infer(name))
            r2.asked.clear()
            for _ in range(12):
                assert await world.post(f"/v2/models/{name}/infer") == wanted
                assert await world.post(CHAT, {"model": name, "messages": ["x"]}) == wanted
                assert json.loads(r2.bodies[-1]) == {"model": its, "messages": ["x"]}
                assert await world.infer(name) == wanted
            assert set(r2.asked) == {its}
        assert set(r1.asked) == {"b", "any"}


@EACH_LAYOUT
async def test_an_adapter_that_is_gone_is_answered_by_its_base(tmp_path: Path, layout: str) -> None:
    with_it = NamedReplica("r1", {"llama": [], "sql": []}, adapters={"sql": "llama"})
    base = NamedReplica("r2", {"llama": []})
    async with worlds(tmp_path, with_it, base) as world:
        asked = ASKED | {"grace": "0s"}
        world.write([with_it, base], {"openai": asked}, layout)
        await world.stack.start()
        body = '{"messages": [{"model": "sql"}], "model": "sql"}'
        await world.says("sql by r1", lambda: world.post(CHAT, body))
        assert with_it.bodies[-1].decode() == body
        await with_it.stop()
        await world.says("llama by r2", lambda: world.post(CHAT, body))
        assert base.bodies[-1] == b'{"messages": [{"model": "sql"}], "model": "llama"}'
        assert await world.post("/v2/models/sql/infer") == "llama by r2"
        assert set(base.asked) == {"llama"}


async def test_the_fallback_model_is_asked_for_by_its_name(tmp_path: Path) -> None:
    r1, r2 = NamedReplica("r1", {"a": [], "b": []}), NamedReplica("r2", {"b": []})
    async with worlds(tmp_path, r1, r2) as world:
        miss = {"noModel": "FALLBACK_MODEL", "notLoaded": "FALLBACK_MODEL", "fallbackModel": "best"}
        world.write([r1, r2], {"openInference": ASKED, "aliases": {"best": "a", "bb": "b"}}, onMiss=miss)
        await world.stack.start()
        await world.says("a by r1", lambda: world.infer("unknown"))
        await world.says("a by r1", lambda: world.post("/v2/models/unknown/infer"))
        for name, wanted in (("unknown", "a"), ("a", "a"), ("best", "a"), ("b", "b"), ("bb", "b")):
            for _ in range(6):
                for said in (
                    await world.post(f"/v2/models/{name}/infer"),
                    await world.post(CHAT, {"model": name}),
                    await world.infer(name),
                ):
                    assert said.startswith(f"{wanted} by"), name
        # What names no model gets the name where its body would have it.
        for body, wanted in (
            ('{"messages": []}', '{"model":"a","messages": []}'),
            (" {} ", ' {"model":"a"} '),
            ('{"model": null, "n": 1}', '{"model": "a", "n": 1}'),
            ('{"model": ""}', '{"model": "a"}'),
        ):
            assert await world.post(CHAT, body) == "a by r1"
            assert r1.bodies[-1].decode() == wanted
        assert await world.infer("") == "a by r1"


async def test_large_bodies_are_renamed_up_to_the_limit(tmp_path: Path) -> None:
    r1 = NamedReplica("r1", {"a": []})
    async with worlds(tmp_path, r1) as world:
        world.write([r1], {"openInference": ASKED, "aliases": {"one": "a"}})
        await world.stack.start()
        await world.says("a by r1", lambda: world.infer("one"))
        large = json.dumps({"messages": ["x" * 3_000_000], "model": "one"})
        assert await world.post(CHAT, large) == "a by r1"
        assert len(r1.bodies[-1]) == len(large) - 2
        assert await world.infer("one", raw_input_contents=[b"x" * 12_000_000]) == "a by r1"
        assert await world.post(CHAT, large, model="one") == "a by r1"
        assert await world.infer("one", header="one", raw_input_contents=[b"x" * 12_000_000]) == "a by r1"
        larger = json.dumps({"messages": ["x" * 5_000_000], "model": "one"})
        for headers in ({}, {"model": "one"}):
            assert (await world.post(CHAT, larger, **headers)).startswith("413")
        tensors = [b"x" * 20_000_000]
        answer = await world.infer("one", header="one", raw_input_contents=tensors)
        assert answer.startswith("RESOURCE_EXHAUSTED"), answer
        assert set(r1.asked) == {"a"}


async def test_what_cannot_be_renamed_is_refused(tmp_path: Path) -> None:
    r1 = NamedReplica("r1", {"a": []})
    async with worlds(tmp_path, r1) as world:
        world.write([r1], {"openInference": ASKED, "aliases": {"one": "a"}})
        await world.stack.start()
        await world.says("a by r1", lambda: world.infer("one"))
        request = message("ModelInferRequest")(model_name="one", raw_input_contents=[b"x" * 5000])
        for metadata in ((("model", "one"),), ()):
            infer = world.channel.unary_unary(f"/{SERVICE}/ModelInfer")
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await infer(
                    request.SerializeToString(),
                    metadata=metadata,
                    timeout=20,
                    compression=grpc.Compression.Gzip,
                )
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, refused.value.details()
        # Of a stream nothing goes on from a message that is too large: the replica sees none under the alias.
        stream = world.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(
            metadata=(("model", "one"),), timeout=20
        )
        huge = message("ModelInferRequest")(model_name="one", raw_input_contents=[b"x" * 20_000_000])
        await stream.write(huge.SerializeToString())
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert set(r1.asked) == {"a"}


@EACH_LAYOUT
async def test_the_route_is_that_of_the_path_that_was_asked_for(tmp_path: Path, layout: str) -> None:
    """The path that the replica gets would take another route, which leads to nobody who has the model."""
    r1, r2 = NamedReplica("r1", {"a": []}), NamedReplica("r2", {"b": []})
    splits = {"half": {"targets": [{"name": "old", "weight": 1}]}}
    async with worlds(tmp_path, r1, r2) as world:
        world.write([r1], {"openInference": ASKED, "splits": splits, "aliases": {"old": "a"}}, layout)
        other = service_entry([r2.endpoint()], host="other", port=free_ports(1)[0])
        service = virtual_service()
        service["spec"]["http"] = [
            {
                "match": [{"uri": {"prefix": f"/v2/models/{name}"}} for name in ("half", "old")],
                "route": [{"destination": {"host": "rest"}}],
            },
            {"route": [{"destination": {"host": "other"}}]},
        ]
        world.stack.write("routing.yaml", other, gateway(world.stack.port), service)
        await world.stack.start()
        world.rest = world.stack.port
        for name in ("half", "old"):
            await world.says("a by r1", lambda name=name: world.post(f"/v2/models/{name}/infer"))
        assert (await world.post("/v2/models/a/infer")).startswith("404")
        assert r2.asked == ["a"]
