"""Hand-made catalogs for the protocol's tests: names and contents, no Envoy messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

from xds_server.xds.model import CLUSTER, ENDPOINT, LISTENER, ROUTE, Node, Resource, Snapshot, TypeSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from xds_server.xds.model import Catalog

NODE = Node("envoy-1", "gateway")
KINDS = {"cds": CLUSTER, "eds": ENDPOINT, "lds": LISTENER, "rds": ROUTE}


def digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:12]


def resource(
    type_url: str, name: str, content: str = "1", requires: Iterable[tuple[str, str]] = ()
) -> Resource:
    body = f"{name}={content}"
    return Resource(type_url, name, body.encode(), digest(body), frozenset(requires))


def types(type_url: str, resources: Iterable[Resource], withheld: Iterable[str] = ()) -> TypeSnapshot:
    by_name = {each.name: each for each in resources}
    version = digest(f"{type_url}{sorted((n, r.version) for n, r in by_name.items())}")
    return TypeSnapshot(by_name, version, frozenset(withheld))


@dataclass(frozen=True)
class OneCatalog:
    """The same snapshot for every node, unless `others` has one for its cluster."""

    snapshot: Snapshot
    others: Mapping[str, Snapshot] = field(default_factory=dict)

    @property
    def serial(self) -> int:
        return self.snapshot.serial

    def snapshot_for(self, node: Node) -> Snapshot:
        return self.others.get(node.cluster, self.snapshot)

    def follows(self, earlier: Catalog) -> bool:
        return isinstance(earlier, OneCatalog) and not self.others and not earlier.others


class World:
    """The server's state as a test writes it: `world.cds["a"] = "2"`, then `world.publish(hub)`."""

    def __init__(self) -> None:
        self.cds: dict[str, str] = {}
        self.eds: dict[str, str] = {}
        self.lds: dict[str, str] = {}
        self.rds: dict[str, str] = {}
        self.withheld: dict[str, set[str]] = {kind: set() for kind in KINDS}
        self.requires: dict[tuple[str, str], list[tuple[str, str]]] = {}
        self.serial = 0

    def snapshot(self) -> Snapshot:
        self.serial += 1
        return Snapshot(self.serial, {url: self._type(kind, url) for kind, url in KINDS.items()})

    def _type(self, kind: str, url: str) -> TypeSnapshot:
        contents: dict[str, str] = getattr(self, kind)
        made = [resource(url, n, c, self.requires.get((url, n), ())) for n, c in contents.items()]
        return types(url, made, self.withheld[kind])

    def publish(self, publish: Callable[[OneCatalog], None]) -> None:
        publish(OneCatalog(self.snapshot()))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds
