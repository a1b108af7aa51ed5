"""What all documents share: strict parts, metadata, and the types of single fields.

Every check of a single field raises `expected(...)`, which carries the words that the user reads.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from xds_server.config.problems import Path, describe, join_or

if TYPE_CHECKING:
    from collections.abc import Sequence
    from enum import StrEnum


def expected(what: str, found: str | None = None, at: Path = ()) -> PydanticCustomError:
    """The error for a field: what is allowed there.

    `found` is given where the value itself says too little; `at` where a check of a whole part
    is about one of its fields.
    """
    context: dict[str, Any] = {"expected": what, "at": at}
    if found is not None:
        context["found"] = found
    return PydanticCustomError("expected", "expected {expected}", context)


class Part(BaseModel):
    """A mapping with known fields. Fields of Istio's that mean nothing here are refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)

    istio_only: ClassVar[frozenset[str]] = frozenset()
    """Fields that Istio has at this place and that are not supported."""


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer within limits, as a validator."""

    low: int
    high: int = 2**32 - 1

    def __call__(self, value: object) -> int:
        """The value, or an error that names the limits."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.low <= value <= self.high:
            raise expected(f"an integer from {self.low} to {self.high}")
        return value


@dataclass(frozen=True, slots=True)
class OneOf:
    """A member of an enumeration written by its value, as a validator."""

    choices: type[StrEnum]

    def __call__(self, value: object) -> StrEnum:
        """The member, or an error that names all of them."""
        for choice in self.choices:
            if value == choice.value:
                return choice
        raise expected(join_or([choice.value for choice in self.choices]))


@dataclass(frozen=True, slots=True)
class Text:
    """A string that matches a pattern as a whole, as a validator."""

    what: str
    pattern: str = r"(?s).+"
    longest: int = 1024

    def __call__(self, value: object) -> str:
        """The value, or an error that says what it should be."""
        if not isinstance(value, str):
            raise expected(f"{self.what}, in quotes" if _is_scalar(value) else self.what)
        if len(value) > self.longest:
            raise expected(f"{self.what} of at most {self.longest} characters")
        if not re.fullmatch(self.pattern, value):
            raise expected(self.what)
        return value


def _is_scalar(value: object) -> bool:
    return isinstance(value, bool | int | float)


@dataclass(frozen=True, slots=True)
class Seconds:
    """A duration in Istio's form as seconds, as a validator. `low` in seconds."""

    low: float = 0.0

    def __call__(self, value: object) -> float:
        """Seconds, or an error that shows the form."""
        seconds = parse_duration(value) if isinstance(value, str) else None
        if seconds is None:
            raise expected('a duration such as "10s", "1.5s", "100ms" or "1m30s"')
        if not self.low <= seconds <= _LONGEST_DURATION:
            raise expected(f"a duration from {self.low:g}s to {_LONGEST_DURATION // 3600:g}h")
        return seconds


_LONGEST_DURATION = 365 * 24 * 3600.0
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_TERM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|h|m|s)")


def parse_duration(text: str) -> float | None:
    """Seconds in a duration such as `1m30s`; None if it is no duration."""
    end, seconds = 0, 0.0
    for term in _TERM.finditer(text):
        if term.start() != end:
            return None
        end = term.end()
        seconds += float(term[1]) * _UNITS[term[2]]
    return round(seconds, 9) if end and end == len(text) else None


def _ip_address(value: object) -> str:
    if isinstance(value, str):
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            pass
        else:
            if "%" not in value and not address.is_unspecified and not address.is_multicast:
                return str(address)
    raise expected("the IP address of a replica, since resolution is STATIC")


_NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS = r"[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?)*"

Name = Annotated[
    str, BeforeValidator(Text("a name of lower-case letters, digits, - and .", rf"{_NAME}(\.{_NAME})*", 253))
]
Namespace = Annotated[
    str, BeforeValidator(Text("a namespace of lower-case letters, digits and -", _NAME, 63))
]
PortName = Annotated[str, BeforeValidator(Text("a port name of lower-case letters, digits and -", _NAME, 63))]
Host = Annotated[str, BeforeValidator(Text("a host name without wildcard, port or path", _DNS, 253))]
HostPattern = Annotated[
    str, BeforeValidator(Text('"*", a host name, or "*." and a host name', rf"\*|(\*\.)?{_DNS}", 253))
]
NonEmpty = Annotated[str, BeforeValidator(Text("a string that is not empty"))]
AnyText = Annotated[str, BeforeValidator(Text("a string", r"(?s).*"))]
HeaderName = Annotated[
    str,
    BeforeValidator(Text("the name of a request header", r":?[A-Za-z0-9!#$%&'*+.^_`|~-]+", 256)),
]
IpAddress = Annotated[str, BeforeValidator(_ip_address)]
Port = Annotated[int, BeforeValidator(Integer(1, 65535))]
Count = Annotated[int, BeforeValidator(Integer(0))]
Positive = Annotated[int, BeforeValidator(Integer(1))]
Percent = Annotated[int, BeforeValidator(Integer(0, 100))]
Weight = Annotated[int, BeforeValidator(Integer(0, 1_000_000))]
EndpointWeight = Annotated[int, BeforeValidator(Integer(1, 1_000_000))]
Duration = Annotated[float, BeforeValidator(Seconds())]
PositiveDuration = Annotated[float, BeforeValidator(Seconds(0.001))]
WholeSeconds = Annotated[float, BeforeValidator(Seconds(1.0))]


class ObjectMeta(Part):
    """`metadata`: identity and labels; what a cluster adds to it is accepted and ignored."""

    name: Name
    namespace: Namespace = "default"
    labels: dict[str, AnyText] | None = None
    annotations: dict[str, AnyText] | None = None
    generation: Any = None
    uid: Any = None
    resource_version: Any = None
    creation_timestamp: Any = None
    deletion_timestamp: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    finalizers: Any = None
    self_link: Any = None


def only_once(values: Sequence[str | int], what: str, at: tuple[str, ...] = (), field: str = "") -> None:
    """Raises an error at the first value that stands there for the second time.

    `at` is where the list is, seen from the part that is checked, and `field` the value's place
    in each of its items, if they are not the values themselves.
    """
    for index, value in enumerate(values):
        if value in values[:index]:
            path: Path = (*at, index, field) if field else (*at, index)
            raise expected(f"each {what} once", f"{describe(value)} again", path)


@dataclass(frozen=True, slots=True)
class Once:
    """A list of texts without repetition, as a validator."""

    what: str

    def __call__(self, values: list[str]) -> list[str]:
        """The values, or an error at the first repetition."""
        only_once(values, self.what)
        return values
