from __future__ import annotations

import asyncio
import json
import threading

import grpc
import joblib
import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from sklearn.dummy import DummyClassifier

from tests.inference_calls import call
from xds_server.demo import repository as repository_module
from xds_server.demo.forwarding import FORWARDED_BY, HOP, SERVED_BY, Peers, session
from xds_server.demo.grpc_runtime import GrpcRuntime
from xds_server.demo.payload import as_rest, read_digit, read_tensor, seed_request
from xds_server.demo.processes import free_ports
from xds_server.demo.proxy import Proxy
from xds_server.demo.repository import NotReadyError, Repository, State, UnknownModelError
from xds_server.demo.runtime import Runtime


@pytest.fixture
def folder(tmp_path):
    for digit, name in enumerate(("one", "two", "three"), start=1):
        classifier = DummyClassifier(strategy="constant", constant=digit)
        classifier.fit(np.zeros((3, 784)), [1, 2, 3])
        (tmp_path / name).mkdir()
        joblib.dump(classifier, tmp_path / name / "model.joblib")
    return tmp_path


async def start(application):
    client = TestClient(TestServer(application))
    await client.start_server()
    return client


def address(client: TestClient) -> str:
    return f"{client.server.host}:{client.server.port}"


@pytest.fixture
async def pair(folder):
    """Two replicas that know each other: the first holds `one`, the second `two`."""
    first, second = Repository(folder), Repository(folder)
    await first.load("one")
    await second.load("two")
    # The second's port is not known before it runs, and it has to know the first's.
    one = await start(Runtime("replica-1", first, []).application())
    two = await start(Runtime("replica-2", second, [address(one)]).application())
    yield one, two
    await two.close()
    await one.close()


async def infer(client: TestClient, model: str, **headers: str):
    return await client.post(f"/v2/models/{model}/infer", data=seed_request(), headers=headers)


@pytest.mark.parametrize("body", [seed_request(), as_rest(seed_request())])
async def test_both_forms_are_answered_in_the_v2_rest_form(pair, body):
    answer = await pair[0].post("/v2/models/one/infer", data=body)
    assert answer.status == 200
    assert answer.headers[SERVED_BY] == "replica-1"
    assert FORWARDED_BY not in answer.headers
    document = await answer.json()
    assert document["model_name"] == "one"
    assert [output["name"] for output in document["outputs"]] == ["predict", "predict_proba"]
    assert read_digit(await answer.read()) == 1


async def test_a_body_may_name_the_model_beside_its_inputs(pair):
    body = {"model": "one", **json.loads(seed_request())}
    answer = await pair[0].post("/infer", json=body)
    assert (answer.status, read_digit(await answer.read())) == (200, 1)
    assert (await pair[0].post("/infer", data=seed_request())).status == 400


async def test_grpc_answers_with_the_digit_or_says_why_not(folder):
    repository = Repository(folder)
    await repository.load("two")
    _, values = read_tensor(seed_request())
    tensor = {"name": "inputs", "shape": [1, 784], "datatype": "FP32", "contents": {"fp32_contents": values}}
    async with (
        GrpcRuntime(repository).listening("127.0.0.1", 0) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        assert (await call(channel, "ServerLive")).live
        answer = await call(channel, "ModelInfer", model_name="two", inputs=[tensor])
        assert (answer.model_name, list(answer.outputs[0].contents.int64_contents)) == ("two", [2])
        for model, inputs, code in (
            ("three", [tensor], grpc.StatusCode.NOT_FOUND),
            ("two", [], grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(channel, "ModelInfer", model_name=model, inputs=inputs)
            assert refused.value.code() is code
    repository.close()


async def test_a_request_for_another_replicas_model_is_forwarded_and_marked(pair):
    answer = await infer(pair[1], "one")
    assert answer.status == 200
    assert read_digit(await answer.read()) == 1
    assert answer.headers[SERVED_BY] == "replica-1"
    assert answer.headers[FORWARDED_BY] == "replica-2"


async def test_a_request_is_forwarded_once_only(pair):
    assert (await infer(pair[1], "one", **{HOP: "1"})).status == 404


async def test_without_a_holder_the_answer_is_404_with_the_reason(pair):
    answer = await infer(pair[1], "three")
    assert answer.status == 404
    assert await answer.json() == {"error": "Model three not found"}
    assert (await infer(pair[0], "nobody-knows-it")).status == 404


async def test_a_holder_that_has_just_lost_the_model_is_not_a_500(pair):
    assert (await infer(pair[1], "one")).status == 200
    assert (await pair[0].post("/v2/repository/models/one/unload")).status == 200
    assert (await infer(pair[1], "one")).status == 404


async def test_a_holder_that_is_gone_is_not_a_500(pair, monkeypatch):
    (port,) = free_ports(1)
    monkeypatch.setattr(Peers, "holders", lambda _, __: [f"127.0.0.1:{port}"])
    assert (await infer(pair[1], "one")).status == 404


async def test_holders_take_turns(pair):
    async with session() as client:
        peers = Peers([address(each) for each in pair], client)
        assert peers.holders("one") == []
        await peers.refresh()
        assert peers.holders("one") == [address(pair[0])]
        assert (await pair[1].post("/v2/repository/models/one/load")).status == 200
        await peers.refresh()
        assert peers.holders("one") == peers.holders("one")[::-1]


async def test_the_index_lists_the_whole_repository_and_filters_on_ready(pair):
    everything = await (await pair[0].post("/v2/repository/index")).json()
    assert {row["name"]: row["state"] for row in everything} == {
        "one": "READY",
        "two": "UNAVAILABLE",
        "three": "UNAVAILABLE",
    }
    ready = await (await pair[0].post("/v2/repository/index", json={"ready": True})).json()
    assert [row["name"] for row in ready] == ["one"]


async def test_load_and_unload_change_what_is_ready(pair):
    client = pair[0]
    assert (await client.get("/v2/models/three/ready")).status == 400
    assert (await client.get("/v2/models/three")).status == 404
    assert (await client.post("/v2/repository/models/three/load")).status == 200
    assert (await client.get("/v2/models/three/ready")).status == 200
    assert (await (await client.get("/v2/models/three")).json())["inputs"][0]["shape"] == [1, 784]
    assert (await client.post("/v2/repository/models/three/unload")).status == 200
    assert (await client.post("/v2/repository/models/three/unload")).status == 404
    assert (await client.post("/v2/repository/models/none/load")).status == 404
    assert (await client.post("/v2/repository/models/none/unload")).status == 404


async def test_health_is_answered(pair):
    assert (await pair[0].get("/v2/health/live")).status == 200
    assert (await pair[0].get("/v2/health/ready")).status == 200


@pytest.mark.parametrize(
    "body",
    [b"not json", json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "data": [0.1, 0.2]}]}).encode()],
)
async def test_what_cannot_be_read_is_a_400_with_a_reason(pair, body):
    answer = await pair[0].post("/v2/models/one/infer", data=body)
    assert answer.status == 400
    assert (await answer.json())["error"]


