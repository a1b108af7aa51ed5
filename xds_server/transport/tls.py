"""TLS of the xDS port: the certificate files, reloaded while the server runs.

gRPC asks for the certificate at each handshake, so connections that stand keep the one they began with.
"""

from __future__ import annotations

import asyncio
import calendar
import re
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import structlog

from xds_server.transport.handshakes import Handshakes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHECK_EVERY = 1.0
"""Seconds between looks at the files. They are small, and a look finds a swapped link like an edit."""

_PEM_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
_PEM_END = b"-----END CERTIFICATE-----"

_TIME = rb"(?:\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z)"
_VALIDITY = re.compile(rb"\x30[\x1e-\x22]" + _TIME + _TIME)
"""A certificate's validity as it is encoded: two times, each with two or four digits for the year."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the PEM files are.

    `certificate`: the chain, the server's own first. `client_ca`: whoever signs the clients' certificates,
    which are then asked of every client; None: clients need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return tuple(path for path in (self.certificate, self.key, self.client_ca) if path is not None)


class CertificateError(ValueError):
    """The files cannot be used; the text says which and why."""


class Certificates:
    """The certificate in force. `load` first; then `run` follows the files.

    A pair that does not belong together, as one may find it in the middle of a rotation, is refused and
    the last good one stays.
    """

    def __init__(self, files: TlsFiles, *, clock: Callable[[], float] = time.time) -> None:
        self.files = files
        self.problem = ""
        """What was wrong at the last load; empty when it succeeded."""
        self.loaded_at: float | None = None
        """Epoch seconds of the last load that succeeded."""
        self.expires_at: float | None = None
        """Epoch seconds at which the server's certificate in force ends; None where it cannot be told."""
        self.reloads_ok = 0
        """Loads that succeeded, the first one included."""
        self.reloads_failed = 0
        """Loads that were refused."""
        self.handshakes = Handshakes()
        """What came of the port's handshakes."""
        self._clock = clock
        self._contents: tuple[bytes, ...] | None = None
        self._configuration: grpc.ServerCertificateConfiguration | None = None
        self._log = structlog.get_logger("tls")

    async def load(self) -> None:
        """Read the files for the first time. CertificateError if they cannot be used."""
        await self.check()
        if self.problem:
            raise CertificateError(self.problem)

    async def check(self) -> None:
        """Load the files if they are not those of the last look."""
        contents = await asyncio.to_thread(_contents, self.files)
        if contents == self._contents:
            return
        self._contents = contents
        try:
            await asyncio.to_thread(_examine, self.files)
            if await asyncio.to_thread(_contents, self.files) != contents:
                self._contents = None  # changed under our eyes: the next look has them all
                return
        except CertificateError as error:
            self._refused(str(error))
            return
        certificate, key, *ca = contents
        self._configuration = grpc.ssl_server_certificate_configuration([(key, certificate)], *ca)
        self.problem = ""
        self.expires_at = _end(certificate)
        self.loaded_at = self._clock()
        self.reloads_ok += 1
        self._log.info(
            "certificate loaded", certificate=str(self.files.certificate), expires_at=self.expires_at
        )

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(CHECK_EVERY)
            await self.check()

    def credentials(self) -> grpc.ServerCredentials:
        """What the port is opened with. RuntimeError before `load`."""
        if self._configuration is None:
            raise RuntimeError("the certificate was not loaded")
        handed = self._configuration

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            """Called by gRPC at each handshake, on threads of its own. None: nothing new."""
            nonlocal handed
            self.handshakes.begin()
            current = self._configuration
            if current is handed:
                return None
            handed = current
            return current

        return grpc.dynamic_ssl_server_credentials(
            handed, fetch, require_client_authentication=self.files.client_ca is not None
        )

    def _refused(self, problem: str) -> None:
        self.problem = problem
        self.reloads_failed += 1
        if self._configuration is not None:
            self._log.error("certificate refused; the last good one stays in force", problem=problem)


def _contents(files: TlsFiles) -> tuple[bytes, ...]:
    """What the files hold; an error's text for one that cannot be read, so that its end is a change too."""
    return tuple(_content(path) for path in files.paths())


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        return repr(error).encode()


def _examine(files: TlsFiles) -> None:
    """Raise CertificateError if the files do not hold what they should. gRPC would only log it."""
    for path in files.paths():
        try:
            path.read_bytes()
        except OSError as error:
            raise CertificateError(f"{path}: cannot be read: {error.strerror or error}") from error
    for path in (files.certificate, *([files.client_ca] if files.client_ca else [])):
        if _PEM_CERTIFICATE not in path.read_bytes():
            raise CertificateError(f"{path}: found no certificate; expected one or more in PEM form")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except ssl.SSLError as error:
        text = (
            f"{files.key}: found no private key in PEM form that belongs to {files.certificate} "
            f"({error.reason or error})"
        )
        raise CertificateError(text) from error
    except _EncryptedError as error:
        raise CertificateError(
            f"{files.key}: found an encrypted key; expected one without a passphrase"
        ) from error
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except ssl.SSLError as error:
            text = f"{files.client_ca}: found no usable certificate ({error.reason or error})"
            raise CertificateError(text) from error


def _end(chain: bytes) -> float | None:
    """When the first certificate of a PEM chain ends."""
    start = chain.index(_PEM_CERTIFICATE)
    pem = chain[start : chain.index(_PEM_END, start) + len(_PEM_END)]
    found = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(pem.decode()))
    if found is None:
        return None
    short, long = found[3], found[4]
    text = long.decode() if long else ("19" if short >= b"50" else "20") + short.decode()
    return calendar.timegm(time.strptime(text, "%Y%m%d%H%M%S"))


class _EncryptedError(Exception):
    """A passphrase was asked for. Raised and caught in this file only."""


def _no_password() -> str:
    raise _EncryptedError
