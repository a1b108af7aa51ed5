"""The picture of one ModelMesh service's records, and what it says of each instance. No I/O, no clock.

A copy is READY by its age: ModelMesh enters the instance before the load begins, and its own router too
takes a copy for loaded once the entry is old enough. What confirms it earlier is the mesh's to join.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from xds_server.mesh.events import ModelState
from xds_server.mesh.known import Known, KnownModel
from xds_server.sources.modelmesh.changes import Change
from xds_server.sources.modelmesh.records import (
    InstanceRecord,
    ModelRecord,
    RecordError,
    VModelRecord,
    parse_instance,
    parse_model,
    parse_vmodel,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

INSTANCE_ID = 12
"""An instance's id is this many last characters of its pod's name."""

T = TypeVar("T")


class Registry:
    """The tables `registry`, `vmodels` and `instances`. `loaded_after`: seconds from entry to loaded."""

    def __init__(self, loaded_after: float) -> None:
        self._loaded_after = loaded_after
        self._models: dict[str, ModelRecord] = {}
        self._vmodels: dict[str, VModelRecord] = {}
        self._instances: dict[str, InstanceRecord] = {}
        self._names: dict[str, set[str]] = {}
        self._on: dict[str, set[str]] = {}
        self.problems: dict[str, str] = {}
        """Keys whose values cannot be read, with what is wrong; the last good value counts."""

    def replace(self, listing: Sequence[Change]) -> set[str]:
        """Take a whole listing; returns the instances of which anything may have changed."""
        listed = {change.key for change in listing}
        tables: dict[str, Collection[str]] = {
            "registry": self._models,
            "vmodels": self._vmodels,
            "instances": self._instances,
        }
        known = [f"{table}/{key}" for table in tables for key in tables[table]]
        gone = [Change(key, None) for key in (*known, *self.problems) if key not in listed]
        return {instance for change in (*gone, *listing) for instance in self.apply(change)}

    def apply(self, change: Change) -> set[str]:
        """Take one change; returns the instances of which anything may have changed."""
        table, _, key = change.key.partition("/")
        parse = _PARSERS.get(table)
        if parse is None or not key:
            return set()
        self.problems.pop(change.key, None)
        if change.value is None:
            return self._put(table, key, None)
        try:
            record = parse(change.value)
        except RecordError as error:
            self.problems[change.key] = str(error)
            return set()
        return self._put(table, key, record)

    def instances(self) -> set[str]:
        """Every instance that is there, or that a model is entered for."""
        return self._instances.keys() | self._on.keys()

    def rows(self, instance: str) -> tuple[ModelState, ...]:
        """Every copy that is entered for the instance, under its id and each name of clients, sorted."""
        present = self._instances.get(instance)
        if present is None:
            return ()
        return tuple(
            sorted(row for model in self._on.get(instance, ()) for row in self._copy(model, instance))
        )

    def known(self) -> tuple[KnownModel, ...]:
        """Every name of clients, with what has become of its active model, sorted."""
        return tuple(sorted(self._known(name, record) for name, record in self._vmodels.items()))

    def _copy(self, model: str, instance: str) -> Iterator[ModelState]:
        record = self._models[model]
        loading, failed = record.instances.get(instance), record.failed.get(instance)
        if self._instances[instance].shutdown:
            row = ModelState(model, state="UNLOADING", reason="the instance is shutting down")
        elif loading is not None and (failed is None or failed < loading):
            row = ModelState(model, state="LOADING", ready_at=loading + self._loaded_after)
        else:
            row = ModelState(
                model, state="UNAVAILABLE", reason=record.messages.get(instance) or "failed to load"
            )
        yield row
        for name in self._names.get(model, ()):
            yield ModelState(name, "", row.state, row.reason, row.ready_at, model)

    def _known(self, name: str, record: VModelRecord) -> KnownModel:
        model = self._models.get(record.active)
        if model is None:
            return KnownModel(name, Known.PENDING, "its model is not in the registry")
        if model.instances:
            return KnownModel(name, Known.LOADING)
        if model.failed:
            said = next(iter(sorted(filter(None, model.messages.values()))), "")
            return KnownModel(name, Known.FAILED, said)
        return KnownModel(name, Known.STANDBY)

    def _put(
        self, table: str, key: str, record: ModelRecord | VModelRecord | InstanceRecord | None
    ) -> set[str]:
        if table == "instances":
            _set(self._instances, key, record if isinstance(record, InstanceRecord) else None)
            return {key}
        if table == "registry":
            return self._put_model(key, record if isinstance(record, ModelRecord) else None)
        return self._put_vmodel(key, record if isinstance(record, VModelRecord) else None)

    def _put_model(self, key: str, record: ModelRecord | None) -> set[str]:
        before = _places(self._models.get(key))
        after = _places(record)
        for instance in before - after:
            self._on[instance].discard(key)
            if not self._on[instance]:
                del self._on[instance]
        for instance in after:
            self._on.setdefault(instance, set()).add(key)
        _set(self._models, key, record)
        return before | after

    def _put_vmodel(self, key: str, record: VModelRecord | None) -> set[str]:
        before = self._vmodels.get(key)
        models = {each.active for each in (before, record) if each is not None and each.active}
        if before is not None and key in self._names.get(before.active, ()):
            self._names[before.active].discard(key)
            if not self._names[before.active]:
                del self._names[before.active]
        if record is not None and record.active and record.active != key:
            self._names.setdefault(record.active, set()).add(key)
        _set(self._vmodels, key, record)
        return {instance for model in models for instance in _places(self._models.get(model))}


_PARSERS: dict[str, Callable[[bytes], ModelRecord | VModelRecord | InstanceRecord]] = {
    "registry": parse_model,
    "vmodels": parse_vmodel,
    "instances": parse_instance,
}


def _places(record: ModelRecord | None) -> set[str]:
    return set() if record is None else record.instances.keys() | record.failed.keys()


def _set(table: dict[str, T], key: str, record: T | None) -> None:
    if record is None:
        table.pop(key, None)
    else:
        table[key] = record
