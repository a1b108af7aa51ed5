"""etcd as ModelMesh uses it: a writer over its JSON gateway, with leases. The server itself never writes."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    import ssl

TIMEOUT = aiohttp.ClientTimeout(total=5.0)


class EtcdWriterError(RuntimeError):
    """etcd did not do what it was asked; the text is its own."""


class EtcdWriter:
    """Writes keys. `url`: of a client port. Keys and values are text."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, *, tls: ssl.SSLContext | None = None, token: str = ""
    ) -> None:
        self._session = session
        self._url = url
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self.token = token

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def put(self, key: str, value: Any, *, lease: str = "") -> None:
        """Write a value as JSON; with a lease it goes when the lease ends."""
        body = {"key": _coded(key), "value": _coded(json.dumps(value))}
        await self.ask("kv/put", body | ({"lease": lease} if lease else {}))

    async def delete(self, key: str) -> None:
        """Remove a key, if it is there."""
        await self.ask("kv/deleterange", {"key": _coded(key)})

    async def revision(self) -> int:
        """The store's revision."""
        found = await self.ask(
            "kv/range", {"key": _coded("\x00"), "count_only": True, "range_end": _coded("\x00")}
        )
        return int(found["header"]["revision"])

    async def compact(self, revision: int) -> None:
        """Forget everything before the revision."""
        await self.ask("kv/compaction", {"revision": str(revision), "physical": True})

    async def grant(self, seconds: int) -> str:
        """A lease that lasts so long unless it is kept alive."""
        return str((await self.ask("lease/grant", {"TTL": str(seconds)}))["ID"])

    async def keep_alive(self, lease: str) -> None:
        """Let the lease begin anew. EtcdWriterError when it has ended."""
        found = await self.ask("lease/keepalive", {"ID": lease})
        if not found.get("result", {}).get("TTL"):
            raise EtcdWriterError(f"lease {lease} has ended")

    async def revoke(self, lease: str) -> None:
        """End the lease, and with it its keys."""
        await self.ask("lease/revoke", {"ID": lease})

    async def authenticate(self, user: str, password: str) -> None:
        """Do what follows as this user."""
        found = await self.ask("auth/authenticate", {"name": user, "password": password})
        self.token = found["token"]

    async def ask(self, call: str, body: dict[str, Any]) -> Any:
        """One call of the gateway. EtcdWriterError unless it says 200."""
        headers = {"authorization": self.token} if self.token else {}
        try:
            async with self._session.post(
                f"{self._url}/v3/{call}", json=body, headers=headers, ssl=self._tls, timeout=TIMEOUT
            ) as answer:
                text = await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EtcdWriterError(f"{call}: {error!r}") from error
        if answer.status != 200:
            raise EtcdWriterError(f"{call}: {answer.status} {text}")
        return json.loads(text.splitlines()[0])


def _coded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
