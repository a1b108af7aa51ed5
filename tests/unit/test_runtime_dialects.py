"""Each runtime's file against answers in the shapes that the runtimes give, served over real HTTP.

Recorded, since these runtimes do not install here: vLLM and SGLang (model cards of their OpenAI servers),
llama.cpp router, Ollama, TensorFlow Serving, TorchServe and OpenVINO Model Server (their documentation and
handlers), KServe's Python server (seen on 0.21). Open Inference runs against real servers in
tests/integration.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from tests.mesh_events import eid
from tests.runtime_calls import Calls
from xds_server.mesh.events import FailureKind, ModelsReported, ModelState
from xds_server.mesh.pools import (
    KServe,
    LlamaCpp,
    Ollama,
    OpenAI,
    OpenInference,
    OpenVino,
    SecretHeader,
    TensorFlowServing,
    TorchServe,
)
from xds_server.sources.runtimes import client, ollama, openai
from xds_server.sources.runtimes.answers import RuntimeRefusedError, RuntimeUnreadableError
from xds_server.sources.runtimes.client import NoOrdersError, loads
from xds_server.sources.runtimes.poller import Poller
from xds_server.sources.runtimes.targets import Target

if TYPE_CHECKING:
    from pathlib import Path

LIMIT = 5.0


@asynccontextmanager
async def serving(answers, asked=None):
    """Answers by method and path: a JSON value, or (status, value). Notes what was asked."""
    asked = [] if asked is None else asked

    async def handle(request):
        body = await request.text()
        asked.append(
            (f"{request.method} {request.rel_url}", json.loads(body) if body else None, request.headers)
        )
        found = answers.get(f"{request.method} {request.rel_url}", (404, {"error": "unknown"}))
        status, value = found if isinstance(found, tuple) else (200, found)
        return web.json_response(value, status=status)

    application = web.Application()
    application.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def rows_of(discovery, answers):
    async with serving(answers) as url, Calls(discovery) as calls:
        return await calls.index(url, LIMIT)


VLLM = {
    "object": "list",
    "data": [
        {"id": "llama-3", "object": "model", "owned_by": "vllm", "root": "/m/llama-3", "parent": None},
        {"id": "sql-lora", "object": "model", "owned_by": "vllm", "root": "/l/sql", "parent": "llama-3"},
    ],
}
SGLANG = {
    "object": "list",
    "data": [
        {"id": "qwen", "object": "model", "owned_by": "sglang", "root": "qwen", "parent": None},
        {"id": "fr", "object": "model", "owned_by": "sglang", "root": "/l/fr", "parent": "qwen"},
    ],
}


async def test_vllm_lists_models_and_adapters_with_their_base():
    assert await rows_of(OpenAI(), {"GET /v1/models": VLLM}) == (
        ModelState("llama-3"),
        ModelState("sql-lora", base="llama-3"),
    )


async def test_sglangs_adapters_have_both_names():
    assert await rows_of(OpenAI(), {"GET /v1/models": SGLANG}) == (
        ModelState("fr", base="qwen"),
        ModelState("qwen"),
        ModelState("qwen:fr", base="qwen"),
    )


LLAMA = {
    "object": "list",
    "data": [
        {"id": "tiny-a", "status": {"value": "loaded"}},
        {"id": "tiny-b", "status": {"value": "unloaded"}},
        {"id": "tiny-c", "status": {"value": "loading"}},
        {"id": "tiny-d", "status": {"value": "unloaded", "failed": True, "exit_code": 1}},
        {"id": "tiny-e", "status": {"value": "sleeping"}},
    ],
}


async def test_llama_cpps_router_lists_states():
    assert await rows_of(LlamaCpp(), {"GET /models": LLAMA}) == (
        ModelState("tiny-a", "", "READY"),
        ModelState("tiny-b", "", "UNAVAILABLE"),
        ModelState("tiny-c", "", "LOADING"),
        ModelState("tiny-d", "", "UNAVAILABLE", "failed with exit code 1"),
        ModelState("tiny-e", "", "SLEEPING"),
    )


async def test_llama_cpp_refuses_the_load_of_what_is_loaded_and_that_is_well():
    asked = []
    answers = {
        "GET /models": LLAMA,
        "POST /models/load": (400, {"error": {"message": "model is already loaded"}}),
        "POST /models/unload": (400, {"error": {"message": "model is not loaded"}}),
    }
    async with serving(answers, asked) as url, Calls(LlamaCpp()) as calls:
        await calls.load(url, "tiny-a", LIMIT)
        await calls.unload(url, "tiny-b", LIMIT)
        with pytest.raises(RuntimeRefusedError, match="already loaded"):
            await calls.load(url, "tiny-b", LIMIT)
        with pytest.raises(RuntimeRefusedError, match="not loaded"):
            await calls.unload(url, "tiny-a", LIMIT)
    assert asked[0][:2] == ("POST /models/load", {"model": "tiny-a"})


async def test_the_poller_asks_llama_cpp_when_its_stream_tells_of_a_change():
    """The interval is an hour: what is heard within seconds was told."""
    models = {"data": [{"id": "a", "status": {"value": "unloaded"}}]}
    told = asyncio.Event()
    ended = asyncio.Event()

    async def listed(_):
        return web.json_response(models)

    async def stream(request):
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        await told.wait()
        await response.write(b'event: message\ndata: {"event":"model_status","model":"a"}\n\n')
        await ended.wait()
        return response

    application = web.Application()
    application.router.add_get("/models", listed)
    application.router.add_get("/models/sse", stream)
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    heard = asyncio.Queue()
    poller = Poller(heard.put_nowait, on_error=heard.put_nowait)
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        poller.set_targets({eid("a"): Target(url, 3600, LIMIT, LlamaCpp())})
        first = await asyncio.wait_for(heard.get(), LIMIT)
        assert isinstance(first, ModelsReported)
        assert not first.models[0].ready
        models["data"][0]["status"]["value"] = "loaded"
        told.set()
        second = await asyncio.wait_for(heard.get(), LIMIT)
        assert second.source == "llama-cpp"
        assert second.models == (ModelState("a", "", "READY"),)
    finally:
        ended.set()
        await poller.close()
        await runner.cleanup()


OLLAMA = {
    "models": [
        {
            "name": "mistral:latest",
            "model": "mistral:latest",
            "expires_at": "2036-06-04T14:38:31.83753-07:00",
        },
        {"name": "llama3:8b", "model": "llama3:8b", "expires_at": "2036-06-04T14:38:30.837536789Z"},
        {"name": "registry.example:5000/team/x", "model": "x", "expires_at": "0001-01-01T00:00:00Z"},
    ]
}


async def test_ollama_lists_what_is_in_memory_and_latest_goes_by_two_names():
    assert [row.name for row in await rows_of(Ollama(), {"GET /api/ps": OLLAMA})] == [
        "llama3:8b",
        "mistral",
        "mistral:latest",
        "registry.example:5000/team/x",
        "registry.example:5000/team/x:latest",
    ]


def test_ollama_tells_until_when():
    two = {"models": OLLAMA["models"][:2]}
    assert ollama.until(json.dumps(two).encode()) == datetime(2036, 6, 4, 14, 38, 30, 837536, UTC).timestamp()
    assert ollama.until(b'{"models": null}') is None
    assert ollama.until(b'{"models": [{"name": "x", "expires_at": "soon"}]}') is None


async def test_ollama_is_asked_again_when_its_answer_ends():
    """The interval is an hour, and the answer holds for 0.2 s of the poller's clock."""
    answers = {"GET /api/ps": {"models": [{"name": "m:1", "expires_at": "1970-01-01T00:01:40.2Z"}]}}
    heard = asyncio.Queue()
    async with serving(answers) as url:
        poller = Poller(heard.put_nowait, on_error=heard.put_nowait, clock=lambda: 100.0)
        try:
            poller.set_targets({eid("a"): Target(url, 3600, LIMIT, Ollama())})
            for _ in range(2):
                assert isinstance(await asyncio.wait_for(heard.get(), LIMIT), ModelsReported)
        finally:
            await poller.close()


