"""Certificates for tests, made by openssl: a small authority and what it signs."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from xds_server.transport.tls import TlsFiles

if TYPE_CHECKING:
    from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Authority:
    """Signs certificates; everything lies in `directory`."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self.directory = directory
        self.ca = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl(
            *("req", "-x509", *_KEY, "-keyout", self._key, "-out", self.ca, "-days", "2"),
            *("-subj", f"/CN={name}"),
        )

    def issue(self, name: str, *alternative_names: str) -> TlsFiles:
        """Write NAME.pem and NAME.key; names are as openssl takes them, such as `DNS:localhost`."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        # A certificate without any name needs an extension all the same: else it becomes one of version 1.
        names = (
            f"subjectAltName={','.join(alternative_names)}"
            if alternative_names
            else "keyUsage=digitalSignature"
        )
        extensions.write_text(names + "\n")
        _openssl("req", *_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", certificate),
        )
        return TlsFiles(certificate, key, self.ca)


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
