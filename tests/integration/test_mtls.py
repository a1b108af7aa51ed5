"""Mutual TLS as it is run: the commands, a real Envoy, certificates that rotate, identities refused."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.certificates import Authority
from tests.integration.envoy import Envoy
from tests.integration.stack import HOST, Stack, until, virtual_service
from tests.integration.stack import gateway as gateway_document

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from xds_server.transport.tls import TlsFiles

SPIFFE = "spiffe://mesh/ns/gateways/sa/envoy"
ALLOWED = f"[{{identity: '{SPIFFE}', nodes: ['gateway-*'], clusters: [gateway]}}]"
OTHERS = "[{identity: someone.example, nodes: ['*']}]"


class Secured(Stack):
    """A stack whose server asks for certificates, and whose Envoy gets its bootstrap from the command."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.authority = Authority(directory)
        self.files = self.authority.issue("server", "DNS:xds.example", "DNS:localhost")
        self.client = self.authority.issue("envoy", f"URI:{SPIFFE}")
        self.clients = directory / "clients.yaml"
        self.clients.write_text(ALLOWED)
        self.write("documents.yaml", SERVICE, virtual_service(), gateway_document(self.port))
        self.options = [
            *("--tls-cert", str(self.files.certificate), "--tls-key", str(self.files.key)),
            *("--tls-client-ca", str(self.authority.ca), "--clients", str(self.clients)),
        ]

    async def start_envoy(self) -> None:
        command = [
            sys.executable,
            "-m",
            "xds_server",
            "bootstrap",
            "--xds",
            self.xds,
            "--node-id",
            "gateway-1",
        ]
        command += ["--admin", "127.0.0.1:1", "--tls", "--tls-ca", str(self.authority.ca)]
        command += ["--tls-cert", str(self.client.certificate), "--tls-key", str(self.client.key)]
        command += ["--tls-server-name", "xds.example"]
        text = (await asyncio.to_thread(subprocess.check_output, command)).decode()
        self.envoy = await asyncio.to_thread(Envoy, text.replace("port_value: 1\n", "port_value: 0\n"))

    def presented(self) -> str:
        """The number of the certificate that a new connection is shown."""
        context = ssl.create_default_context(cafile=str(self.authority.ca))
        context.load_cert_chain(self.client.certificate, self.client.key)
        host, _, port = self.xds.rpartition(":")
        with (
            socket.create_connection((host, int(port))) as plain,
            context.wrap_socket(plain, server_hostname="xds.example") as tls,
        ):
            found: dict[str, Any] = tls.getpeercert() or {}
            return str(found["serialNumber"])

    async def connected(self) -> int:
        assert self.envoy is not None
        stats = await asyncio.to_thread(self.envoy.stats, "control_plane.connected_state")
        return int(stats["control_plane.connected_state"])

    async def metric(self, name: str) -> float:
        assert self.http is not None
        async with self.http.get(f"http://{self.admin}/metrics") as answer:
            found = re.search(rf"^xds_server_{re.escape(name)} (\S+)$", await answer.text(), re.MULTILINE)
        assert found is not None, name
        return float(found[1])


SERVICE = f"""\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {HOST}, namespace: {HOST}}}
spec:
  hosts: [{HOST}]
  resolution: STATIC
  ports: [{{number: 8033, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: 9}}}}]
"""


@pytest.fixture
async def secured(tmp_path: Path) -> AsyncIterator[Secured]:
    async with Secured(tmp_path) as made:
        await made.start()
        yield made


async def states(stack: Secured) -> list[str]:
    clients = (await stack.status())["clients"]
    return [each["state"] for client in clients for each in client["types"]]


async def test_envoy_is_served_over_mutual_tls_and_a_new_certificate_needs_no_restart(
    secured: Secured,
) -> None:
    async def synced() -> bool:
        return await states(secured) == ["SYNCED"] * 4

    await until(synced, "every type to be acknowledged")
    assert secured.envoy is not None
    stats = await asyncio.to_thread(secured.envoy.stats, "cluster.xds.ssl")
    assert stats["cluster.xds.ssl.handshake"] == 1
    first = await asyncio.to_thread(secured.presented)
    expiry = await secured.metric("tls_certificate_expiry_time_seconds")

    replace(secured.files, secured.authority.issue("next", "DNS:xds.example"))

    async def replaced() -> bool:
        return await asyncio.to_thread(secured.presented) != first

    await until(replaced, "the new certificate to be presented")
    assert await secured.metric('tls_loads_total{result="ok"}') == 2
    assert await secured.metric("tls_certificate_expiry_time_seconds") >= expiry
    assert await secured.connected() == 1
    stats = await asyncio.to_thread(secured.envoy.stats, "cluster.xds.ssl")
    assert (stats["cluster.xds.ssl.handshake"], stats["cluster.xds.ssl.connection_error"]) == (1, 0)


def replace(files: TlsFiles, by: TlsFiles) -> None:
    """As a volume of secrets does it: each file at once, not both together."""
    by.certificate.rename(files.certificate)
    by.key.rename(files.key)


async def test_an_identity_that_is_refused_sees_why_and_comes_back_once_it_is_allowed(
    secured: Secured,
) -> None:
    secured.clients.write_text(OTHERS)

    async def cut_off() -> bool:
        return not await secured.connected()

    await until(cut_off, "Envoy's stream to end")
    reason = f"identity {SPIFFE}: not in this server's list of clients"

    async def told() -> bool:
        assert secured.envoy is not None
        return reason in secured.envoy.log

    await until(told, "the reason in Envoy's log")
    assert await secured.metric('xds_refusals_total{reason="unknown_identity"}') >= 1
    assert '"reason": "unknown_identity"' in secured.log.read_text()

    secured.clients.write_text("[{identity: nonsense}]")

    async def refused_file() -> bool:
        return await secured.metric("clients_last_load_successful") == 0

    await until(refused_file, "the mistake in the list to be counted")
    assert await secured.connected() == 0
    secured.clients.write_text(ALLOWED)

    async def back() -> bool:
        return await secured.connected() == 1

    await until(back, "Envoy to be connected again")


async def test_a_node_that_the_identity_may_not_be_is_refused(secured: Secured) -> None:
    secured.clients.write_text(ALLOWED.replace("gateway-*", "edge-*"))

    async def told() -> bool:
        assert secured.envoy is not None
        return "may not be node 'gateway-1' of cluster 'gateway'" in secured.envoy.log

    await until(told, "the reason in Envoy's log")
    assert await secured.metric('xds_refusals_total{reason="foreign_node"}') >= 1