async def test_ollama_loads_and_unloads_by_asking_for_nothing():
    asked = []
    async with serving({"POST /api/generate": {"done": True}}, asked) as url, Calls(Ollama()) as calls:
        await calls.load(url, "m:1", LIMIT)
        await calls.unload(url, "m:1", LIMIT)
    assert [body for _, body, _ in asked] == [
        {"model": "m:1", "stream": False},
        {"model": "m:1", "stream": False, "keep_alive": 0},
    ]


def versions(*states):
    return {
        "model_version_status": [
            {"version": number, "state": state, "status": {"error_code": "OK", "error_message": error}}
            for number, state, error in states
        ]
    }


async def test_tensorflow_serving_is_asked_for_each_name():
    answers = {
        "GET /v1/models/mnist": versions(("3", "AVAILABLE", ""), ("2", "UNLOADING", ""), ("1", "END", "")),
        "GET /v1/models/a%20b": versions(("1", "LOADING", "out of disk")),
        "GET /v1/models/gone": (404, {"error": "Servable not found"}),
    }
    assert await rows_of(TensorFlowServing(models=("mnist", "a b", "gone")), answers) == (
        ModelState("a b", "1", "LOADING", "out of disk"),
        ModelState("mnist", "1", "END"),
        ModelState("mnist", "2", "UNLOADING"),
        ModelState("mnist", "3", "READY"),
    )


