from __future__ import annotations

import json

import numpy as np
import pytest

from xds_server.demo import report
from xds_server.demo.placement import Move
from xds_server.demo.requests import Sample
from xds_server.demo.results import (
    Comparison,
    Matrix,
    MoveResult,
    Moves,
    Reading,
    Results,
    Run,
    Tally,
    Way,
    Ways,
    percentile_name,
    tally,
)

A, B = "127.0.0.1:9001", "127.0.0.1:9002"


def sample(label="1", model="m", status=200, forwarded_by=""):
    return Sample(label, model, 0.0, 0.0, 0.1, status, "replica-1", forwarded_by)


def test_what_is_answered_where_the_model_is_is_neither_failed_nor_astray():
    assert tally([sample()], {"1": A}, {"m": (A,)}) == Tally(1, 0, 0)
    assert tally([sample()]).clean


@pytest.mark.parametrize("status", [400, 404])
def test_refused_for_want_of_the_model_is_astray(status):
    found = tally([sample(status=status)])
    assert (found.failed, found.astray) == (0, 1)


def test_forwarded_is_astray_even_when_it_was_answered():
    assert tally([sample(forwarded_by="replica-2")]).astray == 1


def test_answered_by_a_replica_that_should_not_have_it_is_astray():
    assert tally([sample()], {"1": B}, {"m": (A,)}).astray == 1


@pytest.mark.parametrize("status", [0, 500, 503])
def test_no_answer_or_an_error_is_failed(status):
    found = tally([sample(status=status), sample()])
    assert (found.requests, found.failed, found.astray) == (2, 1, 0)
    assert found.examples
    assert not found.clean


def test_tallies_add_up_and_keep_some_examples():
    total = sum((tally([sample(status=503)]) for _ in range(9)), Tally())
    assert (total.requests, total.failed) == (9, 9)
    assert len(total.examples) == 5


def run(latency, forwarded, failed=0):
    count = len(latency)
    return Run(np.arange(count) / 100, np.array(latency), np.full(count, 0.1), np.array(forwarded), failed)


def comparison(after_forwarded=0):
    before = run([1.0 + number / 100 for number in range(400)], [number % 4 > 0 for number in range(400)])
    after = run(
        [0.7 + number / 200 for number in range(400)], [number < after_forwarded for number in range(400)]
    )
    return Comparison("tf-mnist", 100.0, before, after)


def test_percentiles_are_those_of_the_samples():
    found = comparison().before.percentiles()
    assert list(map(percentile_name, found)) == ["p50", "p75", "p90", "p99", "p99.9", "max"]
    assert found[50] == pytest.approx(2.995)
    assert found[100] == pytest.approx(4.99)
    assert comparison().before.share_forwarded == 0.75


def test_a_forwarded_request_counts_as_astray_after_but_not_before():
    assert comparison().tally == Tally(800, 0, 0)
    assert comparison(after_forwarded=2).tally.astray == 2


@pytest.fixture
def results():
    found = Results("embedded", {"Processor": "a <fast> one"}, {A: "replica-1", B: "replica-2"})
    found.reading = Reading("tf-mnist", 5, "replica-1", 3.2, Tally(1))
    found.matrix = Matrix(
        ("replica-1", "replica-2"),
        {"tf-mnist": {"replica-1": 24}, "<odd>": {"replica-1": 1, "replica-2": 23}},
        {"tf-mnist": ("replica-1",), "<odd>": ("replica-2",)},
        Tally(48, 0, 1),
    )
    found.ways = Ways("tf-mnist", (Way("gRPC", "ModelInfer", None, "replica-2", "<odd>"),), Tally(1, 1))
    moved = MoveResult(Move("tf-mnist", A, B), 50.0, 21.0, 3.0, 2.0, 1503.0, Tally(200))
    found.moves = Moves((moved,), Tally(300))
    found.comparison = comparison()
    found.seconds["Total"] = 61.4
    return found


def test_the_total_is_over_all_steps(results):
    assert results.tally == Tally(1 + 48 + 1 + 300 + 800, 1, 1)


def test_the_report_is_whole(results, tmp_path):
    page = report.write(tmp_path, results)
    for name in (report.HISTOGRAM, report.OVER_TIME):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((tmp_path / report.NUMBERS).read_text())
    assert numbers["latency"]["before"]["latency_ms"]["p50"] == pytest.approx(2.995)
    assert numbers["latency"]["after"]["share_forwarded"] == 0
    assert numbers["moves"]["results"][0]["routed"] == 21.0
    assert numbers["matrix"]["counts"]["tf-mnist"] == {"replica-1": 24}
    html = page.read_text()
    assert "replica-1 → replica-2" in html
    assert "61 s" in html
    assert html.count("data:image/png;base64,") == 2


def test_the_page_needs_nothing_else_and_escapes_names(results, tmp_path):
    html = report.write(tmp_path, results).read_text()
    assert "http://" not in html
    assert "https://" not in html
    assert "&lt;odd&gt;" in html
    assert "<odd>" not in html
    assert "a &lt;fast&gt; one" in html


def test_a_request_at_a_replica_without_its_model_is_marked_in_the_matrix(results, tmp_path):
    html = report.write(tmp_path, results).read_text()
    assert '<td class="wrong">1</td>' in html
    assert '<td class="loaded">23</td>' in html


def test_a_report_without_a_latency_test_can_be_written(tmp_path):
    page = report.write(tmp_path, Results("mlserver", {}, {}))
    assert "Before and after" not in page.read_text()
