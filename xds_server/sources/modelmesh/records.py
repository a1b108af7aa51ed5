"""ModelMesh's records: JSON to values. The field names are those of its Java classes, as it writes them.

Only what routing needs is read. A record that cannot be read is an error that names the field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_MILLIS = 1000.0


class RecordError(ValueError):
    """The value is no such record; the text says what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A concrete model. `instances`: who has it or is loading it, since when (epoch seconds).

    `failed`: where a load failed, when; `messages`: what was said of it.
    """

    type: str = ""
    instances: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, float] = field(default_factory=dict)
    messages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VModelRecord:
    """A name that clients use: the `active` concrete model behind it, and the `target` of a roll-out.

    `failed`: the roll-out cannot go on; the active model goes on serving.
    """

    active: str
    target: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class InstanceRecord:
    """A pod. `shutdown`: it is going away and is to get no new requests."""

    shutdown: bool = False


def parse_model(value: bytes) -> ModelRecord:
    """A value of the table `registry`. RecordError."""
    found = _object(value)
    fails = _map(found, "fails")
    return ModelRecord(
        type=_text(found, "type"),
        instances=_times(found, "instanceIds"),
        failed=_times(found, "failedIn"),
        messages={iid: _text(said, "msg") for iid, said in fails.items() if isinstance(said, dict)},
    )


def parse_vmodel(value: bytes) -> VModelRecord:
    """A value of the table `vmodels`. RecordError."""
    found = _object(value)
    active = _text(found, "amid")
    return VModelRecord(active, _text(found, "tmid") or active, found.get("failed") is True)


def parse_instance(value: bytes) -> InstanceRecord:
    """A value of the table `instances`. RecordError."""
    return InstanceRecord(_object(value).get("shutdown") is True)


def _object(value: bytes) -> dict[str, Any]:
    try:
        found = json.loads(value)
    except ValueError as error:
        raise RecordError(f"found no JSON ({error}); expected an object") from error
    if not isinstance(found, dict):
        raise RecordError(f"found {type(found).__name__}; expected a JSON object")
    return found


def _text(found: Mapping[str, Any], name: str) -> str:
    text = found.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise RecordError(f"{name}: found {text!r}; expected a string")
    return text


def _map(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecordError(f"{name}: found {value!r}; expected an object")
    return value


def _times(found: Mapping[str, Any], name: str) -> Mapping[str, float]:
    times = _map(found, name)
    for instance, at in times.items():
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise RecordError(f"{name}.{instance}: found {at!r}; expected milliseconds since the epoch")
    return {instance: at / _MILLIS for instance, at in times.items()}
