"""A Kubernetes API for faults that a real one cannot be told to show, served over HTTP by kmock.

It keeps objects with versions and a history, pages its lists, streams its watches, forgets versions, goes
down and comes back on the same port. What it does not do: validation, admission, defaults, authorization.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp.web
import kmock
import yaml

from xds_server.sources.kubernetes.access import Login

LIMIT = 30.0


async def until(condition):
    """Wait, 30 s at most, for what has no event of its own."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@dataclass
class Fault:
    """Answers in place of the API server while `times` lasts. Both callables take kmock's request."""

    when: object
    response: object
    times: int = 1


@dataclass(eq=False)
class Stream:
    """An open watch: what is still to be sent; `hung` once nothing is sent any more."""

    request: object
    queue: asyncio.Queue = field(default_factory=asyncio.Queue)
    hung: bool = False

    def send(self, kind, item):
        if not self.hung:
            self.queue.put_nowait({"type": kind, "object": item})


def status(code, message, **more):
    """A Status object, as errors are sent."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "message": message,
        **more,
    }


def refusal(code, message="refused", headers=None, **more):
    """An answer that is an error, made anew each time."""

    def respond(_request):
        return aiohttp.web.json_response(status(code, message, **more), status=code, headers=headers)

    return respond


class _Handler(kmock.RawHandler):
    """kmock reads and keeps the requests, and serves them; what is answered is the cluster's."""

    answer = None

    async def _handle(self, request):
        return await self.answer(request)


