"""Open Inference over gRPC on real MLServer, and Triton over both: the index, the orders, the dialects."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.integration import mlserver, triton
from tests.integration.mlserver import MLServer
from tests.integration.triton import Triton
from tests.runtime_calls import Calls
from xds_server.mesh.events import FailureKind, ModelState
from xds_server.mesh.pools import OpenInference, OpenInferenceProtocol, SecretHeader
from xds_server.sources.runtimes.answers import RuntimeRefusedError, RuntimeUnreadableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GRPC = OpenInference(protocol=OpenInferenceProtocol.GRPC)
REST = OpenInference()
LIMIT = 30.0
ODD = "team a#1 ü:2"


@pytest.fixture(scope="module")
def ml(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLServer]:
    repository = tmp_path_factory.mktemp("repository")
    mlserver.write_model(repository, "m1")
    mlserver.write_model(repository, ODD, folder="odd")
    with MLServer(repository, tmp_path_factory.mktemp("mlserver")) as server:
        yield server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton-repository")
    triton.write_model(folder, "m1")
    triton.write_model(folder, "two", (1, 3))
    triton.write_model(folder, "broken", broken=True)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    with Triton(repository, tmp_path_factory.mktemp("triton")) as started:
        yield started


def grpc_url(replica: MLServer | Triton) -> str:
    return f"http://{replica.address}:{replica.grpc_port}"


def states(rows: tuple[ModelState, ...]) -> dict[tuple[str, str], str]:
    return {(row.name, row.version): row.state for row in rows}


async def test_mlserver_over_grpc_says_what_it_says_over_rest(ml: MLServer) -> None:
    async with Calls(GRPC) as calls, Calls(REST) as rest:
        await calls.load(grpc_url(ml), "m1", LIMIT)
        await calls.load(grpc_url(ml), ODD, LIMIT)
        rows = await calls.index(grpc_url(ml), LIMIT)
        assert rows == await rest.index(ml.url, LIMIT)
        assert states(rows) == {("m1", "v1"): "READY", (ODD, "v1"): "READY"}
        first = await calls.read(grpc_url(ml), LIMIT)
        assert await calls.read(grpc_url(ml), LIMIT, first) is first
        for _ in range(2):  # the second is refused, and all is well: it is not there
            await calls.unload(grpc_url(ml), "m1", LIMIT)
        assert states(await calls.index(grpc_url(ml), LIMIT))["m1", "v1"] == "UNAVAILABLE"
        with pytest.raises(RuntimeRefusedError, match="gRPC NOT_FOUND"):
            await calls.load(grpc_url(ml), "nobody", LIMIT)


@pytest.mark.parametrize("discovery", [REST, GRPC], ids=["rest", "grpc"])
async def test_triton(server: Triton, discovery: OpenInference) -> None:
    url = server.url if discovery is REST else grpc_url(server)
    async with Calls(discovery) as calls:
        await calls.load(url, "two", LIMIT)
        await calls.load(url, "m1", LIMIT)
        assert (
            states(await calls.index(url, LIMIT)).items()
            >= {
                ("m1", "1"): "READY",
                ("two", "1"): "READY",
                ("two", "3"): "READY",
            }.items()
        )
        await calls.unload(url, "m1", LIMIT)
        await calls.unload(url, "m1", LIMIT)
        await calls.unload(url, "two", LIMIT)
        with pytest.raises(RuntimeRefusedError, match="nobody"):
            await calls.load(url, "nobody", LIMIT)
        with pytest.raises(RuntimeRefusedError, match="out of memory"):
            await calls.load(url, "broken", LIMIT)
        broken = [row for row in await calls.index(url, LIMIT) if row.name == "broken"]
        assert not broken[0].ready
        assert "out of memory" in broken[0].reason


async def test_a_restricted_repository_api_wants_its_header(repository: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("opensesame\n")
    options = [
        "--http-restricted-api=model-repository:x-admin=opensesame",
        "--grpc-restricted-protocol=model-repository:x-admin=opensesame",
    ]
    with Triton(repository, tmp_path / "triton", options=options) as server:
        for protocol, url, name in (
            (OpenInferenceProtocol.REST, server.url, "x-admin"),
            # Triton looks for its own prefix before the name in gRPC's metadata.
            (OpenInferenceProtocol.GRPC, grpc_url(server), "triton-grpc-protocol-x-admin"),
        ):
            without = OpenInference(protocol=protocol)
            async with Calls(without) as calls:
                with pytest.raises(RuntimeUnreadableError, match="restricted"):
                    await calls.index(url, LIMIT)
            header = SecretHeader(name, str(token))
            async with Calls(OpenInference(protocol=protocol, header=header)) as calls:
                assert {row.name for row in await calls.index(url, LIMIT)} == {"m1", "two", "broken"}


async def test_nobody_listening_is_a_refusal_and_seen_at_once_when_somebody_does(ml: MLServer) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        async with Calls(GRPC) as calls:
            with pytest.raises(RuntimeUnreadableError) as caught:
                await calls.index(url, LIMIT)
    assert caught.value.kind is FailureKind.REFUSED


async def test_silence_is_a_timeout(ml: MLServer) -> None:
    async with Calls(GRPC) as calls:
        await calls.index(grpc_url(ml), LIMIT)
        ml.pause()
        try:
            with pytest.raises(RuntimeUnreadableError) as caught:
                await calls.index(grpc_url(ml), 0.2)
        finally:
            ml.resume()
        assert caught.value.kind is FailureKind.TIMEOUT
        assert await calls.index(grpc_url(ml), LIMIT)


async def test_a_server_of_something_else_is_a_bad_answer() -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()
    try:
        async with Calls(GRPC) as calls:
            with pytest.raises(RuntimeUnreadableError, match="UNIMPLEMENTED") as caught:
                await calls.index(f"http://127.0.0.1:{port}", LIMIT)
    finally:
        await other.stop(0)
    assert caught.value.kind is FailureKind.BAD_ANSWER