async def test_tensorflow_serving_that_fails_is_no_answer():
    with pytest.raises(RuntimeUnreadableError) as caught:
        await rows_of(TensorFlowServing(models=("m",)), {"GET /v1/models/m": (500, {})})
    assert caught.value.kind is FailureKind.BAD_ANSWER


async def test_open_vino_has_all_models_in_its_configuration():
    config = {"resnet": versions(("1", "AVAILABLE", "OK")), "broken": versions(("1", "LOADING", "NO_DATA"))}
    assert await rows_of(OpenVino(), {"GET /v1/config": config}) == (
        ModelState("broken", "1", "LOADING", "NO_DATA"),
        ModelState("resnet", "1", "READY", "OK"),
    )


async def test_torch_serve_is_read_page_by_page_and_a_model_without_a_worker_serves_nothing():
    worker = {"id": "9000", "status": "READY", "memoryUsage": 0}
    answers = {
        "GET /models?limit=100": {"nextPageToken": "2", "models": [{"modelName": "a", "modelUrl": "a.mar"}]},
        "GET /models?limit=100&next_page_token=2": {"models": [{"modelName": "b"}, {"modelName": "c"}]},
        "GET /models/a/all": [
            {"modelName": "a", "modelVersion": "1.0", "workers": [worker]},
            {"modelName": "a", "modelVersion": "2.0", "workers": [{"status": "UNLOADING"}]},
        ],
        "GET /models/b/all": [{"modelName": "b", "modelVersion": "1.0", "workers": []}],
        "GET /models/c/all": [
            {"modelName": "c", "modelVersion": "1.0", "workers": [worker, {"status": "X"}]}
        ],
    }
    assert await rows_of(TorchServe(), answers) == (
        ModelState("a", "1.0", "READY"),
        ModelState("a", "2.0", "LOADING", "none of 1 workers is ready"),
        ModelState("b", "1.0", "UNAVAILABLE"),
        ModelState("c", "1.0", "READY"),
    )


async def test_kserve_lists_names_and_each_is_asked_whether_it_is_ready():
    answers = {
        "GET /v2/models": {"models": ["lr", "rf"]},
        "GET /v2/models/lr/ready": {"name": "lr", "ready": True},
        "GET /v2/models/rf/ready": (503, {"error": "Model with name rf is not ready."}),
    }
    assert await rows_of(KServe(), answers) == (
        ModelState("lr", "", "READY"),
        ModelState("rf", "", "UNKNOWN"),
    )


