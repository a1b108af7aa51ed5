"""`serve` as a whole process part: its order, its readiness, its ends and their exit codes."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from config_texts import SERVICE, pool

from tests.scripted_runtime import answering, scripted
from xds_server import app
from xds_server.mesh.events import FailureKind, ModelsReported, ModelState, ReportFailed
from xds_server.mesh.model import EndpointId
from xds_server.mesh.pools import OpenInference
from xds_server.settings import ServeOptions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.scripted_runtime import Request

Captured = pytest.CaptureFixture[str]


SOURCE = OpenInference.source


def write(directory: Path, url: str, models: str = "{openInference: {interval: 50ms, timeout: 20s}}") -> Path:
    port = url.rpartition(":")[2]
    service = SERVICE.replace(
        "endpoints: [{address: 10.0.0.1, ports: {http: 9001}}, {address: 10.0.0.2}]",
        f"endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]",
    )
    directory.mkdir(exist_ok=True)
    (directory / "a.yaml").write_text(f"{service}---\n{pool(f'host: models{chr(10)}models: {models}')}")
    return directory


def options(directory: Path, **more: Any) -> ServeOptions:
    return ServeOptions(
        **({"config": directory, "xds": "127.0.0.1:0", "admin": "127.0.0.1:0", "stop_limit": 1.0} | more)
    )


class Running:
    """A server in this process, stopped by setting `stop`."""

    def __init__(self, server: app.Server, admin: int) -> None:
        self.server = server
        self.stop = asyncio.Event()
        self.run = asyncio.create_task(server.run(self.stop))
        self.admin = f"http://127.0.0.1:{admin}"

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as http, http.get(self.admin + path) as answer:
            return answer.status, await answer.text()

    async def until(self, path: str, said: str) -> str:
        """Ask until it says so: what a person does with curl; no event of this process tells it."""
        async with asyncio.timeout(10):
            while said not in (text := (await self.get(path))[1]):  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.02)
        return text


@asynccontextmanager
async def serving(given: ServeOptions, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    server = app.Server(given)
    ports = []

    async def start() -> int:
        ports.append(await admin_start())
        return ports[0]

    admin_start = server.admin.start
    monkeypatch.setattr(server.admin, "start", start)
    await server.files.start()
    await server.start()
    running = Running(server, ports[0])
    try:
        yield running
    finally:
        running.stop.set()
        try:
            await running.run
        finally:
            await server.close()


async def test_ready_after_every_runtime_was_asked_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def script(request: Request) -> None:
        asked.set()
        await answer.wait()
        await request.answer([{"name": "m", "state": "READY"}])

    async with (
        scripted(script) as runtime,
        serving(options(write(tmp_path, runtime.url)), monkeypatch) as running,
    ):
        await asked.wait()
        assert await running.get("/readyz") == (503, "not ready: every runtime is being asked once\n")
        assert running.server.hub.serial == 0
        assert not running.server.xds._health._serving
        answer.set()
        await running.until("/readyz", "ready\n")
        assert running.server.xds._health._serving
        assert (await running.get("/readyz"))[0] == 200
        assert running.server.hub.serial == 1


async def test_a_reload_that_fails_changes_nothing_and_one_that_succeeds_moves_the_polls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with answering("old") as first, answering("new") as second:
        directory = write(tmp_path / "conf", first.url)
        async with serving(options(directory), monkeypatch) as running:
            await running.until("/status", '"routed": [\n            "old"')
            (directory / "a.yaml").write_text("kind: Nonsense\n")
            status = await running.until("/status", "Nonsense")
            assert '"old"' in status
            write(directory, second.url)
            status = await running.until("/status", '"routed": [\n            "new"')
            assert "Nonsense" not in status
            assert "old" not in status


async def test_a_grace_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other replica still answers, so the one that fails is on its own."""
    async with answering("m") as runtime:
        directory = write(tmp_path, runtime.url, "{openInference: {interval: 60s, grace: 200ms}}")
        text = (directory / "a.yaml").read_text()
        (directory / "a.yaml").write_text(text.replace("endpoints: [", "endpoints: [{address: 127.0.0.9}, "))
        async with serving(options(directory), monkeypatch) as running:
            await running.until("/readyz", "ready\n")
            server, one = running.server, EndpointId("models", "127.0.0.9", 8033)
            now = server._clock()
            server._emit(ModelsReported(endpoint=one, source=SOURCE, models=(ModelState("m"),), at=now))
            server._emit(
                ReportFailed(
                    endpoint=one,
                    source=SOURCE,
                    kind=FailureKind.TIMEOUT,
                    error="x",
                    at=now + 0.001,
                )
            )
            assert "SUSPECT" in (await running.get("/status"))[1]
            await running.until("/status", "DOWN")


