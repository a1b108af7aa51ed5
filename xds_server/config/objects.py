"""API objects to units of documents: the same checks as for files, with the object itself as the place.

Objects are mappings as the API server gives them. ConfigMaps bring documents as text: Istio's own CRDs know
nothing of `dynamicSubset` and `headerToDynamicSubsetKey`, and an API server drops what a CRD does not know.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from xds_server.config.document_set import Unit
from xds_server.config.problems import Place, Problem
from xds_server.config.reading import Unreadable, read_documents
from xds_server.config.shape import shape_document, subject_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from xds_server.config.documents import Document
    from xds_server.config.documents.base import Part

DOCUMENTS_LABEL = "xds-server.dev/documents"
"""With the value `true`: a ConfigMap whose *.yaml keys are documents, or another object that is for us."""

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
SUFFIXES = (".yaml", ".yml")
_METADATA = ("name", "namespace", "labels", "annotations")

_KEPT_BY_US = {
    "DestinationRule": (("spec", "trafficPolicy", "loadBalancer", "dynamicSubset"),),
    "VirtualService": (("spec", "http", "*", "headerToDynamicSubsetKey"),),
}
"""Fields that Istio's CRDs do not know, by kind; `*` stands for each item of a list."""


def key_of(value: Mapping[str, Any]) -> str:
    """An API object's key: its group, kind, namespace and name, which are unique in a cluster."""
    group = str(value.get("apiVersion", "")).rpartition("/")[0]
    metadata = value.get("metadata") or {}
    return f"{group}/{value.get('kind')}/{metadata.get('namespace', '')}/{metadata.get('name')}"


def unit_of(value: Mapping[str, Any]) -> Unit:
    """The unit that an object of one of our kinds is."""
    plain = _without_server_fields(value)
    documents, problems = shape_document(Place("", 0, subject_of(plain)), plain)
    generation = int((value.get("metadata") or {}).get("generation") or 1)
    return Unit(key_of(value), tuple(documents), tuple(problems), _age(value), generation)


def unit_of_config_map(value: Mapping[str, Any]) -> Unit:
    """The unit that a ConfigMap is: the documents under all of its *.yaml keys, taken or refused together.

    Documents without a namespace are in the ConfigMap's, and they cannot be in another one: who may write a
    ConfigMap in one namespace must not decide about another.
    """
    namespace = str(value["metadata"].get("namespace", "default"))
    whole = f"ConfigMap {namespace}/{value['metadata']['name']}"
    documents: list[Document[Part]] = []
    problems: list[Problem] = []
    data = value.get("data") or {}
    files = [name for name in sorted(data) if name.endswith(SUFFIXES)]
    if not files:
        expected = "at least one key that ends in .yaml"
        problems.append(Problem("", 0, whole, "data", "no *.yaml key", expected))
    for name in files:
        for raw in read_documents(f"{whole}, {name}", data[name]):
            if isinstance(raw, Unreadable):
                problems.append(raw.problem)
                continue
            shaped, wrong = shape_document(raw.place, _in_namespace(raw.value, namespace))
            problems += [*wrong, *(replace(each, subject=subject_of(raw.value)) for each in raw.problems)]
            documents += shaped
    problems += [problem for document in documents for problem in _foreign(document, namespace)]
    return Unit(key_of(value), tuple(documents), tuple(problems), _age(value))


def _in_namespace(value: object, namespace: str) -> object:
    """The document with the namespace of its ConfigMap, where it names none; items of a List alike."""
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("items"), list) and value.get("kind") == "List":
        return {**value, "items": [_in_namespace(item, namespace) for item in value["items"]]}
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("namespace") is not None:
        return value
    return {**value, "metadata": {**metadata, "namespace": namespace}}


def _foreign(document: Document[Part], namespace: str) -> Iterator[Problem]:
    if document.metadata.namespace != namespace:
        yield document.place.problem(
            ("metadata", "namespace"),
            f'"{document.metadata.namespace}"',
            f"{namespace}, the namespace of the ConfigMap, or no namespace",
        )


def _without_server_fields(value: Mapping[str, Any]) -> dict[str, Any]:
    """The object as its user wrote it: of its metadata what means something, of its status what is read."""
    metadata = value.get("metadata") or {}
    plain = {key: each for key, each in value.items() if key != "status"}
    if (status := read_status(value)) is not None:
        plain["status"] = status
    return {**plain, "metadata": {key: metadata[key] for key in _METADATA if key in metadata}}


def read_status(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """What of a status is another's word to us: how KServe's models are. None where there is nothing."""
    status = value.get("status") if value.get("kind") == "InferenceService" else None
    return {"modelStatus": status.get("modelStatus")} if isinstance(status, dict) else None


def _age(value: Mapping[str, Any]) -> str:
    """The time of creation as the API server writes it, which sorts as text."""
    return str((value.get("metadata") or {}).get("creationTimestamp") or "")


def dropped_fields(value: Mapping[str, Any]) -> list[str]:
    """Fields that the user applied and the API server dropped, since the object's CRD does not know them.

    Seen where the applied object is kept in an annotation, as `kubectl apply` does.
    """
    annotations = (value.get("metadata") or {}).get("annotations") or {}
    try:
        applied = json.loads(annotations.get(LAST_APPLIED, "null"))
    except ValueError:
        return []
    dropped = []
    for path in _KEPT_BY_US.get(str(value.get("kind")), ()):
        there = set(_found(value, path))
        dropped += [name for name in _found(applied, path) if name not in there]
    return dropped


def lacks_our_fields(value: Mapping[str, Any]) -> list[str]:
    """Which of the fields that Istio's CRDs do not know are nowhere in the object; empty if one is there."""
    paths = _KEPT_BY_US.get(str(value.get("kind")), ())
    return [] if any(True for path in paths for _ in _found(value, path)) else [path[-1] for path in paths]


def _found(value: object, path: tuple[str, ...], at: str = "") -> Iterator[str]:
    """Where in `value` there is something at `path`."""
    if not path:
        yield at
        return
    step, rest = path[0], path[1:]
    if step == "*":
        for index, item in enumerate(value if isinstance(value, list) else []):
            yield from _found(item, rest, f"{at}[{index}]")
    elif isinstance(value, dict) and step in value:
        yield from _found(value[step], rest, f"{at}.{step}" if at else step)
