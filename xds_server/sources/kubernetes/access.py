"""Where the API server is and how to prove who we are: in a pod, or by a kubeconfig file.

Reading either is the library's work. All of it blocks (files, TLS contexts, the import itself), so all of it
happens on another thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's token and the cluster's CA."""


class AccessError(Exception):
    """Where the API server is, or who we are to it, cannot be found out. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Login:
    """What was asked for on the command line.

    Without a `kubeconfig` file and a `context`: the pod's service account where there is one, else the
    file of $KUBECONFIG, else ~/.kube/config.
    """

    kubeconfig: Path | None = None
    context: str | None = None

    def in_cluster(self) -> bool:
        """Whether the pod's service account is meant."""
        if self.kubeconfig is not None or self.context is not None:
            return False
        return "KUBERNETES_SERVICE_HOST" in os.environ and (SERVICE_ACCOUNT / "token").exists()

    def __str__(self) -> str:
        if self.in_cluster():
            return "the pod's service account"
        context = f", context {self.context}" if self.context else ""
        return f"{self.kubeconfig or os.environ.get('KUBECONFIG') or '~/.kube/config'}{context}"


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the API server.

    `authorization` is the header's value, None where a client certificate does it. `trust` stands for
    everything that needs new connections when it changes: address, CA, client certificate, proxy.
    """

    url: str
    authorization: str | None = field(repr=False)
    tls: ssl.SSLContext | None = field(compare=False)
    trust: bytes = field(repr=False)
    server_name: str | None = None
    proxy: str | None = None


async def find_access(login: Login) -> Access:
    """Read everything anew. Raises AccessError."""
    return await asyncio.to_thread(_find_access, login)


def _find_access(login: Login) -> Access:
    from kubernetes.aio import client, config  # noqa: PLC0415 - see the package's docstring
    from kubernetes.aio.client.rest import RESTClientObject  # noqa: PLC0415
    from kubernetes.aio.config.incluster_config import InClusterConfigLoader  # noqa: PLC0415

    wanted = client.Configuration()
    try:
        if login.in_cluster():
            loader: Any = InClusterConfigLoader  # untyped
            token, ca = str(SERVICE_ACCOUNT / "token"), str(SERVICE_ACCOUNT / "ca.crt")
            loader(token, ca, try_refresh_token=False).load_and_set(wanted)
        else:
            load: Any = config.load_kube_config  # untyped
            file = _kubeconfig(login)
            asyncio.run(
                load(
                    config_file=file,
                    context=login.context,
                    client_configuration=wanted,
                    persist_config=False,
                )
            )
        tls = RESTClientObject(wanted).ssl_context if wanted.host.startswith("https") else None
        trust = _fingerprint(wanted)
    except AccessError:
        raise
    # The library lets through whatever a malformed file leads to: KeyError, TypeError, YAMLError, binascii's.
    except Exception as error:
        raise AccessError(f"{login}: {str(error) or type(error).__name__}") from error
    return Access(
        url=wanted.host.rstrip("/"),
        authorization=wanted.api_key.get("BearerToken"),
        tls=tls,
        trust=trust,
        server_name=wanted.tls_server_name,
        proxy=wanted.proxy,
    )


def _kubeconfig(login: Login) -> str:
    """The file, or the files in the form of $KUBECONFIG, which are merged."""
    given = str(login.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")
    if not any(Path(path).expanduser().is_file() for path in given.split(os.pathsep) if path):
        raise AccessError(
            f"no kubeconfig file at {given}, and no service account of a pod is to be used: "
            "give --kubeconfig FILE, or set KUBECONFIG"
        )
    return given


def _fingerprint(wanted: Any) -> bytes:
    digest = hashlib.sha256(repr((wanted.host, wanted.verify_ssl, wanted.proxy)).encode())
    for file in (wanted.ssl_ca_cert, wanted.cert_file, wanted.key_file):
        digest.update(hashlib.sha256(Path(file).read_bytes() if file else b"").digest())
    return digest.digest()
