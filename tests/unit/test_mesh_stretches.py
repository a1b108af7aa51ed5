"""When all runtimes of a pool failed together, kept up to date as against found anew from all of them."""

from __future__ import annotations

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.mesh_events import eid
from xds_server.mesh.events import FailureKind
from xds_server.mesh.health import NO_COMMON_FAILURE, CommonFailure
from xds_server.mesh.reports import Record
from xds_server.mesh.status import Failure
from xds_server.mesh.stretches import Stretches

TIMES = st.integers(0, 6).map(float)
RECORDS = st.one_of(
    st.none(),
    st.builds(Record, st.just("runtime")),  # never answered
    st.builds(
        lambda begin, end: Record("runtime", reported_at=9.0, gap=(begin, end)),
        st.one_of(st.just(-inf), TIMES),
        TIMES,
    ),
    st.builds(
        lambda since: Record(
            "runtime", reported_at=1.0, failure=Failure(FailureKind.TIMEOUT, "late", since, since)
        ),
        TIMES,
    ),
)


def anew(records: list[Record | None], worked: float) -> CommonFailure:
    begin, end = -inf, inf
    for record in records:
        if record is not None and record.reported_at is not None:
            start, stop = record.gap if record.failure is None else (record.failure.since, inf)
            begin, end = max(begin, start), min(end, stop)
    return CommonFailure(begin, end, worked if end == inf else -inf) if begin < end else NO_COMMON_FAILURE


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), RECORDS), max_size=80))
def test_it_is_as_found_from_all_of_them(steps: list[tuple[str, Record | None]]) -> None:
    stretches = Stretches()
    held: dict[str, Record | None] = {}
    for letter, record in steps:
        stretches.put(eid(letter), record)
        held[letter] = record
        assert stretches.common(7.0) == anew(list(held.values()), 7.0)
        assert len(stretches) <= 2 * len(held) + 17, "what is over is forgotten"