async def test_kserve_has_no_second_unload():
    answers = {
        "GET /v2/models": {"models": ["lr"]},
        "POST /v2/repository/models/rf/unload": (404, {"error": "Model with name rf does not exist."}),
        "POST /v2/repository/models/lr/unload": (500, {"error": "busy"}),
        "POST /v2/repository/models/rf/load": {"name": "rf", "load": True},
    }
    async with serving(answers) as url, Calls(KServe()) as calls:
        await calls.load(url, "rf", LIMIT)
        await calls.unload(url, "rf", LIMIT)
        with pytest.raises(RuntimeRefusedError, match="busy"):
            await calls.unload(url, "lr", LIMIT)


@pytest.mark.parametrize(
    ("discovery", "path"),
    [
        (OpenAI(), "/v1/models"),
        (LlamaCpp(), "/models"),
        (Ollama(), "/api/ps"),
        (TensorFlowServing(models=("m",)), "/v1/models/m"),
        (OpenVino(), "/v1/config"),
        (TorchServe(), "/models?limit=100"),
        (KServe(), "/v2/models"),
    ],
)
@pytest.mark.parametrize(
    "answer", [[], [1], {"data": 1, "models": 1, "m": 1, "model_version_status": 1}, 7, "x"]
)
async def test_what_is_no_answer_is_an_error_and_no_crash(discovery, path, answer):
    with pytest.raises(RuntimeUnreadableError) as caught:
        await rows_of(discovery, {f"GET {path}": answer})
    assert caught.value.kind is FailureKind.BAD_ANSWER


async def test_a_header_is_read_from_its_file_at_each_question(tmp_path: Path):
    file = tmp_path / "token"
    asked = []
    discovery = OpenAI(header=SecretHeader("authorization", str(file)))
    async with serving({"GET /v1/models": VLLM}, asked) as url, Calls(discovery) as calls:
        with pytest.raises(RuntimeUnreadableError, match="token cannot be read"):
            await calls.index(url, LIMIT)
        file.write_text("Bearer one\n")
        await calls.index(url, LIMIT)
        file.write_text("Bearer two")
        await calls.index(url, LIMIT)
        file.write_text("a\r\nX-Other: b")
        with pytest.raises(RuntimeUnreadableError, match="more than one line"):
            await calls.index(url, LIMIT)
    assert [headers["authorization"] for _, _, headers in asked] == ["Bearer one", "Bearer two"]


async def test_no_runtime_is_sent_what_proves_who_this_server_is(tmp_path: Path, monkeypatch):
    """Whoever may write a pool names the file, and the address that it is sent to."""
    account, asked = tmp_path / "kubernetes.io", []
    account.mkdir()
    (account / "token").write_text("ours")
    (tmp_path / "link").symlink_to(account / "token")
    monkeypatch.setattr(client, "_OURS", account)
    discovery = OpenAI(header=SecretHeader("authorization", str(tmp_path / "link")))
    async with serving({"GET /v1/models": VLLM}, asked) as url, Calls(discovery) as calls:
        with pytest.raises(RuntimeUnreadableError, match="link is this server's own"):
            await calls.index(url, LIMIT)
    assert asked == []


async def test_who_has_no_call_to_load_says_so():
    async with Calls(OpenAI()) as calls:
        with pytest.raises(NoOrdersError, match="openai"):
            await calls.load("http://127.0.0.1:1", "m", LIMIT)
    assert [loads(each) for each in (OpenAI(), Ollama(), OpenInference(), TorchServe())] == [
        False,
        True,
        True,
        False,
    ]


async def test_equal_bytes_are_not_read_again(monkeypatch):
    async with serving({"GET /v1/models": VLLM}) as url, Calls(OpenAI()) as calls:
        first = await calls.read(url, LIMIT)
        monkeypatch.setattr(openai, "parse", None)
        assert await calls.read(url, LIMIT, first) is first
