"""The further names of a pool's models, from its document to what the mesh knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.mesh.names import Names, Split, Versions

if TYPE_CHECKING:
    from xds_server.config.documents.pool_names import NamesPart, SplitPart, VersionsPart


def names_of(part: NamesPart) -> Names:
    """Sorted where order means nothing, so that equal documents give equal pools."""
    return Names(
        aliases={alias: tuple(sorted(means)) for alias, means in sorted((part.aliases or {}).items())},
        versions=_versions(part.versions),
        fallbacks={name: tuple(others) for name, others in sorted((part.fallbacks or {}).items())},
        splits={name: _split(split) for name, split in sorted((part.splits or {}).items())},
        adapter_fallback=part.adapter_fallback,
    )


def _versions(part: VersionsPart | None) -> Versions | None:
    return None if part is None else Versions(part.default, dict(sorted((part.pinned or {}).items())))


def _split(part: SplitPart) -> Split:
    return Split(
        tuple((target.name, target.weight) for target in part.targets), (part.sticky_header or "").lower()
    )
