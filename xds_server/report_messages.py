"""The messages of `xds_server.report.v1`: what a reporter beside a runtime tells, and what it is told.

A leaf, used by both ends. One bidirectional stream for each reporter:

    service Reporter { rpc Report(stream ReportRequest) returns (stream ReportResponse); }

The first request says who speaks. Each one carries the whole list of models, or a failure, or neither: then
it is still as was said last. Each is answered.
"""

from __future__ import annotations

from dataclasses import dataclass

import betterproto2
from betterproto2 import field

SERVICE = "xds_server.report.v1.Reporter"
METHOD = "Report"

HEARTBEAT = 5.0
"""Seconds after which a reporter that has nothing to tell says that it is still so."""

SILENCE = 3 * HEARTBEAT
"""Seconds without a word after which either end takes the stream for lost."""


@dataclass(eq=False, repr=False)
class Row(betterproto2.Message):
    """One model, or one version of it, in any state."""

    name: str = field(1, betterproto2.TYPE_STRING)
    version: str = field(2, betterproto2.TYPE_STRING)
    state: str = field(3, betterproto2.TYPE_STRING)
    reason: str = field(4, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class Listing(betterproto2.Message):
    """All models of the runtime."""

    rows: list[Row] = field(1, betterproto2.TYPE_MESSAGE, repeated=True)


@dataclass(eq=False, repr=False)
class Failure(betterproto2.Message):
    """Why the runtime could not be read: `kind` as FailureKind has it, and what was seen."""

    kind: str = field(1, betterproto2.TYPE_STRING)
    error: str = field(2, betterproto2.TYPE_STRING)


@dataclass(eq=False, repr=False)
class ReportRequest(betterproto2.Message):
    """`pod` (NAME or NAMESPACE/NAME) or `endpoint` (HOST:PORT): whose models; `service`: of which only."""

    pod: str = field(1, betterproto2.TYPE_STRING)
    endpoint: str = field(2, betterproto2.TYPE_STRING)
    service: str = field(3, betterproto2.TYPE_STRING)
    listing: Listing | None = field(4, betterproto2.TYPE_MESSAGE, optional=True)
    failure: Failure | None = field(5, betterproto2.TYPE_MESSAGE, optional=True)


@dataclass(eq=False, repr=False)
class ReportResponse(betterproto2.Message):
    """`endpoints`: those that the report is about, as the server knows them at present."""

    endpoints: list[str] = field(1, betterproto2.TYPE_STRING, repeated=True)