async def test_while_it_loads_a_model_is_loading_and_the_replica_answers(folder, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    load = repository_module._load

    def slow(path):
        inside.set()
        assert go_on.wait(10)
        return load(path)

    repository = Repository(folder)
    await repository.load("one")
    monkeypatch.setattr(repository_module, "_load", slow)
    client = await start(Runtime("replica-1", repository, []).application())
    loading = asyncio.create_task(client.post("/v2/repository/models/two/load"))
    await asyncio.to_thread(inside.wait, 10)
    assert repository.state("two") is State.LOADING
    assert (await infer(client, "two")).status == 404
    assert (await infer(client, "one")).status == 200
    go_on.set()
    assert (await loading).status == 200
    assert repository.state("two") is State.READY
    await client.close()


async def test_a_model_that_cannot_be_loaded_says_why_in_the_index(folder):
    (folder / "two" / "model.joblib").write_bytes(b"no pickle")
    repository = Repository(folder)
    with pytest.raises(Exception, match=r"."):
        await repository.load("two")
    row = next(row for row in repository.index() if row["name"] == "two")
    assert row["state"] == "UNAVAILABLE"
    assert row["reason"]
    repository.close()


async def test_the_repository_refuses_what_is_not_there(folder):
    repository = Repository(folder)
    with pytest.raises(UnknownModelError):
        await repository.load("nothing")
    with pytest.raises(NotReadyError):
        await repository.predict("one", [0.0] * 784)
    await repository.load("one")
    with pytest.raises(ValueError, match="expected 784 finite numbers, found 3"):
        await repository.predict("one", [0.0] * 3)
    with pytest.raises(ValueError, match="expected 784 finite numbers"):
        await repository.predict("one", [float("nan")] * 784)
    repository.close()


async def test_proxies_forward_for_a_runtime_that_does_not(folder):
    """Two replicas without peers, a proxy before each: a second hop where the model is not."""
    first, second = Repository(folder), Repository(folder)
    await first.load("one")
    await second.load("two")
    one = await start(Runtime("alone-1", first, []).application())
    two = await start(Runtime("alone-2", second, []).application())
    proxy_one = await start(Proxy("replica-1", address(one), []).application())
    proxy_two = await start(Proxy("replica-2", address(two), [address(proxy_one)]).application())

    own = await infer(proxy_two, "two")
    assert (own.status, own.headers[SERVED_BY]) == (200, "replica-2")
    assert FORWARDED_BY not in own.headers

    other = await infer(proxy_two, "one")
    assert read_digit(await other.read()) == 1
    assert (other.headers[SERVED_BY], other.headers[FORWARDED_BY]) == ("replica-1", "replica-2")

    assert (await infer(proxy_two, "three")).status == 404
    assert (await proxy_two.get("/v2/models/two/ready")).status == 200
    await two.close()
    assert (await infer(proxy_two, "two")).status == 502
    for client in (proxy_two, proxy_one, one):
        await client.close()
