"""`ModelPool.status`: its schema, and what is said there. Pure, so that every server says the same.

Each server writes what it sees itself under its own name in `servers`. The conditions and numbers that are
for people follow from the spec and from that list alone, whichever server works them out; so servers that
serve different Envoys, or for a moment see different things, do not overwrite each other for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from xds_server.config.conditions import Condition, Conditions, condition

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds_server.config.problems import Problem

_COUNT = {"type": "integer", "format": "int64", "minimum": 0}


def _counts(**said: str) -> dict[str, Any]:
    return {name: {"description": text, **_COUNT} for name, text in said.items()}


CONDITIONS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status", "lastTransitionTime", "reason", "message"],
        "properties": {
            "type": {"type": "string", "maxLength": 316},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "observedGeneration": {**_COUNT},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
            "reason": {"type": "string", "maxLength": 1024, "minLength": 1},
            "message": {"type": "string", "maxLength": 32768},
        },
    },
}

STATUS_SCHEMA: dict[str, Any] = {
    "description": "What the servers know of the pool. Written by them.",
    "type": "object",
    "properties": {
        "observedGeneration": {
            "description": "The generation of the spec that the conditions are about.",
            **_COUNT,
        },
        "conditions": CONDITIONS_SCHEMA,
        **_counts(
            endpoints="Endpoints of the service.",
            readyEndpoints="Those of them that get requests.",
            models="Models that are READY on at least one of them.",
            knownModels="Models that they tell of, in any state.",
            envoys="Envoys that have been sent the pool, of all servers together.",
            acknowledged="Those of them that have accepted it as it is now.",
        ),
        "servers": {
            "description": "What each server sees.",
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"description": "The server; the name of its Lease.", "type": "string"},
                    "generation": {
                        "description": "The generation of the spec that is in force there; 0: none.",
                        **_COUNT,
                    },
                    **_counts(
                        endpoints="Endpoints of the service.",
                        readyEndpoints="Those of them that get requests.",
                        models="Models that are READY on at least one of them.",
                        knownModels="Models that they tell of, in any state.",
                        telling="Endpoints that have told their models.",
                        envoys="Connected Envoys that have been sent the pool.",
                        acknowledged="Those of them that have accepted it as it is now.",
                    ),
                    "rejection": {"description": "What an Envoy rejects it with.", "type": "string"},
                    "failure": {
                        "description": "Why an endpoint does not tell its models.",
                        "type": "string",
                    },
                },
            },
        },
    },
}


@dataclass(frozen=True, slots=True)
class Seen:
    """What one server sees of a pool. `generation`: of the spec in force there; 0 where none is.

    `telling`: endpoints whose models are known now. `rejection` and `failure` are texts, empty where there
    is nothing to tell.
    """

    generation: int = 0
    endpoints: int = 0
    ready: int = 0
    models: int = 0
    known: int = 0
    telling: int = 0
    envoys: int = 0
    acknowledged: int = 0
    rejection: str = ""
    failure: str = ""

    def entry(self, server: str) -> dict[str, Any]:
        """The item of `servers`."""
        entry: dict[str, Any] = {
            "name": server,
            "generation": self.generation,
            "endpoints": self.endpoints,
            "readyEndpoints": self.ready,
            "models": self.models,
            "knownModels": self.known,
            "telling": self.telling,
            "envoys": self.envoys,
            "acknowledged": self.acknowledged,
        }
        texts = {"rejection": self.rejection[:_LONGEST], "failure": self.failure[:_LONGEST]}
        return entry | {name: text for name, text in texts.items() if text}


_LONGEST = 2048
"""Characters of an Envoy's or a runtime's text."""


def common_status(
    generation: int, problems: Sequence[Problem], servers: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """What all servers say together: everything but `servers`. Conditions have no times.

    `problems` of the spec of this generation; `servers`: the entries of those that live. Where servers count
    differently, the smallest number is given: it is what can be relied on.
    """
    entries = sorted(servers, key=lambda entry: str(entry["name"]))
    said = Conditions(generation)
    said.add(_accepted(problems))
    said.add(_discovered(entries))
    said.add(_programmed(entries))
    numbers = {
        name: min((int(entry.get(name, 0)) for entry in entries), default=0)
        for name in ("endpoints", "readyEndpoints", "models", "knownModels")
    }
    sums = {name: _sum(entries, name) for name in ("envoys", "acknowledged")}
    return {"observedGeneration": generation, **numbers, **sums, "conditions": said.listed()}


def _accepted(problems: Sequence[Problem]) -> Condition:
    if not problems:
        return condition("Accepted", "Accepted", "the spec is in force")
    text = "; ".join(said(problem) for problem in sorted(problems))
    return condition("Accepted", "Invalid", text, status=False)


def said(problem: Problem) -> str:
    """A problem in the status of its own object, which need not be named."""
    return f"{problem.field}: found {problem.found}; expected {problem.expected}"


def _discovered(entries: Sequence[Mapping[str, Any]]) -> Condition:
    """Whether every endpoint has told its models, to every server."""
    if not any(entry.get("generation") for entry in entries):
        return Condition("ModelsDiscovered", "Unknown", "NotInForce", "no spec of this pool is in force")
    worst = min(
        (entry for entry in entries if entry.get("generation")),
        key=lambda e: (int(e.get("telling", 0)) - int(e.get("endpoints", 0)), int(e.get("endpoints", 0))),
    )
    endpoints, telling = int(worst.get("endpoints", 0)), int(worst.get("telling", 0))
    if not endpoints:
        return condition("ModelsDiscovered", "NoEndpoints", "the service has no endpoint", status=False)
    text = f"{telling} of {endpoints} endpoints tell their models"
    if telling == endpoints:
        return condition("ModelsDiscovered", "Discovered", text)
    failure = str(worst.get("failure", ""))
    return condition(
        "ModelsDiscovered", "EndpointsSilent", text + (f"; {failure}" if failure else ""), status=False
    )


def _programmed(entries: Sequence[Mapping[str, Any]]) -> Condition:
    """Whether every Envoy that has been sent the pool has accepted it."""
    envoys, acknowledged = _sum(entries, "envoys"), _sum(entries, "acknowledged")
    if not envoys:
        return condition("Programmed", "NoEnvoys", "no connected Envoy has been sent this pool", status=False)
    text = f"acknowledged by {acknowledged} of {envoys} Envoys"
    rejections = [str(entry["rejection"]) for entry in entries if entry.get("rejection")]
    if rejections:
        return condition("Programmed", "Rejected", f"{text}; {'; '.join(rejections)}", status=False)
    if acknowledged < envoys:
        return condition("Programmed", "Pending", text, status=False)
    return condition("Programmed", "Programmed", text)


def _sum(entries: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(int(entry.get(name, 0)) for entry in entries)
