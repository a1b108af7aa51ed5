from __future__ import annotations

import pytest

from xds_server.demo.results import Tally, Way
from xds_server.demo.ways import judged

HOLDERS = ["replica-2"]


def way(digit=5, replica="replica-2", found="grpc"):
    return Way("gRPC", "model_name: tf-mnist", digit, replica, found)


def test_answered_on_a_holder_by_the_name_where_it_was_put_is_clean():
    assert judged(way(), HOLDERS, "grpc") == Tally(1)


@pytest.mark.parametrize("wrong", [way(digit=None), way(found="path"), way(found="nowhere")])
def test_no_answer_or_a_name_found_elsewhere_is_failed(wrong):
    found = judged(wrong, HOLDERS, "grpc", "503 no healthy upstream")
    assert (found.requests, found.failed, found.astray) == (1, 1, 0)
    assert "503 no healthy upstream" in found.examples[0]


@pytest.mark.parametrize("replica", ["replica-1", "none"])
def test_a_replica_without_the_model_is_astray_whatever_it_answered(replica):
    found = judged(way(replica=replica), HOLDERS, "grpc")
    assert (found.failed, found.astray, found.clean) == (0, 1, False)
