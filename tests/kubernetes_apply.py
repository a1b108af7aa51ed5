"""Server-side apply for the mocked API: managers, the fields that each has applied, and lists that are maps.

Of the real one it has what a writer of status can tell apart: what a manager no longer applies goes, unless
another one applies it too; lists are merged by their keys or replaced as a whole; an unchanged object gets no
new version; a version in the patch has to be the present one.
"""

import copy
import json

import yaml

from tests.kubernetes_mock import MockCluster, refusal

MAPS = {"conditions": "type", "servers": "name", "listeners": "name"}
"""Lists that are maps, by field, in the kinds whose schema says so."""

ATOMIC = ("networking.istio.io",)
"""Groups whose schema says nothing of lists: they are replaced as a whole."""


class ApplyingCluster(MockCluster):
    """The mocked API with server-side apply, for objects and for their status."""

    def __init__(self, directory):
        super().__init__(directory)
        self.applied = {}
        self.patches = []

    def _one(self, request):
        if request.method.value.upper() != "PATCH" or "apply" not in request.headers.get("Content-Type", ""):
            return super()._one(request)
        body = yaml.safe_load(request.body)
        kind = (request.resource.group or "", request.resource.version, request.resource.plural)
        key = request.namespace or "", request.name
        manager = request.params["fieldManager"]
        self.patches.append((manager, kind[2], key[1], body))
        present = self.objects.get(kind, {}).get(key)
        if present is None and request.subresource:
            return refusal(404, f"{kind[2]} {key[1]!r} not found")
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != present["metadata"]["resourceVersion"]:
            return refusal(409, "the object has been modified", reason="Conflict")
        content = {"status": body.get("status") or {}} if request.subresource else _without_version(body)
        managers = self.applied.setdefault((kind, key), {})
        before = managers.get(manager, {})
        managers[manager] = content
        others = [each for name, each in managers.items() if name != manager]
        maps = {} if kind[0] in ATOMIC else MAPS
        item = _pruned(copy.deepcopy(present or {}), before, [content, *others], maps)
        item = _merged(item, content, maps)
        if present is not None and json.dumps(item, sort_keys=True) == json.dumps(present, sort_keys=True):
            return present
        return self._store(kind, item)


def _without_version(body):
    metadata = {name: value for name, value in body["metadata"].items() if name != "resourceVersion"}
    return {**body, "metadata": metadata}


def _items(value, key):
    return {each[key]: each for each in value if isinstance(each, dict)} if isinstance(value, list) else {}


def _merged(before, after, maps, field=""):
    if isinstance(after, dict) and isinstance(before, dict):
        return {
            **before,
            **{name: _merged(before.get(name), each, maps, name) for name, each in after.items()},
        }
    if field in maps and isinstance(before, list):
        key = maps[field]
        old, new = _items(before, key), _items(after, key)
        return [_merged(old.get(name), new.get(name, old.get(name)), maps) for name in {**old, **new}]
    return copy.deepcopy(after)


def _pruned(item, before, kept, maps, field=""):
    """`item` without what is in `before` and in none of `kept`."""
    if field in maps and isinstance(item, list):
        key = maps[field]
        olds, keeps = _items(before, key), [_items(each, key) for each in kept]
        return [
            _pruned(each, olds.get(name, {}), [k[name] for k in keeps if name in k], maps)
            for name, each in _items(item, key).items()
            if name not in olds or any(name in k for k in keeps)
        ]
    if not isinstance(item, dict) or not isinstance(before, dict):
        return item
    kept = [each for each in kept if isinstance(each, dict)]
    return {
        name: _pruned(each, before.get(name), [k[name] for k in kept if name in k], maps, name)
        for name, each in item.items()
        if name not in before or any(name in k for k in kept)
    }
