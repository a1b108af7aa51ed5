"""Under which name a replica is asked, in every place of a request: one that it has, whatever it was called.

The replicas are scripted (named_replica.py): each answers only to the names that it has.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.inference_calls import call, tensor
from tests.integration.known_names_world import ASKED, CHAT, EACH_LAYOUT, LAYOUTS, worlds
from tests.integration.mlserver import free_ports
from tests.integration.named_replica import NamedReplica
from tests.integration.stack import gateway, pool, service_entry, virtual_service

if TYPE_CHECKING:
    from pathlib import Path


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
