"""Names in gRPC messages and in large bodies: written anew for the replica, all else byte for byte."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.inference_calls import SERVICE, message, tensor
from tests.integration.known_names_world import ASKED, CHAT, worlds
from tests.integration.named_replica import NamedReplica

if TYPE_CHECKING:
    from pathlib import Path


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
