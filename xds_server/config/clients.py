"""The file of clients: which identities may connect to the xDS port, and what each may claim to be.

One YAML list, checked as a whole like the documents. Nothing that a user wrote makes this raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from xds_server.config.documents.base import NonEmpty, Once, Part, expected
from xds_server.config.problems import Place, Problem, describe
from xds_server.config.reading import Unreadable, read_documents
from xds_server.config.shape import shape_part
from xds_server.xds.access import AccessList, Grant

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

_LIST = "a list of clients, each with identity and nodes or clusters"

Patterns = Annotated[list[NonEmpty], Field(min_length=1), AfterValidator(Once("pattern"))]


class ClientEntry(Part):
    """One identity, as a certificate has it among its subject alternative names, and what it may be."""

    identity: NonEmpty
    nodes: Patterns | None = None
    clusters: Patterns | None = None
    labels: dict[str, Patterns] | None = None
    reports: Patterns | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.nodes is None and self.clusters is None and self.reports is None:
            raise expected('nodes or clusters, such as clusters: ["gateway"]', "neither nodes nor clusters")
        return self

    def grant(self) -> Grant:
        """As the protocol core takes it."""
        labels = None if self.labels is None else {key: tuple(each) for key, each in self.labels.items()}
        reports = tuple(self.reports or ())
        return Grant(self.identity, tuple(self.nodes or ()), tuple(self.clusters or ()), labels, reports)


@dataclass(frozen=True, slots=True)
class LoadedClients:
    """The outcome of a load: a list, or problems in the order of reading; never both."""

    access: AccessList | None
    problems: tuple[Problem, ...]


def load_clients(path: Path) -> LoadedClients:
    """Read the file of clients."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        found = f"a file that cannot be read: {error.strerror or error}"
        return _failed(Problem(str(path), 0, "", "", found, "a readable file"))
    except UnicodeDecodeError as error:
        found = f"bytes that are not UTF-8 at offset {error.start}"
        return _failed(Problem(str(path), 0, "", "", found, "a text file in UTF-8"))
    documents = list(read_documents(str(path), text))
    problems = [each.problem for each in documents if isinstance(each, Unreadable)]
    raw = [each for each in documents if not isinstance(each, Unreadable)]
    problems += [problem for each in raw for problem in each.problems]
    if len(documents) != 1 and not problems:
        problems.append(Problem(str(path), 0, "", "", f"{len(documents) or 'no'} documents", _LIST))
    entries: list[ClientEntry] = []
    for each in raw if not problems else ():
        entries, problems = _entries(each.place, each.value)
    if problems:
        return _failed(*problems)
    return LoadedClients(AccessList(entry.grant() for entry in entries), ())


def _entries(place: Place, value: Any) -> tuple[list[ClientEntry], list[Problem]]:
    if not isinstance(value, list) or not value:
        return [], [place.problem((), describe(value), _LIST)]
    entries: list[ClientEntry] = []
    problems: list[Problem] = []
    for index, item in enumerate(value):
        entry, wrong = shape_part(place, index, ClientEntry, item)
        problems += wrong
        if entry is not None:
            entries.append(entry)
    return entries, problems


def _failed(*problems: Problem) -> LoadedClients:
    return LoadedClients(None, tuple(sorted(problems)))