class MockCluster:
    """One API server. Enter it with `async with`; `url` is its address."""

    def __init__(self, directory):
        self.directory = directory
        self.token = "first"
        self.requests = []
        self.streams = set()
        self.served = set()
        self.faults = []
        self.objects = {}
        self.history = []
        self.compacted = 0
        self._versions = itertools.count(100)
        self._version = next(self._versions)
        self._handler = _Handler()
        self._handler.answer = self._answer
        self._server = None
        self._port = None

    async def __aenter__(self):
        await self._handler.__aenter__()
        await self.up()
        return self

    async def __aexit__(self, *args):
        await self.down()
        await self._handler.__aexit__(*args)

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def login(self):
        """A kubeconfig file that names this server, with the token as it is now."""
        file = self.directory / "kubeconfig"
        self.write_token(file)
        return Login(kubeconfig=file)

    def write_token(self, file):
        cluster = {"name": "mock", "cluster": {"server": self.url}}
        user = {"name": "tester", "user": {"token": self.token}}
        context = {"name": "mock", "context": {"cluster": "mock", "user": "tester"}}
        document = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "mock"}
        file.write_text(yaml.safe_dump(document))

    async def up(self):
        """Listen, on the same port as before."""
        self._server = kmock.Server(self._handler, port=self._port)
        await self._server.__aenter__()
        self._port = self._server.port

    async def down(self):
        """Cut every connection and cease to listen."""
        if self._server is None:
            return
        for stream in list(self.streams):
            if (transport := stream.request._raw_request.transport) is not None:
                transport.abort()
            stream.queue.put_nowait(None)
        server, self._server = self._server, None
        await server.__aexit__(None, None, None)

    def serve(self, *resources):
        """Have these from now on, as after their CRD was installed."""
        self.served.update((r.group, r.version, r.plural) for r in resources)

    async def put(self, resource, item):
        """Create or replace an object."""
        self._store((resource.group, resource.version, resource.plural), copy.deepcopy(item))

    async def remove(self, resource, namespace, name):
        """Delete an object."""
        self._drop((resource.group, resource.version, resource.plural), (namespace, name))

    def get(self, resource, namespace, name):
        """An object as it is now."""
        return self.objects[resource.group, resource.version, resource.plural][namespace, name]

    def forget(self):
        """Have no history: every version that a client may know is too old."""
        self._version = self.compacted = next(self._versions)
        self.history.clear()

    def end_streams(self):
        """End every watch as the server does when its time is over."""
        for stream in list(self.streams):
            stream.queue.put_nowait(None)

    def hang_streams(self):
        """Send nothing more on any watch that is open, without closing it."""
        for stream in self.streams:
            stream.hung = True

    def send(self, kind, item):
        """An event of our own on every open watch."""
        for stream in self.streams:
            stream.send(kind, item)

    def bookmark(self):
        """What the real one sends about once a minute."""
        self.send("BOOKMARK", {"metadata": {"resourceVersion": str(self._version)}})

    def fault(self, when, response, times=1):
        """Answer with `response` where `when(request)`, `times` times."""
        self.faults.append(Fault(when, response, times))

    def lists(self, plural):
        """How often a resource was listed, pages counted once each."""
        return sum(r.action is kmock.action.LIST and r.resource.plural == plural for r in self.requests)

    def watches(self, plural):
        """How often a watch of it was asked for."""
        return sum(r.action is kmock.action.WATCH and r.resource.plural == plural for r in self.requests)

    def _store(self, kind, item):
        metadata = item.setdefault("metadata", {})
        key = metadata.get("namespace", ""), metadata["name"]
        known = self.objects.setdefault(kind, {})
        before = known.get(key)
        metadata.setdefault("uid", before["metadata"]["uid"] if before else f"uid-{next(self._versions)}")
        self._version = next(self._versions)
        metadata["resourceVersion"] = str(self._version)
        known[key] = item
        self._record(kind, "MODIFIED" if before else "ADDED", item)
        return item

    def _drop(self, kind, key):
        item = copy.deepcopy(self.objects[kind].pop(key))
        self._version = next(self._versions)
        item["metadata"]["resourceVersion"] = str(self._version)
        self._record(kind, "DELETED", item)
        return item

    def _record(self, kind, event, item):
        self.history.append((self._version, kind, event, item))
        for stream in self.streams:
            if _kind(stream.request) == kind and _matches(stream.request, item):
                stream.send(event, item)

    async def _answer(self, request):
        self.requests.append(request)
        for fault in self.faults:
            if fault.times and fault.when(request):
                fault.times -= 1
                response = fault.response(request)
                return await response if asyncio.iscoroutine(response) else response
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return refusal(401, "Unauthorized")(request)
        if request.resource is None or _kind(request) not in self.served:
            return refusal(404, "the server could not find the requested resource")(request)
        if request.action is kmock.action.LIST:
            return aiohttp.web.json_response(self._list(request))
        if request.action is kmock.action.WATCH:
            return await self._watch(request)
        answer = self._one(request)
        return answer(request) if callable(answer) else aiohttp.web.json_response(answer)

    def _list(self, request):
        found = [i for _, i in sorted(self.objects.get(_kind(request), {}).items()) if _matches(request, i)]
        begin = int(request.params.get("continue") or 0)
        limit = int(request.params.get("limit") or 0) or len(found) + 1
        metadata = {"resourceVersion": str(self._version)}
        if begin + limit < len(found):
            metadata["continue"] = str(begin + limit)
        return {"metadata": metadata, "items": found[begin : begin + limit]}

    async def _watch(self, request):
        response = aiohttp.web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request._raw_request)
        since = int(request.params.get("resourceVersion") or self._version)
        if since < self.compacted:
            gone = status(410, "too old resource version", reason="Expired")
            await response.write(_line({"type": "ERROR", "object": gone}))
            return response
        stream = Stream(request)
        self.streams.add(stream)
        try:
            for version, kind, event, item in self.history:
                if version > since and kind == _kind(request) and _matches(request, item):
                    stream.send(event, item)
            while (event := await stream.queue.get()) is not None:
                await response.write(_line(event))
        except ConnectionError:
            pass  # the client has left
        finally:
            self.streams.discard(stream)
        return response

    def _one(self, request):
        """One object: create, read, replace, patch (every kind of patch merges), delete; `status` too."""
        kind, data = _kind(request), request.data
        namespace = request.namespace or ""
        method = request.method.value.upper()
        if method == "POST":
            data["metadata"].setdefault("namespace", namespace)
            key = data["metadata"]["namespace"], data["metadata"]["name"]
            if key in self.objects.get(kind, {}):
                return refusal(409, f"{key[1]} already exists")
            return self._store(kind, data)
        key = namespace, request.name
        present = self.objects.get(kind, {}).get(key)
        if present is None:
            return refusal(404, f"{request.resource.plural} {request.name!r} not found")
        if method == "DELETE":
            return self._drop(kind, key)
        return present if method == "GET" else self._change(request, kind, present)

    def _change(self, request, kind, present):
        data, method = request.data, request.method.value.upper()
        if data is None:
            data = yaml.safe_load(request.body)
        if request.subresource == "status":
            data = {"status": _merged(present.get("status"), data.get("status"), method)}
            method = "PATCH"
        item = _merged(present, data, method)
        if _without_version(item) == _without_version(present):
            return present
        return self._store(kind, copy.deepcopy(item))


def _line(event):
    return json.dumps(event).encode() + b"\n"


def _kind(request):
    resource = request.resource
    return resource.group or "", resource.version, resource.plural


def _matches(request, item):
    metadata = item["metadata"]
    if request.namespace and request.namespace != metadata.get("namespace"):
        return False
    labels = metadata.get("labels") or {}
    terms = [term for term in request.params.get("labelSelector", "").split(",") if term]
    return all(labels.get(key) == value for key, value in (term.split("=", 1) for term in terms))


def _merged(before, after, method):
    if method == "PUT" or not isinstance(before, dict) or not isinstance(after, dict):
        return after
    joined = {**before}
    for key, value in after.items():
        if value is None:
            joined.pop(key, None)
        else:
            joined[key] = _merged(before.get(key), value, method)
    return joined


def _without_version(item):
    return json.dumps({**item, "metadata": {**item["metadata"], "resourceVersion": ""}}, sort_keys=True)


@asynccontextmanager
async def mock_cluster(directory, *resources):
    """A cluster that serves `resources`."""
    async with MockCluster(directory) as cluster:
        cluster.serve(*resources)
        yield cluster