@pytest.mark.parametrize("part", ["expire", "poller", "files", "publisher"])
async def test_a_part_that_fails_ends_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Nothing goes on half alive: the failure comes out of `run`."""

    def broken(*_: object, **__: object) -> None:
        raise ArithmeticError("a defect")

    async with answering("m") as runtime:
        with pytest.raises((ArithmeticError, ExceptionGroup), match=r"a defect|unhandled errors") as caught:
            await _serve_until_it_fails(tmp_path, runtime.url, part, broken, monkeypatch)
        assert "a defect" in repr(caught.value)


async def _serve_until_it_fails(
    directory: Path, url: str, part: str, broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(options(write(directory, url)), monkeypatch) as running:
        await running.until("/readyz", "ready\n")
        server = running.server
        if part == "expire":
            monkeypatch.setattr(server.mesh, "expire", broken)
            server._expire()
        elif part == "poller":
            monkeypatch.setattr(server.poller, "_emit", broken)
        else:
            owner, name = (server.files, "_emit") if part == "files" else (server.builder, "build")
            monkeypatch.setattr(owner, name, broken)
            write(directory, url, "{openInference: {interval: 70ms}}")
        done, _ = await asyncio.wait([running.run], timeout=10)
        assert done


async def test_bad_documents_and_addresses_end_it_before_anything_is_bound(
    tmp_path: Path, capsys: Captured
) -> None:
    assert await app.serve(options(tmp_path / "nowhere")) == app.EXIT_BAD_CONFIGURATION
    err = capsys.readouterr().err
    assert "found no directory that can be read" in err
    assert err.endswith(f"1 error in {tmp_path / 'nowhere'}; not started.\n")
    assert await app.serve(options(tmp_path, xds="18000")) == app.EXIT_USAGE
    assert capsys.readouterr().err.startswith("--xds: '18000' is not HOST:PORT")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"xds": "0.0.0.0:0"}, "--xds 0.0.0.0:0: other machines reach this address"),
        ({"xds": "[::]:0"}, "--xds [::]:0: other machines reach this address"),
        ({"xds": "xds.example:0"}, "--xds xds.example:0: other machines reach this address"),
        ({"tls_cert": Path("c")}, "--tls-cert and --tls-key belong together"),
        ({"tls_key": Path("k")}, "--tls-cert and --tls-key belong together"),
        ({"tls_client_ca": Path("k")}, "--tls-client-ca needs --tls-cert"),
        ({"clients": Path("k")}, "--clients needs --tls-client-ca"),
        (
            {"insecure_plaintext": True, "tls_cert": Path("c"), "tls_key": Path("k")},
            "--insecure-plaintext and --tls-cert contradict each other",
        ),
    ],
)
async def test_options_that_leave_the_port_open_or_contradict_are_refused(
    tmp_path: Path, capsys: Captured, more: dict[str, Any], said: str
) -> None:
    assert await app.serve(options(tmp_path, **more)) == app.EXIT_USAGE
    assert capsys.readouterr().err.startswith(said)


def test_a_refused_address_names_both_ways_out(tmp_path: Path) -> None:
    mistake = options(tmp_path, xds="10.0.0.5:18000").mistake()
    assert "--tls-cert FILE --tls-key FILE" in mistake
    assert "--insecure-plaintext" in mistake
    assert not options(tmp_path, xds="10.0.0.5:18000", insecure_plaintext=True).mistake()
    assert not options(tmp_path, xds="localhost:18000").mistake()
    tls = {"tls_cert": Path("c"), "tls_key": Path("k")}
    assert not options(tmp_path, xds="10.0.0.5:18000", **tls).mistake()


async def test_certificates_and_clients_with_mistakes_end_it_before_anything_is_bound(
    tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "clients.yaml").write_text("[{identity: a}]")
    files = {name: tmp_path / name for name in ("tls_cert", "tls_key", "tls_client_ca")}
    given = options(
        write(tmp_path / "conf", "http://127.0.0.1:1"), **files, clients=tmp_path / "clients.yaml"
    )
    assert await app.serve(given) == app.EXIT_BAD_CONFIGURATION
    lines = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'tls_cert'}: cannot be read: No such file or directory" in lines
    assert any("found neither nodes nor clusters" in line for line in lines)
    assert lines[-1].startswith("2 errors in ")


@pytest.mark.parametrize("option", ["xds", "admin"])
async def test_a_port_in_use_is_an_exit_code_of_its_own(
    tmp_path: Path, capsys: Captured, option: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "{}:{}".format(*taken.getsockname())
        given = options(write(tmp_path, "http://127.0.0.1:1"), **{option: address})
        assert await app.serve(given) == app.EXIT_CANNOT_BIND
    assert "cannot listen: " in (err := capsys.readouterr().err)
    assert "in use" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_a_process_that_is_still_waiting_for_a_runtime(
    tmp_path: Path, number: signal.Signals
) -> None:
    asked = asyncio.Event()

    async def silent(_: Request) -> None:
        asked.set()
        await asyncio.Event().wait()

    async with scripted(silent) as runtime:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "xds_server", "serve", "--config", str(write(tmp_path, runtime.url))),
            *("--xds", "127.0.0.1:0", "--admin", "127.0.0.1:0"),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(30):
                await asked.wait()
                process.send_signal(number)
                _, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert process.returncode == 0
    assert b'"event": "stopped"' in err
    assert b'"level": "error"' not in err
