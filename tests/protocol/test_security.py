"""TLS and identities over real connections: who is let in, as whom, and how certificates are replaced."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from tests.certificates import Authority
from tests.protocol.catalogs import World
from tests.protocol.wire_client import LIMIT, WireClient, bodies
from xds_server.transport.server import XdsServer
from xds_server.transport.tls import CertificateError, Certificates, TlsFiles
from xds_server.xds.access import AccessList, Grant
from xds_server.xds.hub import Hub
from xds_server.xds.messages import Variant
from xds_server.xds.model import CLUSTER, ENDPOINT
from xds_server.xds.status import Refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SPIFFE = "spiffe://mesh/ns/gateways/sa/envoy"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def server_files(authority: Authority) -> TlsFiles:
    return authority.issue("server", "DNS:localhost", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def gateway(authority: Authority) -> TlsFiles:
    return authority.issue("gateway", f"URI:{SPIFFE}", "DNS:gw.example")


class Secured:
    """A server with TLS that serves one cluster."""

    def __init__(self, files: TlsFiles) -> None:
        self.hub = Hub(time.monotonic)
        world = World()
        world.cds = {"a": "1"}
        world.publish(self.hub.publish)
        self.certificates = Certificates(files)
        self.server = XdsServer(self.hub, "127.0.0.1:0", certificates=self.certificates)
        self.port = 0

    def channel(self, ca: Path, client: TlsFiles | None = None) -> grpc.aio.Channel:
        key, certificate = (
            (client.key.read_bytes(), client.certificate.read_bytes()) if client else (None, None)
        )
        credentials = grpc.ssl_channel_credentials(ca.read_bytes(), key, certificate)
        options = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.secure_channel(f"localhost:{self.port}", credentials, options=options)


@asynccontextmanager
async def secured(files: TlsFiles) -> AsyncIterator[Secured]:
    made = Secured(files)
    await made.certificates.load()
    made.port = await made.server.start()
    try:
        yield made
    finally:
        await made.server.stop(1.0)


async def refused(channel: grpc.aio.Channel, node: str = "envoy-1") -> tuple[grpc.StatusCode, str]:
    client = WireClient(channel, Variant.DELTA, node=node)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await client.ask(CLUSTER, "a")
    return await client.ended()


async def test_a_client_with_a_certificate_of_the_authority_is_served(
    authority: Authority, server_files: TlsFiles, gateway: TlsFiles
) -> None:
    async with secured(server_files) as made, made.channel(authority.ca, gateway) as channel:
        client = WireClient(channel, Variant.DELTA)
        await client.ask(CLUSTER, "a")
        assert bodies(await client.hear()) == ["a=1"]


async def test_a_client_without_a_certificate_ends_in_the_handshake(
    authority: Authority, server_files: TlsFiles, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger").issue("gateway", f"URI:{SPIFFE}")
    async with secured(server_files) as made:
        for client in (None, stranger):
            async with made.channel(authority.ca, client) as channel:
                assert (await refused(channel))[0] is grpc.StatusCode.UNAVAILABLE
        assert made.hub.stats.streams_total == 0
        assert made.certificates.handshakes.begun >= 2
        assert made.certificates.handshakes.connections == 0


async def test_handshakes_that_came_to_something_are_told_from_those_that_did_not(
    authority: Authority, server_files: TlsFiles, gateway: TlsFiles
) -> None:
    async with secured(server_files) as made:
        handshakes = made.certificates.handshakes
        async with made.channel(authority.ca, gateway) as channel:
            for _ in range(3):
                client = WireClient(channel, Variant.DELTA)
                await client.ask(CLUSTER, "a")
                await client.hear()
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            await check(b"")
        assert (handshakes.begun, handshakes.connections) == (1, 1)
        async with made.channel(authority.ca, gateway) as channel:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        assert (handshakes.begun, handshakes.connections) == (2, 2)
        async with made.channel(authority.ca, None) as channel:
            await refused(channel)
        assert handshakes.begun - handshakes.connections >= 1


@pytest.mark.parametrize(
    ("grant", "reason", "text"),
    [
        (
            Grant("someone", nodes=("*",)),
            Refusal.UNKNOWN_IDENTITY,
            f"identity {SPIFFE} or gw.example: not in this server's list of clients",
        ),
        (
            Grant(SPIFFE, nodes=("gateway-*",), clusters=("gateway",)),
            Refusal.FOREIGN_NODE,
            (
                f"identity {SPIFFE} may not be node 'envoy-1' of cluster 'gateway'; "
                "it may be: node id gateway-*, cluster gateway"
            ),
        ),
    ],
)
async def test_a_refused_client_is_told_why_and_counted(
    gateway: TlsFiles, server_files: TlsFiles, grant: Grant, reason: Refusal, text: str
) -> None:
    assert gateway.client_ca is not None
    with capture_logs() as logs:
        async with secured(server_files) as made, made.channel(gateway.client_ca, gateway) as channel:
            made.server.allow(AccessList([grant]))
            assert await refused(channel) == (grpc.StatusCode.PERMISSION_DENIED, text)
            assert await refused(channel) == (grpc.StatusCode.PERMISSION_DENIED, text)
            assert made.hub.stats.refusals == {reason: 2}
            assert (made.hub.stats.streams_open, len(made.hub.index)) == (0, 0)
    (line,) = [each for each in logs if each["event"] == "client refused"]
    assert (line["reason"], line["error"]) == (reason.value, text)


async def test_a_certificate_without_a_name_is_no_identity(
    authority: Authority, server_files: TlsFiles
) -> None:
    nameless = authority.issue("nameless")
    async with secured(server_files) as made, made.channel(authority.ca, nameless) as channel:
        made.server.allow(AccessList([Grant("nameless", nodes=("*",))]))
        code, text = await refused(channel)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert "has no URI or DNS name" in text
        assert made.hub.stats.refusals == {Refusal.NO_IDENTITY: 1}


async def test_any_of_the_names_of_a_certificate_is_its_identity(
    authority: Authority, server_files: TlsFiles, gateway: TlsFiles
) -> None:
    async with secured(server_files) as made, made.channel(authority.ca, gateway) as channel:
        made.server.allow(AccessList([Grant("gw.example", clusters=("gateway",))]))
        client = WireClient(channel, Variant.DELTA)
        await client.ask(CLUSTER, "a")
        assert bodies(await client.hear()) == ["a=1"]


async def test_a_client_that_is_taken_off_the_list_loses_its_stream_and_others_do_not(
    authority: Authority, server_files: TlsFiles, gateway: TlsFiles
) -> None:
    other = authority.issue("other", "DNS:other.example")
    both = [Grant(SPIFFE, nodes=("*",)), Grant("other.example", nodes=("*",))]
    async with (
        secured(server_files) as made,
        made.channel(authority.ca, gateway) as channel,
        made.channel(authority.ca, other) as beside,
    ):
        made.server.allow(AccessList(both))
        client, stays = WireClient(channel, Variant.DELTA), WireClient(beside, Variant.DELTA)
        for each in (client, stays):
            await each.ask(CLUSTER, "a")
            await each.hear()
        made.server.allow(AccessList(both[1:]))
        code, text = await client.ended()
        assert (code, text[:9]) == (grpc.StatusCode.PERMISSION_DENIED, "identity ")
        await stays.ask(ENDPOINT, "b")
        await stays.hear()
        assert made.hub.stats.streams_open == 1


async def test_a_new_certificate_is_used_without_a_restart(
    authority: Authority, gateway: TlsFiles, tmp_path: Path
) -> None:
    """The new one is of another authority, so that a handshake proves which one was used."""
    following = Authority(tmp_path, "following")
    files = following.issue("server", "DNS:localhost")
    old = authority.issue("old", "DNS:localhost")
    new = [path.read_bytes() for path in (files.certificate, files.key)]
    files.certificate.write_bytes(old.certificate.read_bytes())
    files.key.write_bytes(old.key.read_bytes())
    async with secured(TlsFiles(files.certificate, files.key)) as made, made.channel(authority.ca) as channel:
        standing = WireClient(channel, Variant.DELTA)
        await standing.ask(CLUSTER, "a")
        await standing.hear()

        files.certificate.write_bytes(new[0])
        await made.certificates.check()
        assert "no private key in PEM form that belongs to" in made.certificates.problem
        assert await served(made, authority.ca)

        files.key.write_bytes(new[1])
        await made.certificates.check()
        assert (made.certificates.problem, made.certificates.reloads_ok) == ("", 2)
        assert not await served(made, authority.ca)
        assert await served(made, following.ca)
        await standing.ask(ENDPOINT, "b")
        await standing.hear()


async def served(made: Secured, ca: Path) -> bool:
    """Whether a new connection that trusts `ca` gets an answer."""
    async with made.channel(ca) as channel:
        client = WireClient(channel, Variant.DELTA)
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await client.ask(CLUSTER, "a")
            return bodies(await client.hear()) == ["a=1"]
        return (await client.ended())[0] is not grpc.StatusCode.UNAVAILABLE


async def test_the_files_are_followed_by_themselves(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xds_server.transport.tls.CHECK_EVERY", 0.01)
    made = authority.issue("followed", "DNS:localhost")
    files = TlsFiles(tmp_path / "c.pem", tmp_path / "k.pem")
    files.certificate.write_bytes(made.certificate.read_bytes())
    files.key.write_bytes(made.key.read_bytes())
    certificates = Certificates(files)
    await certificates.load()
    running = asyncio.create_task(certificates.run())
    try:
        files.certificate.write_bytes(files.certificate.read_bytes() + b"\n")
        async with asyncio.timeout(LIMIT):
            while certificates.reloads_ok < 2:  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.01)
    finally:
        running.cancel()


@pytest.mark.parametrize(
    ("part", "content", "text"),
    [
        ("certificate", None, "certificate.pem: cannot be read: No such file or directory"),
        ("certificate", b"hello", "certificate.pem: found no certificate; expected one or more in PEM form"),
        ("key", b"hello", "key.pem: found no private key in PEM form that belongs to"),
        ("ca", b"hello", "ca.pem: found no certificate; expected one or more in PEM form"),
        (
            "ca",
            b"-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n",
            "ca.pem: found no usable certificate",
        ),
    ],
)
async def test_files_that_cannot_be_used_are_said_so(
    server_files: TlsFiles, tmp_path: Path, part: str, content: bytes | None, text: str
) -> None:
    assert server_files.client_ca is not None
    contents = {
        "certificate": server_files.certificate.read_bytes(),
        "key": server_files.key.read_bytes(),
        "ca": server_files.client_ca.read_bytes(),
        part: content,
    }
    paths = {name: tmp_path / f"{name}.pem" for name in contents}
    for name, data in contents.items():
        if data is not None:
            paths[name].write_bytes(data)
    certificates = Certificates(TlsFiles(paths["certificate"], paths["key"], paths["ca"]))
    with pytest.raises(CertificateError) as caught:
        await certificates.load()
    assert text in str(caught.value)
    assert (certificates.problem, certificates.reloads_failed) == (str(caught.value), 1)
