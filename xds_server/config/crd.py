"""The CustomResourceDefinition of ModelPool, made from the models of the document: `xds-server crd`."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic.alias_generators import to_camel

from xds_server.config.documents.model_pool import ModelPoolSpec
from xds_server.config.documents.pool_models import WAYS, ModelsPart
from xds_server.config.pool_status import STATUS_SCHEMA
from xds_server.config.problems import join_or
from xds_server.config.schema import Rules, schema_of

GROUP = "xds-server.dev"
VERSION = "v1alpha1"
PLURAL = "modelpools"

_WAYS = [to_camel(name) for name in WAYS]
_ONE_WAY = f"[{', '.join(f'has(self.{way})' for way in _WAYS)}].filter(given, given).size() == 1"

RULES: Rules = {
    ModelsPart: ((_ONE_WAY, f"exactly one of {join_or(_WAYS, len(_WAYS))}"),),
}
"""What needs more than one field to be said, in CEL."""

_COLUMNS = (
    ("Host", "string", ".spec.host", 0),
    ("Models", "integer", ".status.models", 0),
    ("Endpoints", "integer", ".status.endpoints", 0),
    ("Ready", "integer", ".status.readyEndpoints", 0),
    ("Accepted", "string", '.status.conditions[?(@.type=="Accepted")].status', 0),
    ("Programmed", "string", '.status.conditions[?(@.type=="Programmed")].status', 0),
    ("Age", "date", ".metadata.creationTimestamp", 0),
    ("Why", "string", '.status.conditions[?(@.status=="False")].message', 1),
)
"""What `kubectl get modelpools` shows: name, type, JSONPath, priority (1: with -o wide only)."""


def model_pool_crd() -> dict[str, Any]:
    """The object, as it is applied."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": "ModelPool",
                "listKind": "ModelPoolList",
                "plural": PLURAL,
                "singular": "modelpool",
                "shortNames": ["mpool"],
                "categories": ["xds-server"],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, **({"priority": priority} if priority else {})}
            for name, kind, path, priority in _COLUMNS
        ],
        "schema": {
            "openAPIV3Schema": {
                "description": "A service whose endpoints hold models, and how they tell which.",
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "metadata": {"type": "object"},
                    "spec": schema_of(ModelPoolSpec, RULES),
                    "status": STATUS_SCHEMA,
                },
            }
        },
    }


def model_pool_crd_yaml() -> str:
    """The object as a file of YAML."""
    text: str = yaml.safe_dump(model_pool_crd(), sort_keys=False, width=110, allow_unicode=True)
    return f"# Made by `xds-server crd` from the models of the documents: do not edit.\n{text}"
