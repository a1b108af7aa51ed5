"""A directory of documents to a configuration, or to everything that is wrong with it.

Reads files, and only here. Nothing that a user wrote makes this raise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from xds_server.config.compile import Doubt, compile_documents
from xds_server.config.problems import Problem
from xds_server.config.reading import RawDocument, Unreadable, read_documents
from xds_server.config.shape import shape_document, subject_of

if TYPE_CHECKING:
    from pathlib import Path

    from xds_server.config.documents import Document
    from xds_server.config.documents.base import Part
    from xds_server.mesh.routing import Configuration

SUFFIXES = (".yaml", ".yml")
_FIRST_DOCUMENTS = "`xds-server init DIR --replicas HOST:PORT,...` writes a first set"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The outcome of a load: a configuration, or problems in the order of reading; never both."""

    configuration: Configuration | None
    problems: tuple[Problem, ...]


@dataclass(slots=True)
class _Gathered:
    """What has been read so far. `broken`: the values of documents whose shape is wrong."""

    documents: list[Document[Part]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    broken: list[Any] = field(default_factory=list)
    unreadable: bool = False
    """A part of a file could not be read at all."""
    seen: int = 0


def document_files(directory: Path) -> list[Path]:
    """The files that `load_directory` reads, sorted by name: `*.yaml` and `*.yml`, none that is hidden.

    Links are followed, so that a mounted ConfigMap works, whose files are links into `..data`;
    that directory itself is hidden. Raises OSError if the directory cannot be listed.
    """
    return sorted(
        path
        for path in directory.iterdir()
        if path.suffix in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )


def load_directory(directory: Path, *, cluster: bool = False) -> Loaded:
    """All documents in the directory's files, checked together. `cluster`: see compile_documents."""
    try:
        files = document_files(directory)
    except OSError as error:
        found = f"no directory that can be read: {error.strerror or error}"
        return _failed(directory, found, f"a directory of documents; {_FIRST_DOCUMENTS}")
    if not files:
        return _failed(directory, "no *.yaml file", f"at least one; {_FIRST_DOCUMENTS}")
    gathered = _Gathered()
    for file in files:
        _read(file, gathered)
    if not gathered.seen and not gathered.problems:
        return _failed(directory, "no document in its *.yaml files", f"at least one; {_FIRST_DOCUMENTS}")
    configuration, problems = compile_documents(gathered.documents, _doubt(gathered), cluster=cluster)
    problems = sorted({*gathered.problems, *problems})
    return Loaded(None if problems else configuration, tuple(problems))


def _failed(directory: Path, found: str, expected: str) -> Loaded:
    return Loaded(None, (Problem(str(directory), 0, "", "", found, expected),))


def _read(file: Path, gathered: _Gathered) -> None:
    """Adds the documents of one file, or what is wrong with it."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = f"a file that cannot be read: {error.strerror or error}"
        gathered.problems.append(Problem(file.name, 0, "", "", found, "a readable file"))
        gathered.unreadable = True
        return
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 at offset {error.start}"
        gathered.problems.append(Problem(file.name, 0, "", "", found, "a text file in UTF-8"))
        gathered.unreadable = True
        return
    for raw in read_documents(file.name, text):
        if isinstance(raw, Unreadable):
            gathered.problems.append(raw.problem)
            gathered.unreadable = True
        else:
            _shape(raw, gathered)


def _shape(raw: RawDocument, gathered: _Gathered) -> None:
    gathered.seen += 1
    documents, problems = shape_document(raw.place, raw.value)
    gathered.documents += documents
    gathered.problems += problems
    gathered.problems += [replace(problem, subject=subject_of(raw.value)) for problem in raw.problems]
    if problems:
        gathered.broken.append(raw.value)


def _doubt(gathered: _Gathered) -> Doubt:
    """What broken documents say that they declare, so that one mistake is not reported again elsewhere."""
    hosts: set[str] = set()
    gateways: set[str] = set()
    values = [item for value in gathered.broken for item in _items(value)]
    for value in values:
        spec, metadata = _mapping(value, "spec"), _mapping(value, "metadata")
        listed = spec.get("hosts")
        hosts.update(host for host in (listed if isinstance(listed, list) else []) if isinstance(host, str))
        gateways.add(f"{metadata.get('namespace', 'default')}/{metadata.get('name')}")
    return Doubt(frozenset(hosts), frozenset(gateways), anything=gathered.unreadable)


def _items(value: Any) -> list[Any]:
    items = value.get("items") if isinstance(value, dict) else None
    return items if isinstance(items, list) else [value]


def _mapping(value: Any, key: str) -> dict[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}
