"""A small model of what ModelMesh writes: instances, models and the names of clients, as its own records.

The layout and the fields are ModelMesh's. What is left out are fields that nobody who routes reads.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xds_server.demo.modelmesh.etcd import EtcdWriter

INSTANCE_ID = 12
"""An instance is called by this many last characters of its pod's name."""


def instance_of(pod: str) -> str:
    """The instance id of a pod."""
    return pod[-INSTANCE_ID:]


def model_id(name: str, path: str) -> str:
    """The id of the concrete model that is at `path`, as modelmesh-serving makes it."""
    return f"{name}__isvc-{hashlib.sha256(path.encode()).hexdigest()[:10]}"


@dataclass
class Record:
    """One model's record as it stands. Times are milliseconds since the epoch."""

    type: str
    path: str
    instances: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    fails: dict[str, dict[str, str]] = field(default_factory=dict)

    def value(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "type": self.type,
            "encKey": "",
            "mPath": self.path,
            "instanceIds": self.instances,
            "failedIn": self.failed,
            "fails": self.fails,
            "refs": 1,
            "autoDel": True,
            "lu": 0,
            "lul": 0,
        }


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return int(time.time() * 1000)


class Registry:
    """Writes the tables of one ModelMesh service. `prefix`: of all its keys, with its slash."""

    def __init__(self, writer: EtcdWriter, prefix: str) -> None:
        self.writer = writer
        self._prefix = prefix
        self.models: dict[str, Record] = {}
        self.names: dict[str, str] = {}

    async def join(self, pod: str, lease: str = "", *, shutdown: bool = False) -> None:
        """An instance is there; without its lease it is not."""
        value = {
            "startTime": now_ms(),
            "vers": 0,
            "loc": "10.1.0.1",
            "cap": 65536,
            "used": 0,
            "shutdown": shutdown,
        }
        await self.writer.put(f"{self._prefix}instances/{instance_of(pod)}", value, lease=lease)

    async def leave(self, pod: str) -> None:
        """An instance is gone; models stay entered for it until somebody tidies up."""
        await self.writer.delete(f"{self._prefix}instances/{instance_of(pod)}")

    async def serve(self, name: str, model_type: str, path: str) -> str:
        """A name of clients gets its first model; returns the concrete model's id."""
        model = await self.register(name, model_type, path)
        await self.point(name, model, model)
        return model

    async def register(self, name: str, model_type: str, path: str) -> str:
        """A concrete model is registered, loaded nowhere."""
        model = model_id(name, path)
        self.models[model] = Record(model_type, path)
        await self._write(model)
        return model

    async def point(self, name: str, active: str, target: str, *, failed: bool = False) -> None:
        """The name stands for the `active` model and is on its way to the `target`."""
        self.names[name] = active
        value = {"o": "ksp", "amid": active, "tmid": target, "failed": failed}
        await self.writer.put(f"{self._prefix}vmodels/{name}", value)

    async def enter(self, model: str, pod: str, at: int | None = None) -> None:
        """The pod begins to load it: entered before the load is done, as ModelMesh does."""
        record = self.models[model]
        record.failed.pop(instance_of(pod), None)
        record.fails.pop(instance_of(pod), None)
        record.instances[instance_of(pod)] = now_ms() if at is None else at
        await self._write(model)

    async def fail(self, model: str, pod: str, message: str) -> None:
        """The load failed there."""
        record = self.models[model]
        record.instances.pop(instance_of(pod), None)
        record.failed[instance_of(pod)] = now_ms()
        record.fails[instance_of(pod)] = {"msg": message}
        await self._write(model)

    async def remove(self, model: str, pod: str) -> None:
        """The pod no longer has it."""
        self.models[model].instances.pop(instance_of(pod), None)
        await self._write(model)

    async def _write(self, model: str) -> None:
        await self.writer.put(f"{self._prefix}registry/{model}", self.models[model].value())
