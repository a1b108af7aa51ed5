"""What `xds-server serve` was asked for, and which of it cannot be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds_server.admin.guard import is_loopback, split_address
from xds_server.publisher import DEFAULT_WINDOW
from xds_server.transport.server import ServerOptions
from xds_server.transport.tls import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

    from xds_server.sources.kubernetes.options import KubernetesOptions

_PLAIN_TEXT = """\
--xds {address}: other machines reach this address, and in plain text whoever does reads everything that \
Envoys are sent. Give --tls-cert FILE --tls-key FILE (and --tls-client-ca FILE, so that clients need a \
certificate too), or --insecure-plaintext where the network itself keeps others out."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of `serve`. Addresses are HOST:PORT; times in seconds; certificates and keys PEM files."""

    config: Path | None = None
    xds: str = "127.0.0.1:18000"
    admin: str = "127.0.0.1:19000"
    probes: str | None = None
    access_log: bool = True
    model_stats: int = 0
    stop_limit: float = 10.0
    merge_window: float = DEFAULT_WINDOW
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    clients: Path | None = None
    insecure_plaintext: bool = False
    resource_ttl: float | None = None
    metrics_per_client: bool = False
    transport: ServerOptions = field(default_factory=ServerOptions)
    kubernetes: KubernetesOptions | None = None

    def mistake(self) -> str:
        """What cannot be used about them, and what to give instead; empty when all can."""
        if self.config is None and self.kubernetes is None:
            return "nothing to serve: give --config DIR, or --kubernetes, or both"
        for option, address in (("--xds", self.xds), ("--admin", self.admin), ("--probes", self.probes)):
            if address is None:
                continue
            try:
                host, _ = split_address(address)
            except ValueError as error:
                return f"{option}: {error}"
            plain = self.tls_cert is None and not self.insecure_plaintext
            if option == "--xds" and plain and not is_loopback(host):
                return _PLAIN_TEXT.format(address=address)
        return self._tls_mistake()

    def _tls_mistake(self) -> str:
        if (self.tls_cert is None) != (self.tls_key is None):
            return "--tls-cert and --tls-key belong together: give both or neither"
        if self.tls_client_ca is not None and self.tls_cert is None:
            return "--tls-client-ca needs --tls-cert and --tls-key: plain text has no certificates"
        if self.clients is not None and self.tls_client_ca is None:
            return "--clients needs --tls-client-ca: without a certificate a client has no identity"
        if self.insecure_plaintext and self.tls_cert is not None:
            return "--insecure-plaintext and --tls-cert contradict each other: give one of them"
        return ""

    def tls_files(self) -> TlsFiles | None:
        """The certificate files; None: plain text."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)
