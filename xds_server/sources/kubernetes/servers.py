"""Which servers live: each renews a Lease of its own, and looks at the others'.

What a server wrote about itself in an object's status counts while its Lease is renewed. Clocks of different
machines are not compared: a Lease is dead when nobody has seen it change for a while.
Needs create, patch, list and delete on leases.coordination.k8s.io in the server's own namespace.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog

from xds_server.sources.kubernetes.access import SERVICE_ACCOUNT
from xds_server.sources.kubernetes.api import ApiError, ApiUnreachableError, Request
from xds_server.sources.kubernetes.status_writer import APPLY, MANAGER
from xds_server.sources.kubernetes.watched import Resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds_server.sources.kubernetes.api import Api

LEASES = Resource("coordination.k8s.io", "v1", "leases")
LABEL = "app.kubernetes.io/name=xds-server"
RENEW = 10.0
"""Seconds between renewals, and between looks at the others."""

DEAD = 40.0
"""Seconds without a change after which a Lease counts no more."""

LEAVE = 2.0
"""Seconds that a stop waits for the API server to take the Lease away."""

_FORBIDDEN = 403


def own_name() -> str:
    """This server's name: its pod's, which is the host's name in a pod."""
    return os.environ.get("POD_NAME") or socket.gethostname().lower()


def own_namespace() -> str:
    """Where this server's Lease is: its pod's namespace, `default` outside of a cluster."""
    if found := os.environ.get("POD_NAMESPACE"):
        return found
    file = SERVICE_ACCOUNT / "namespace"
    return file.read_text().strip() if file.is_file() else "default"


class Servers:
    """This server among the others.

    Args:
        api: the API server.
        name: this server's name.
        namespace: where the Leases are.
        clock: monotonic seconds.
    """

    def __init__(
        self, api: Api, name: str, namespace: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.missing_permission = ""
        """Set while the Leases cannot be used: then nobody is counted as dead."""
        self._api = api
        self._namespace = namespace
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}
        self._log = structlog.get_logger("servers")

    def lives(self, name: str) -> bool:
        """Whether what the server of this name wrote counts; an unknown one is dead once Leases are known."""
        if name == self.name or self.missing_permission or not self._seen:
            return True
        _, at = self._seen.get(name, ("", -DEAD))
        return self._clock() - at < DEAD

    async def run(self) -> None:
        """Renew and look, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(RENEW)

    async def look(self) -> None:
        """Renew once, and see who else did."""
        try:
            await self._renew()
            answer = await self._api.json(
                Request(path=LEASES.path(self._namespace), params={"labelSelector": LABEL})
            )
            found = {item["metadata"]["name"]: item["spec"].get("renewTime", "") for item in answer["items"]}
        except (ApiError, ApiUnreachableError, LookupError, TypeError) as error:
            self._failed(error)
            return
        self.missing_permission = ""
        now = self._clock()
        for name, renewed in found.items():
            if self._seen.get(name, ("", 0.0))[0] != renewed:
                self._seen[name] = (renewed, now)
        for name in self._seen.keys() - found.keys():
            del self._seen[name]

    async def leave(self) -> None:
        """Take the Lease away, so that the others need not wait for it to die."""
        try:
            async with asyncio.timeout(LEAVE):
                await self._api.json(
                    Request(path=f"{LEASES.path(self._namespace)}/{self.name}", method="DELETE")
                )
        except (ApiError, ApiUnreachableError, TimeoutError) as error:
            self._log.info("cannot take the lease away", error=str(error))

    async def _renew(self) -> None:
        body: dict[str, Any] = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.name,
                "namespace": self._namespace,
                "labels": dict([LABEL.split("=")]),
            },
            "spec": {
                "holderIdentity": self.name,
                "leaseDurationSeconds": round(DEAD),
                "renewTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            },
        }
        await self._api.json(
            Request(
                path=f"{LEASES.path(self._namespace)}/{self.name}",
                method="PATCH",
                params={"fieldManager": MANAGER, "force": "true"},
                body=body,
                content_type=APPLY,
            )
        )

    def _failed(self, error: Exception) -> None:
        if isinstance(error, ApiError) and error.status == _FORBIDDEN:
            self.missing_permission = (
                f"create, patch, list and delete {LEASES} {LEASES.where(self._namespace)}"
            )
            self._log.warning("missing permission", permission=self.missing_permission)
        else:
            self._log.info("cannot renew the lease", error=str(error))
