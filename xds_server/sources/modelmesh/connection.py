"""How to reach ModelMesh's etcd: the JSON that ModelMesh keeps under the key `etcd_connection` of its Secret.

In a cluster that Secret is mounted, and its other keys are the files beside it that `*_file` names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

import grpc

if TYPE_CHECKING:
    from pathlib import Path

_TEXTS = (
    "endpoints",
    "userid",
    "password",
    "root_prefix",
    "certificate",
    "certificate_file",
    "client_key",
    "client_key_file",
    "client_certificate",
    "client_certificate_file",
    "override_authority",
)

_KEEPALIVE = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000))
_OPTIONS = (
    *_KEEPALIVE,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class ConnectionFileError(ValueError):
    """The file cannot be used; the text says which, what was found in it and what was expected."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where etcd is and who asks. Certificates and keys are PEM; None where there are none.

    `endpoints` are HOST:PORT. `root_prefix` comes before every key of ModelMesh's.
    """

    endpoints: tuple[str, ...]
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    root_prefix: str = ""
    certificate: bytes | None = None
    client_key: bytes | None = field(default=None, repr=False)
    client_certificate: bytes | None = None
    override_authority: str = ""

    def channel(self, endpoint: str) -> grpc.aio.Channel:
        """A channel of its own to one of the endpoints. Call it on the running event loop."""
        options: list[tuple[str, Any]] = list(_OPTIONS)
        if not self.tls:
            if self.override_authority:
                options.append(("grpc.default_authority", self.override_authority))
            return grpc.aio.insecure_channel(endpoint, options)
        if self.override_authority:
            options.append(("grpc.ssl_target_name_override", self.override_authority))
        credentials = grpc.ssl_channel_credentials(self.certificate, self.client_key, self.client_certificate)
        return grpc.aio.secure_channel(endpoint, credentials, options)


def read_connection(path: Path) -> Connection:
    """Read the file. Blocks: for a thread.

    Raises:
        ConnectionFileError: it is not there, no JSON object, or one of its fields cannot be.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ConnectionFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConnectionFileError(f"{path}: found no JSON ({error}); expected an object") from error
    if not isinstance(found, dict):
        raise ConnectionFileError(f"{path}: found {type(found).__name__}; expected a JSON object")
    for name in _TEXTS:
        if not isinstance(found.get(name, ""), str):
            # Its type alone: the value may be a password.
            kind = type(found[name]).__name__
            raise ConnectionFileError(f"{path}: {name}: found a value of type {kind}; expected a string")
    endpoints, secure = _endpoints(path, found.get("endpoints", ""))
    certificate = _pem(path, found, "certificate")
    key, client = _pem(path, found, "client_key"), _pem(path, found, "client_certificate")
    if (key is None) != (client is None):
        raise ConnectionFileError(
            f"{path}: found one of client_key and client_certificate; expected both or neither"
        )
    if found.get("userid") and not found.get("password"):
        raise ConnectionFileError(f"{path}: found userid without password; expected both or neither")
    return Connection(
        endpoints=endpoints,
        tls=secure or certificate is not None or key is not None,
        user=found.get("userid", ""),
        password=found.get("password", ""),
        root_prefix=found.get("root_prefix", "").rstrip("/"),
        certificate=certificate,
        client_key=key,
        client_certificate=client,
        override_authority=found.get("override_authority", ""),
    )


def _endpoints(path: Path, written: str) -> tuple[tuple[str, ...], bool]:
    """HOST:PORT of each, and whether the first one says https."""
    found = []
    for text in filter(None, (each.strip() for each in written.split(","))):
        parts = _split(text if "://" in text else f"http://{text}")
        if parts is None or parts.scheme not in {"http", "https"} or not _port_of(parts.netloc):
            raise ConnectionFileError(
                f"{path}: endpoints: found {text.rpartition('@')[2]!r}; "
                "expected http://HOST:PORT or https://HOST:PORT"
            )
        found.append((parts.netloc.rpartition("@")[2], parts.scheme == "https"))
    if not found:
        raise ConnectionFileError(f"{path}: endpoints: found none; expected URLs separated by commas")
    return tuple(endpoint for endpoint, _ in found), found[0][1]


def _split(url: str) -> SplitResult | None:
    """The parts of a URL with a host; None for what is none."""
    try:
        parts = urlsplit(url)
    except ValueError:  # [ without ]
        return None
    return parts if parts.hostname else None


def _port_of(netloc: str) -> bool:
    return netloc.rpartition(":")[2].isdigit()


def _pem(path: Path, found: dict[str, str], name: str) -> bytes | None:
    """The text of the field, or of the file beside this one that `NAME_file` names, which comes first."""
    if file := found.get(f"{name}_file"):
        try:
            return (path.parent / file).read_bytes()
        except OSError as error:
            raise ConnectionFileError(
                f"{path}: {name}_file: {file} cannot be read: {error.strerror or error}"
            ) from error
    return found[name].encode() if found.get(name) else None
