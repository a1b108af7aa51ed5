"""The reporters' streams: who may report on what, and when one is lost. What a report means is not ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

import grpc

from xds_server.report_messages import SILENCE, ReportRequest, ReportResponse
from xds_server.transport.access import RefusedError, identities
from xds_server.transport.reading import next_request
from xds_server.xds.status import Refusal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from xds_server.transport.access import Doorkeeper

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class TakesReports(Protocol):
    """Who is told. A reporter is known by an object of its own for as long as its stream lasts."""

    def take(self, reporter: object, request: ReportRequest) -> Sequence[str]:
        """Take what it says; returns the endpoints that it is about. ValueError for what cannot be said."""

    def lose(self, reporter: object, why: str) -> None:
        """Its stream is gone."""


class ReportStreams:
    """Serves reporters. `taker` None: this server takes no reports."""

    def __init__(self, taker: TakesReports | None, door: Doorkeeper, ending: asyncio.Event) -> None:
        self._taker = taker
        self._door = door
        self._ending = ending

    async def serve(self, context: Context) -> None:
        """One stream, until either end has had enough. RefusedError where the identity may not say that."""
        if self._taker is None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server takes no reports")
            return
        proved, reporter, who = identities(context.auth_context()), object(), ""
        why = "its stream has ended"
        try:
            while not self._ending.is_set():
                data = await next_request(context, self._ending, SILENCE)
                if data is None:
                    return
                request = _parsed(data)
                who = self._admit(proved, request, who)
                answer = ReportResponse(endpoints=list(self._taker.take(reporter, request)))
                await context.write(bytes(answer))
        except TimeoutError:
            why = f"it has been silent for {SILENCE:g} s"
        except RefusedError as error:
            why = f"it was refused: {error}"
            raise
        except ValueError as error:
            why = f"it said what cannot be: {error}"
            raise RefusedError(Refusal.PROTOCOL, str(error)) from error
        finally:
            # A client that leaves cancels this task, so that nothing but this is sure to be reached.
            self._taker.lose(reporter, "the server is stopping" if self._ending.is_set() else why)

    def _admit(self, proved: tuple[str, ...], request: ReportRequest, before: str) -> str:
        """Who speaks: the same on the whole stream, and one on whom these identities may report."""
        who = request.pod or request.endpoint or before
        if not who or (before and who != before):
            raise ValueError(
                f"found {who or 'nobody'!r}; expected a pod or an endpoint, and one for a stream"
            )
        self._door.admit_report(proved, who)
        return who


def _parsed(data: bytes) -> ReportRequest:
    try:
        return ReportRequest.parse(data)
    except Exception as error:  # the library raises what it meets: EOFError, UnicodeDecodeError, KeyError
        raise ValueError(f"found no ReportRequest: {error!r}") from error
