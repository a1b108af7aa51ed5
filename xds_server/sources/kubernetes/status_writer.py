"""Writes status by server-side apply, so that several servers agree without a leader.

Who applies what is already there changes nothing: no new version, no event. So every server may write, and
the writes of one cost the others nothing. Needs the verb `patch` on the kind's `status`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import structlog

from xds_server.sources.kubernetes.api import ApiError, ApiUnreachableError, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds_server.sources.kubernetes.api import Api
    from xds_server.sources.kubernetes.kinds import DocumentKind

MANAGER = "xds-server"
"""The field manager of what all servers say together."""

INTERVAL = 2.0
"""Seconds between two writes to one object by one server and manager."""

LONGEST_PAUSE = 60.0
"""Seconds until a write that failed is tried again, at most."""

_ROOM = 64
"""Objects that are remembered before those that have gone are looked for."""

APPLY = "application/apply-patch+yaml"
_FORBIDDEN, _NOT_FOUND, _CONFLICT = 403, 404, 409


def own_manager(server: str) -> str:
    """The field manager of what one server says for itself."""
    return f"{MANAGER}/{server}"


class StatusWriter:
    """Applies status, at most once in INTERVAL for each object and manager.

    Args:
        api: the API server.
        clock: monotonic seconds.
    """

    def __init__(self, api: Api, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._not_before: dict[tuple[str, str, str, str], float] = {}
        self._failures: dict[tuple[str, str, str, str], int] = {}
        self._room = _ROOM
        self._log = structlog.get_logger("status")
        self.missing_permissions: set[str] = set()
        """Verbs and resources that were refused and have not been granted since."""
        self.writes = 0
        self.conflicts = 0
        self.failures = 0
        self.last_error = ""

    def may(self, kind: DocumentKind, value: Mapping[str, Any], manager: str) -> bool:
        """Whether it is time for a write to this object."""
        return self._clock() >= self._not_before.get(_key(kind, value, manager), 0.0)

    async def apply(
        self,
        kind: DocumentKind,
        value: Mapping[str, Any],
        status: Mapping[str, Any],
        manager: str = MANAGER,
        *,
        guarded: bool = False,
    ) -> dict[str, Any] | None:
        """Apply the status; the object as it is afterwards, None where it could not be written.

        `guarded`: only if the object is still in the version of `value`, for lists that others write too and
        that can only be replaced as a whole. A conflict is no failure: the newer object is on its way here.
        """
        key = _key(kind, value, manager)
        metadata = value["metadata"]
        identity = {name: metadata[name] for name in ("name", "namespace") if name in metadata}
        if guarded:
            identity["resourceVersion"] = metadata["resourceVersion"]
        self._not_before[key] = self._clock() + INTERVAL
        self._forget()
        try:
            written = await self._api.json(
                Request(
                    path=f"{kind.resource.path(metadata.get('namespace', ''))}/{metadata['name']}/status",
                    method="PATCH",
                    params={"fieldManager": manager, "force": "true"},
                    body={
                        "apiVersion": kind.api_version,
                        "kind": kind.kind,
                        "metadata": identity,
                        "status": status,
                    },
                    content_type=APPLY,
                )
            )
        except (ApiError, ApiUnreachableError) as error:
            self._failed(key, kind, metadata.get("namespace", ""), error)
            return None
        self.writes += 1
        self.last_error = ""
        self._failures.pop(key, None)
        self.missing_permissions.discard(_permission(kind, metadata.get("namespace", "")))
        return dict(written)

    def _forget(self) -> None:
        """Drop objects that are gone: one that is still there has been tried again since."""
        if len(self._not_before) <= self._room:
            return
        now = self._clock()
        self._not_before = {key: at for key, at in self._not_before.items() if at + LONGEST_PAUSE > now}
        self._failures = {key: count for key, count in self._failures.items() if key in self._not_before}
        self._room = max(_ROOM, 2 * len(self._not_before))

    def _failed(
        self,
        key: tuple[str, str, str, str],
        kind: DocumentKind,
        namespace: str,
        error: ApiError | ApiUnreachableError,
    ) -> None:
        status = error.status if isinstance(error, ApiError) else None
        if status == _CONFLICT:
            self.conflicts += 1
            return
        if status == _NOT_FOUND:
            self._failures.pop(key, None)
            return  # it has gone meanwhile, which the watch tells
        self.failures += 1
        count = self._failures[key] = self._failures.get(key, 0) + 1
        pause = getattr(error, "retry_after", None) or min(LONGEST_PAUSE, INTERVAL * 2.0 ** min(count, 10))
        self._not_before[key] = self._clock() + pause
        text = str(error)
        if status == _FORBIDDEN:
            permission = _permission(kind, namespace)
            self.missing_permissions.add(permission)
            text = f"missing permission: {permission}"
        if text != self.last_error:
            self._log.warning("cannot write status", object=key[2], namespace=key[1], error=text)
        self.last_error = text


def _permission(kind: DocumentKind, namespace: str) -> str:
    resource = kind.resource
    group = f".{resource.group}" if resource.group else ""
    return f"patch {resource.plural}/status{group} {resource.where(namespace)}"


def _key(kind: DocumentKind, value: Mapping[str, Any], manager: str) -> tuple[str, str, str, str]:
    metadata = value["metadata"]
    return str(kind.resource), metadata.get("namespace", ""), metadata["name"], manager
