"""What is watched in the API server, and how a watch stands: values, no requests."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Key = tuple[str, str]
"""An object's namespace (empty where the resource has none) and name."""


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object in one version; `group` is empty for the core group.

    `metadata_only`: nothing but `metadata` is wanted. The server then sends no more than that, which for
    pods is a fraction.
    """

    group: str
    version: str
    plural: str
    namespaced: bool = True
    metadata_only: bool = False

    def __str__(self) -> str:
        """PLURAL.GROUP, as kubectl and RBAC write it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def path(self, namespace: str = "") -> str:
        """The URL path of its list, in one namespace or (empty) in all."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" if namespace else f"{root}/{self.plural}"

    def accept(self, *, watch: bool) -> str:
        """The Accept header of a list or a watch: what the server is to send, plain JSON where it cannot.

        It transforms a list as a list only, and an object of a watch as an object only.
        """
        if not self.metadata_only:
            return "application/json"
        kind = "PartialObjectMetadata" if watch else "PartialObjectMetadataList"
        return f"application/json;as={kind};g=meta.k8s.io;v=v1,application/json"

    def where(self, namespace: str) -> str:
        """The scope of a permission, in words."""
        if namespace:
            return f"in namespace {namespace}"
        return "in all namespaces" if self.namespaced else "at cluster scope"


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects: those of `namespaces` (none: of all) that match the label `selector` (empty: all)."""

    namespaces: tuple[str, ...] = ()
    selector: str = ""

    def parts(self, resource: Resource) -> tuple[str, ...]:
        """The namespaces that are watched one by one; the empty name stands for all at once."""
        return tuple(sorted(set(self.namespaces))) if resource.namespaced and self.namespaces else ("",)


@dataclass(frozen=True, slots=True)
class Timing:
    """When a watch gives up, and how soon it tries again. Seconds.

    `server`: how long one watch request may last, at most and, drawn by lot, from half of it on: so many
    watches do not end together. `late`: how much longer it may last for us. `inactivity`: for how long
    nothing may come, bookmarks included, which the API server sends about every 75 s at the latest.
    `first` and `most`: the pause after a first failure, and at most; `absent`: where the resource is not
    served (yet). `brief`: a watch that ends sooner has not worked.
    """

    server: float = 480.0
    late: float = 15.0
    inactivity: float = 100.0
    first: float = 0.25
    most: float = 30.0
    absent: float = 10.0
    brief: float = 1.0


class WatchState(StrEnum):
    """How a watch stands. What it last knew stays in force in every one of them."""

    LISTING = "LISTING"
    """Never listed yet, or listing anew because the server no longer has the history in between."""
    WATCHING = "WATCHING"
    FAILING = "FAILING"
    """The last attempt failed; `error` says how."""
    ABSENT = "ABSENT"
    """The API server does not serve the resource: its CRD is not installed (yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchStatus:
    """One resource in one namespace, or (empty) in all. Times are epoch seconds.

    `confirmed_at`: when the API server last said anything on it, None while it never did.
    `failing_since`: since when it has not, None while all is well.
    `missing_permission`: for example "list endpointslices.discovery.k8s.io in namespace x".
    """

    resource: Resource
    namespace: str
    state: WatchState
    listed: bool
    objects: int
    confirmed_at: float | None = None
    failing_since: float | None = None
    error: str = ""
    missing_permission: str = ""
    lists: int = 0
    failures: int = 0

    def __str__(self) -> str:
        return f"{self.resource} {self.resource.where(self.namespace)}"
