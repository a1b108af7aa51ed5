"""The client of the repository API against answers of every kind; real runtimes are in tests/integration."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
from contextlib import suppress

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime_calls import Calls
from tests.scripted_runtime import answering, rows, scripted
from xds_server.mesh.events import FailureKind, ModelState
from xds_server.sources.runtimes import http
from xds_server.sources.runtimes.answers import RuntimeRefusedError, RuntimeUnreadableError
from xds_server.sources.runtimes.open_inference import parse as parse_index

LIMIT = 5.0


async def failure(url: str, limit: float = LIMIT) -> RuntimeUnreadableError:
    async with Calls() as client:
        with pytest.raises(RuntimeUnreadableError) as caught:
            await client.index(url, limit)
    return caught.value


def replying(data: bytes):
    async def script(request):
        await request.raw(data)
        request.writer.close()

    return script


def test_rows_of_both_dialects():
    body = json.dumps(
        [
            {"name": "b", "version": "v1", "state": "READY", "reason": ""},
            {"name": "a"},
            {"name": "c", "state": "State.READY", "version": None},
            {"name": "d", "state": "unavailable", "version": 3, "reason": "unloaded"},
            {"name": "e", "state": "", "other": {}},
        ]
    ).encode()
    assert parse_index(body) == (
        ModelState("a", "", "UNAVAILABLE"),
        ModelState("b", "v1", "READY"),
        ModelState("c", "", "READY"),
        ModelState("d", "3", "UNAVAILABLE", "unloaded"),
        ModelState("e", "", "UNAVAILABLE"),
    )
    assert parse_index(b"[]") == ()


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", "no JSON: "),
        (b"<html>", "no JSON: <html>"),
        (b"\xff\xfe", "no JSON"),
        (b"[" * 200_000, "no JSON"),
        (b'{"error": "x"}', 'not an array: {"error": "x"}'),
        (b"null", "not an array: null"),
        (b'["m"]', 'row 0 of the repository index is not an object: "m"'),
        (b'[{"name": "a"}, {"state": "READY"}]', "row 1 of the repository index has no name"),
        (b'[{"name": ""}]', "row 0 of the repository index has no name"),
        (b'[{"name": ["m"]}]', 'row 0 of the repository index: name is no text: ["m"]'),
        (b'[{"name": "a", "state": true}]', "state is no text: true"),
        (rb'[{"name": "\ud800"}]', "name is no Unicode"),
    ],
)
def test_what_is_no_index_is_a_bad_answer_that_says_what_was_found(body, found):
    with pytest.raises(RuntimeUnreadableError) as caught:
        parse_index(body)
    assert caught.value.kind is FailureKind.BAD_ANSWER
    assert found in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["name", "state", "version", "x"]), inner)
    ),
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_no_answer_raises_anything_else(body):
    with suppress(RuntimeUnreadableError):
        found = parse_index(body)
        assert all(row.name and row.state == row.state.upper() for row in found)
        assert found == tuple(sorted(found))


async def test_the_index_is_asked_with_a_body_and_over_one_connection():
    bodies = []

    async def script(request):
        bodies.append(request.body)
        await request.answer(rows("m"))

    async with scripted(script) as runtime, Calls() as client:
        for _ in range(5):
            assert await client.index(runtime.url, LIMIT) == (ModelState("m", "1"),)
    assert bodies == [b"{}"] * 5
    assert runtime.requests == ["POST /v2/repository/index HTTP/1.1"] * 5
    assert runtime.connections == 1


async def test_equal_bytes_give_the_same_index_object():
    async with answering("m") as runtime, Calls() as client:
        first = await client.read(runtime.url, LIMIT)
        assert await client.read(runtime.url, LIMIT, first) is first


async def test_nobody_listening_is_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = "http://{}:{}".format(*taken.getsockname())
        error = await failure(url)
    assert error.kind is FailureKind.REFUSED
    assert str(error).startswith(url)


async def test_a_connection_closed_before_any_answer_is_refused():
    async def script(request):
        request.hang_up()

    async with scripted(script) as runtime:
        assert (await failure(runtime.url)).kind is FailureKind.REFUSED
    assert len(runtime.requests) == 1


async def test_a_kept_connection_that_the_peer_had_closed_is_no_refusal():
    async def script(request):
        if len(runtime.requests) == 2:
            request.hang_up()
        else:
            await request.answer(rows("m"))

    async with scripted(script) as runtime, Calls() as client:
        for _ in range(3):
            assert await client.index(runtime.url, LIMIT) == (ModelState("m", "1"),)
    assert runtime.connections == 2
    assert len(runtime.requests) == 4


async def test_a_runtime_that_goes_away_between_two_polls_is_refused():
    async with Calls() as client:
        async with answering("m") as runtime:
            await client.index(runtime.url, LIMIT)
        with pytest.raises(RuntimeUnreadableError) as caught:
            await client.index(runtime.url, LIMIT)
    assert caught.value.kind is FailureKind.REFUSED


@pytest.mark.parametrize(
    "cause", [ConnectionResetError(errno.ECONNRESET, "reset"), aiohttp.ClientConnectionResetError("closing")]
)
async def test_a_connection_that_breaks_while_the_request_is_written_is_refused(monkeypatch, cause):
    """As aiohttp reports it: the error that carries its own words has no errno where its cause has none."""

    def post(*_, **__):
        raise aiohttp.ClientOSError(cause.errno, "Can not write request body for URL") from cause

    monkeypatch.setattr(aiohttp.ClientSession, "post", post)
    error = await failure("http://127.0.0.1:1")
    assert error.kind is FailureKind.REFUSED
    assert "Can not write" not in str(error)


async def test_a_kept_connection_that_breaks_while_the_request_is_written_is_no_refusal(monkeypatch):
    """It had been closed between two polls: the request goes out again, on a new connection."""
    async with answering("m") as runtime, Calls() as client:
        await client.index(runtime.url, LIMIT)
        write, broken = aiohttp.ClientRequest.write_bytes, []

        async def once(self, writer, *args, **more):
            if not broken:
                broken.append(writer)
                writer.transport.abort()
                raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")
            await write(self, writer, *args, **more)

        monkeypatch.setattr(aiohttp.ClientRequest, "write_bytes", once)
        assert await client.index(runtime.url, LIMIT) == (ModelState("m", "1"),)
    assert (len(broken), runtime.connections) == (1, 2)


async def test_silence_is_a_timeout():
    async def script(request):
        await asyncio.Event().wait()

    async with scripted(script) as runtime:
        error = await failure(runtime.url, 0.05)
    assert (error.kind, str(error)) == (FailureKind.TIMEOUT, f"no answer from {runtime.url} within 0.05 s")


async def test_an_answer_that_never_ends_is_a_timeout():
    async def script(request):
        await request.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[")
        await asyncio.Event().wait()

    async with scripted(script) as runtime:
        assert (await failure(runtime.url, 0.1)).kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"HTTP/1.1 422 Unprocessable\r\nContent-Length: 7\r\n\r\nno body", "HTTP 422 no body"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", "HTTP 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[", "broke off|no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "no HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no HTTP"),
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\r\n\r\n", "no HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
            "no HTTP",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "no HTTP|broke off"),
    ],
)
async def test_other_answers_are_bad(data, found):
    async with scripted(replying(data)) as runtime:
        error = await failure(runtime.url)
    assert error.kind is FailureKind.BAD_ANSWER
    assert any(text in str(error) for text in found.split("|")), str(error)


async def test_an_answer_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(http, "MAX_ANSWER", 1000)

    async def script(request):
        await request.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            await request.raw(b"100\r\n" + b" " * 256 + b"\r\n")

    async with scripted(script) as runtime:
        error = await failure(runtime.url)
    assert (error.kind, str(error)) == (
        FailureKind.BAD_ANSWER,
        f"{runtime.url} answered with more than 1000 bytes",
    )


async def test_tls_to_a_port_without_it_is_a_bad_answer():
    async with scripted(replying(b"")) as runtime:
        error = await failure(runtime.url.replace("http:", "https:"), 1.0)
    assert error.kind in {FailureKind.BAD_ANSWER, FailureKind.TIMEOUT}


async def test_a_certificate_that_is_not_trusted_is_a_bad_answer(monkeypatch):
    async def refuse(*_, sock, **__):
        sock.close()
        raise ssl.SSLCertVerificationError(1, "self-signed certificate")

    async with answering("m") as runtime, Calls() as client:
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refuse)
        with pytest.raises(RuntimeUnreadableError) as caught:
            await client.index(runtime.url.replace("http:", "https:"), LIMIT)
    assert caught.value.kind is FailureKind.BAD_ANSWER


async def test_a_name_without_an_address_has_the_grace_of_a_timeout(monkeypatch):
    async def resolve(*_, **__):
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    error = await failure("http://replica-0.models:8080")
    assert error.kind is FailureKind.TIMEOUT
    assert "the name has no address" in str(error)


async def test_ipv6_addresses_in_brackets():
    async def serve(reader, writer):
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]")
        writer.close()

    server = await asyncio.start_server(serve, "::1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Calls() as client:
        assert await client.index(f"http://[::1]:{port}", LIMIT) == ()


async def test_load_and_unload_quote_the_name():
    async def script(request):
        await request.answer(b"")

    async with scripted(script) as runtime, Calls() as client:
        await client.load(runtime.url, "team a/mnist#1?ü%", LIMIT)
        await client.unload(runtime.url, "team a/mnist#1?ü%", LIMIT)
    path = "/v2/repository/models/team%20a%2Fmnist%231%3F%C3%BC%25"
    assert runtime.requests == [f"POST {path}/load HTTP/1.1", f"POST {path}/unload HTTP/1.1"]


async def test_a_refused_load_says_what_the_runtime_said():
    async def script(request):
        await request.answer(b'{"error": "no such model"}', "404 Not Found")

    async with scripted(script) as runtime, Calls() as client:
        with pytest.raises(RuntimeRefusedError) as caught:
            await client.load(runtime.url, "m", LIMIT)
    assert (caught.value.status, caught.value.body) == (404, '{"error": "no such model"}')
    assert str(caught.value) == 'the runtime refused to load \'m\': HTTP 404 {"error": "no such model"}'


async def test_a_load_that_takes_too_long_is_a_timeout():
    async def script(request):
        await asyncio.Event().wait()

    async with scripted(script) as runtime, Calls() as client:
        with pytest.raises(
            RuntimeUnreadableError, match=r"did not answer the load of 'm' within 0.05 s"
        ) as caught:
            await client.load(runtime.url, "m", 0.05)
    assert caught.value.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(("state", "done"), [("UNAVAILABLE", True), ("READY", False)])
async def test_a_refused_unload_is_done_if_the_model_is_not_ready(state, done):
    async def script(request):
        if "/unload" in request.line:
            await request.answer(b'{"error": "not found"}', "404 Not Found")
        else:
            await request.answer(rows("m", state=state) + rows("other"))

    async with scripted(script) as runtime, Calls() as client:
        if done:
            await client.unload(runtime.url, "m", LIMIT)
        else:
            with pytest.raises(RuntimeRefusedError, match="refused to unload 'm': HTTP 404"):
                await client.unload(runtime.url, "m", LIMIT)


async def test_loads_that_hang_do_not_hold_up_the_index():
    async def script(request):
        if "/load" in request.line:
            if len(runtime.requests) == 10:
                all_hang.set()
            await asyncio.Event().wait()
        await request.answer(rows("m"))

    all_hang = asyncio.Event()
    async with scripted(script) as runtime, Calls() as client:
        loads = [asyncio.create_task(client.load(runtime.url, f"m{n}", LIMIT)) for n in range(10)]
        await asyncio.wait_for(all_hang.wait(), LIMIT)
        assert await client.index(runtime.url, LIMIT)
        for load in loads:
            load.cancel()
        await asyncio.wait(loads)
