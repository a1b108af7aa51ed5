"""A watch of one resource that survives whatever an API server does; the last good picture stays in force.

List, then watch from the list's version, with bookmarks. Watches go silent in ways that no client library
tells of (kubernetes-client/python 124, kopf 585 and 957), hence: the server ends each request after a
time, we end it if the server does not, and we begin anew where nothing at all came for a while. A version
that the server has forgotten (410, after its restart also as an event in a stream that began with 200)
means to list again, and the difference to what was known is what the owner is told.

Needs the verbs `list` and `watch` on the resource, in each namespace of the scope or cluster-wide.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import aiohttp
import structlog

from xds_server.sources.kubernetes.api import ApiError, ApiUnreachableError, Request
from xds_server.sources.kubernetes.lines import Lines
from xds_server.sources.kubernetes.watched import Key, Resource, Scope, Timing, WatchState, WatchStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds_server.sources.kubernetes.api import Api

__all__ = ["Resource", "Scope", "Timing", "Watch", "WatchState", "WatchStatus"]

Kept = TypeVar("Kept")
"""What is kept of an object."""

PAGE = 250
"""Objects in one answer of a list: some milliseconds of decoding at a time."""

_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_GONE = 410
"""The version to go on from, or the page, is no longer in the server's history."""


class Watch(Generic[Kept]):
    """One resource over a scope. `run` it in a task; everything happens on that task's event loop.

    Args:
        api: the API server.
        resource: what is watched.
        scope: where.
        keep: what is kept of an object; it must take whatever the server sends. Objects whose kept values
            are equal count as unchanged.
        on_change: told of what changed, by key: the new value, None where the object is gone. All that
            came together is told together: a whole list, or the events of one packet.
        optional: the resource may not be served at all, and then counts as listed, with no objects.
        timing: limits and pauses.
        clock: epoch seconds, for the status.
        rng: where the jitter comes from.
    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        scope: Scope,
        *,
        keep: Callable[[Mapping[str, Any]], Kept],
        on_change: Callable[[Mapping[Key, Kept | None]], None],
        optional: bool = False,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self.api = api
        self.resource = resource
        self.scope = scope
        self.keep = keep
        self.on_change = on_change
        self.optional = optional
        self.timing = timing if timing is not None else Timing()
        self.clock = clock
        self.rng = rng if rng is not None else random.Random()  # noqa: S311 - jitter, no secret
        self._parts = [_Part(self, namespace) for namespace in scope.parts(resource)]

    async def run(self) -> None:
        """Watch until cancelled. Only what `keep` or `on_change` raises comes out."""
        async with asyncio.TaskGroup() as group:
            for part in self._parts:
                group.create_task(part.run(), name=f"watch {self.resource} {part.namespace}".rstrip())

    async def listed(self) -> None:
        """Return once every part of the scope was listed in full."""
        for part in self._parts:
            await part.listed.wait()

    def objects(self) -> dict[Key, Kept]:
        """The last good picture."""
        return {key: kept for part in self._parts for key, kept in part.objects.items()}

    def status(self) -> tuple[WatchStatus, ...]:
        """How each part stands, by namespace."""
        return tuple(part.status() for part in self._parts)


class _Part(Generic[Kept]):
    """A watch's share in one namespace, or in all (empty): one list, one stream at a time."""

    def __init__(self, owner: Watch[Kept], namespace: str) -> None:
        self.namespace = namespace
        self.objects: dict[Key, Kept] = {}
        self.listed = asyncio.Event()
        self._owner = owner
        self._version: str | None = None
        self._state = WatchState.LISTING
        self._confirmed_at: float | None = None
        self._failing_since: float | None = None
        self._error = ""
        self._missing = ""
        self._lists = 0
        self._failures = 0
        self._worked = False
        """Whether the present round brought anything."""
        self._log = structlog.get_logger("watch").bind(
            resource=str(owner.resource), **({"namespace": namespace} if namespace else {})
        )

    def status(self) -> WatchStatus:
        return WatchStatus(
            resource=self._owner.resource,
            namespace=self.namespace,
            state=self._state,
            listed=self.listed.is_set(),
            objects=len(self.objects),
            confirmed_at=self._confirmed_at,
            failing_since=self._failing_since,
            error=self._error,
            missing_permission=self._missing,
            lists=self._lists,
            failures=self._failures,
        )

    async def run(self) -> None:
        """Rounds of listing where needed and watching; `vain` counts those in a row that brought nothing."""
        vain = 0
        while True:
            self._worked = False
            ended: Exception | None = None
            try:
                if self._version is None:
                    await self._list()
                await self._watch()
            except (ApiError, ApiUnreachableError) as error:
                ended = error
                if isinstance(error, ApiError) and error.status == _GONE:
                    self._version, self._state = None, WatchState.LISTING
                    self._log.info("history gone: listing anew", said=str(error))
                else:
                    self._fail(error)
            vain = 0 if self._worked else vain + 1
            await asyncio.sleep(self._pause(ended, vain))

    async def _list(self) -> None:
        """Fetch everything, then tell the difference to what was known."""
        try:
            found, version = await self._pages(limit=PAGE)
        except ApiError as error:
            if error.status != _GONE:
                raise
            # The pages took longer than the server remembers: all at once then, as client-go does it.
            found, version = await self._pages(limit=0)
        changes: dict[Key, Kept | None] = {key: None for key in self.objects if key not in found}
        changes.update((key, kept) for key, kept in found.items() if self.objects.get(key) != kept)
        self.objects, self._version = found, version
        self._lists += 1
        self._confirm()
        if changes:
            self._owner.on_change(changes)
        if not self.listed.is_set():
            self._log.info("listed", objects=len(found))
            self.listed.set()

    async def _pages(self, limit: int) -> tuple[dict[Key, Kept], str]:
        found: dict[Key, Kept] = {}
        token = ""
        while True:
            params = self._params({"limit": str(limit)} if limit else {})
            if token:
                params["continue"] = token
            answer = await self._owner.api.json(self._request(params))
            try:
                items, metadata = answer["items"] or (), answer["metadata"]
                version, token = metadata["resourceVersion"], metadata.get("continue") or ""
                found.update((_key(item), self._owner.keep(item)) for item in items)
            except (LookupError, TypeError) as error:
                raise ApiUnreachableError(f"no list of {self._owner.resource}: {error!r}") from error
            if not token:
                return found, version

    async def _watch(self) -> None:
        """One stream, from the version on, until the server ends it, it is overdue, or nothing comes."""
        timing, loop = self._owner.timing, asyncio.get_running_loop()
        seconds = max(1, round(self._owner.rng.uniform(timing.server / 2, timing.server)))
        params = self._params(
            {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": self._version or "",
                "timeoutSeconds": str(seconds),
            }
        )
        # No limit on the whole: ours is below. Until the answer begins, the inactivity limit holds.
        request = self._request(
            params, aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=timing.inactivity)
        )
        lines = Lines()
        async with self._owner.api.send(request) as response:
            begun = loop.time()
            self._confirm()
            while True:
                chunk = await self._chunk(response, begun + seconds + timing.late)
                if not chunk:
                    break
                self._take(lines.feed(chunk))
            self._worked = self._worked or loop.time() - begun >= timing.brief

    async def _chunk(self, response: aiohttp.ClientResponse, until: float) -> bytes:
        """What comes next; nothing where the stream has ended, is overdue or has gone silent."""
        now = asyncio.get_running_loop().time()
        if now >= until:
            self._log.info("the server does not end the watch: watching anew")
            return b""
        try:
            async with asyncio.timeout(min(self._owner.timing.inactivity, until - now)):
                return await response.content.readany()
        except TimeoutError:
            self._log.info("silent: watching anew")
            return b""

    def _take(self, lines: list[bytes]) -> None:
        """The events of one packet. ApiError where the server says so in an event."""
        changes: dict[Key, Kept | None] = {}
        try:
            for line in lines:
                self._take_event(line, changes)
        finally:
            # Also those before an error event: they happened.
            if changes:
                self._owner.on_change(changes)

    def _take_event(self, line: bytes, changes: dict[Key, Kept | None]) -> None:
        try:
            event = json.loads(line)
            kind, item = event["type"], event["object"]
        except (ValueError, LookupError, TypeError) as error:
            raise ApiUnreachableError(f"no event of a watch: {line[:100]!r}") from error
        if kind == "ERROR":
            raise _error_event(item)
        try:
            version = item["metadata"]["resourceVersion"]
            key = None if kind == "BOOKMARK" else _key(item)
        except (LookupError, TypeError) as error:
            raise ApiUnreachableError(f"an object without metadata in a watch: {line[:100]!r}") from error
        if key is not None:
            self._take_object(key, None if kind == "DELETED" else item, changes)
        self._version = version
        self._worked = True
        self._confirm()

    def _take_object(self, key: Key, item: Mapping[str, Any] | None, changes: dict[Key, Kept | None]) -> None:
        if item is None:
            if self.objects.pop(key, None) is not None:
                changes[key] = None
            return
        kept = self._owner.keep(item)
        if self.objects.get(key) != kept:
            self.objects[key] = changes[key] = kept

    def _request(self, params: Mapping[str, str], timeout: aiohttp.ClientTimeout | None = None) -> Request:
        """A list, or with a timeout of its own a watch."""
        resource = self._owner.resource
        accept = resource.accept(watch=timeout is not None)
        request = Request(path=resource.path(self.namespace), params=params, accept=accept)
        return request if timeout is None else request.lasting(timeout)

    def _params(self, params: dict[str, str]) -> dict[str, str]:
        if self._owner.scope.selector:
            params["labelSelector"] = self._owner.scope.selector
        return params

    def _confirm(self) -> None:
        """The API server has spoken: what is known is what there is."""
        now = self._owner.clock()
        if self._failing_since is not None:
            self._log.info("watching again", after=round(now - self._failing_since, 1))
        self._state, self._confirmed_at = WatchState.WATCHING, now
        self._failing_since, self._error, self._missing = None, "", ""

    def _fail(self, error: ApiError | ApiUnreachableError) -> None:
        said, missing = str(error), ""
        status = error.status if isinstance(error, ApiError) else None
        resource = self._owner.resource
        if status == _FORBIDDEN:
            verb = "list" if self._version is None else "watch"
            missing = f"{verb} {resource} {resource.where(self.namespace)}"
            said = f"missing permission: {missing}"
        elif status == _UNAUTHORIZED:
            said = f"the API server does not accept {self._owner.api.login}: {error}"
        elif status == _NOT_FOUND:
            said = f"the API server does not serve {resource} {resource.version}: is its CRD installed?"
            if self._owner.optional:
                self.listed.set()
        self._failures += 1
        self._state = WatchState.ABSENT if status == _NOT_FOUND else WatchState.FAILING
        if self._failing_since is None:
            self._failing_since = self._owner.clock()
        if said != self._error:
            log = self._log.info if status == _NOT_FOUND and self._owner.optional else self._log.warning
            log("watch fails", error=said, said=str(error))
        self._error, self._missing = said, missing

    def _pause(self, ended: Exception | None, vain: int) -> float:
        """Seconds until the next round; none after one that went well."""
        timing, rng = self._owner.timing, self._owner.rng
        if ended is None and not vain:
            return 0.0
        if isinstance(ended, ApiError):
            if ended.retry_after is not None:
                return ended.retry_after * rng.uniform(1.0, 1.2)
            if ended.status == _NOT_FOUND:
                return timing.absent * rng.uniform(0.5, 1.0)
        return min(timing.most, timing.first * 2.0 ** min(max(vain - 1, 0), 30)) * rng.uniform(0.5, 1.0)


def _key(item: Mapping[str, Any]) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def _error_event(status: Any) -> ApiError:
    """What an ERROR event means: its object is a Status, as if the request had been answered with it."""
    code = status.get("code") if isinstance(status, dict) else None
    message = status.get("message") if isinstance(status, dict) else repr(status)[:200]
    details = status.get("details") if isinstance(status, dict) else None
    after = details.get("retryAfterSeconds") if isinstance(details, dict) else None
    return ApiError(code if isinstance(code, int) else 500, f"{code}: {message}", after)
