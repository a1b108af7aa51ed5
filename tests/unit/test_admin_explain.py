"""`/v1/explain` over HTTP: both ways to ask, and what is said of questions that cannot be answered."""

from __future__ import annotations

import base64

import pytest
from admin_world import admin_of
from moves_world import HOST, FakeEnvoy, World


@pytest.fixture
async def world() -> World:
    return World().start(m="1,2", solo="3")


async def test_both_ways_to_ask_get_the_same_answer(world: World) -> None:
    FakeEnvoy(world, "a")
    async with admin_of(world) as admin:
        code, short = await admin.get(f"/v1/explain?model=m&authority={HOST}")
        assert code == 200
        path, headers = "/v2/models/m/infer", [["model", "m"]]
        described = {"model": "m", "path": path, "headers": headers, "authority": HOST}
        code, whole = await admin.post("/v1/explain", described)
        assert code == 200
        for answer in (short, whole):
            assert (answer["expected"], answer["request"]["path"]) == ("m", path)
            (taken,) = answer["routes"]
            assert (taken["model"], taken["from"]) == ("m", "header model")
            assert {each["endpoint"] for each in taken["targets"][0]["holders"]} == {world.at(1), world.at(2)}


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("", "the request is not described"),
        ("?modell=m", "parameter 'modell' is unknown"),
        ("?model=m&header=model", "header: found 'model'; expected NAME:VALUE"),
        ("?model=m&port=http", "port"),
        ("?path=v2", "path"),
    ],
)
async def test_a_question_that_is_none(world: World, question: str, words: str) -> None:
    async with admin_of(world) as admin:
        code, answer = await admin.get(f"/v1/explain{question}")
        assert code == 400
        assert words in answer["error"]


async def test_a_body_has_to_be_base64(world: World) -> None:
    async with admin_of(world) as admin:
        code, answer = await admin.post("/v1/explain", {"path": "/v1/chat/completions", "body": "{}"})
        assert (code, "found no base64" in answer["error"]) == (400, True)
        body = base64.b64encode(b'{"model": "m"}').decode()
        code, answer = await admin.post("/v1/explain", {"path": "/v1/chat/completions", "body": body})
        assert answer["request"]["body_bytes"] == 14
