"""The law and the plan: figures that were measured, orders that must hold, and what the command prints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds_server import cli
from xds_server.mesh.layout import BUDGET, MAX_SHARDS, LayoutKind
from xds_server.resources import law
from xds_server.resources.law import Size

sizes = st.builds(
    Size,
    endpoints=st.integers(1, 20_000),
    models=st.integers(1, 200_000),
    per_endpoint=st.floats(0, 200),
    everywhere=st.booleans(),
)


@pytest.mark.parametrize(
    ("endpoints", "each", "models", "shards", "milliseconds"),
    [
        (100, 20, 500, 1, 4.9),
        (500, 20, 2000, 1, 30),
        (1000, 20, 5000, 1, 115),
        (2000, 50, 10_000, 1, 445),
        (500, 20, 2000, 8, 3.3),
        (1000, 20, 5000, 16, 5.3),
        (1000, 20, 5000, 64, 0.84),
        (2000, 50, 10_000, 64, 4.1),
        (2000, 50, 10_000, 256, 0.75),
    ],
)
def test_the_law_is_near_what_was_measured(endpoints, each, models, shards, milliseconds):
    predicted = law.rebuild(Size(endpoints, models, each), shards) * 1000
    assert 0.75 < predicted / milliseconds < 1.4


@pytest.mark.parametrize(
    ("endpoints", "each", "models", "shards"),
    [
        (100, 20, 500, 1),
        (500, 20, 2000, 16),
        (999, 20, 5000, 32),
        (1000, 20, 5000, 64),
        (2000, 50, 10_000, 128),
        (10_000, 50, 100_000, 1024),
    ],
)
def test_the_fewest_shards_within_the_budget(endpoints, each, models, shards):
    assert law.fewest_shards(Size(endpoints, models, each), BUDGET) == shards


def test_large_pools_send_a_tenth_of_one_clusters_bytes():
    for size in (Size(1000, 5000, 20), Size(2000, 10_000, 50), Size(10_000, 100_000, 50)):
        shards = law.fewest_shards(size, BUDGET)
        assert law.change_bytes(size, shards) <= law.change_bytes(size, 1) / 10


@given(sizes, st.floats(1e-5, 1))
def test_the_number_of_shards_is_the_smallest_power_of_two_that_does(size, limit):
    shards = law.fewest_shards(size, limit)
    assert shards & (shards - 1) == 0
    if shards == 1 or law.rebuild(size, 1) <= limit:
        assert shards == 1
        assert law.rebuild(size, 1) <= limit * 1.01
        return
    within = limit * law.ROOM
    assert shards == MAX_SHARDS or law.rebuild(size, shards) <= within * 1.01
    if size.endpoints < law.LARGE_POOL or size.everywhere:
        assert law.rebuild(size, shards // 2) > within
    else:
        assert shards < 8 or law.rebuild(size, shards // 8) > within


@given(sizes, st.integers(0, 9))
def test_more_shards_never_cost_more_time(size, power):
    assert law.rebuild(size, 2 ** (power + 1)) <= law.rebuild(size, 2**power) * (1 + 1e-9)


def test_a_frequent_change_has_to_be_a_cheaper_one():
    assert law.allowed(BUDGET, 0) == law.allowed(BUDGET, 10) == BUDGET
    assert law.allowed(BUDGET, 20) == pytest.approx(0.0025)


def test_auto_has_no_cost_of_its_own():
    with pytest.raises(ValueError, match="a choice between layouts"):
        law.predict(Size(1, 1, 1), LayoutKind.AUTO)


def run(capsys, *options):
    assert (
        cli.main(["plan", "--endpoints", "1000", "--models", "5000", "--per-endpoint", "20", *options]) == 0
    )
    return capsys.readouterr().out


def test_plan_as_json(capsys):
    plan = json.loads(run(capsys, "--changes-per-second", "1", "--format", "json"))
    assert plan["layout"]["layout"] == "sharded"
    assert plan["layout"]["clusters"] == 64
    assert plan["layout"]["rebuild_ms"] == pytest.approx(1.05, abs=0.01)
    single, per_model = plan["other_layouts"]
    assert (single["layout"], single["rebuild_ms"]) == ("single", 140)
    assert (per_model["layout"], per_model["clusters"], per_model["connections"]) == (
        "perModel",
        5000,
        20_000,
    )
    assert plan["layout"]["bytes_per_change"] * 10 < single["bytes_per_change"]
    assert len(plan["why"]) == 1


def test_plan_as_text_says_what_was_chosen_and_why(capsys):
    text = run(capsys, "--changes-per-second", "20", "--budget-ms", "4")
    (chosen,) = [line for line in text.splitlines() if line.startswith("*")]
    assert chosen.split()[1:3] == ["sharded", "64"]
    assert "20 changes a second may take 5% of a worker's time: 2.5 ms for each" in text
    assert "the smallest power of two" in text


def test_plan_says_what_no_number_of_clusters_can_do(capsys):
    text = run(capsys, "--changes-per-second", "5000")
    assert "even 1024 clusters stay above it" in text
    assert "they are spaced and merged" in text


def test_a_miss_that_may_go_anywhere_needs_more_clusters(capsys):
    found = [
        json.loads(run(capsys, "--changes-per-second", "1", "--format", "json", *more))["layout"]
        for more in ([], ["--any-endpoint"])
    ]
    assert found[0]["memory_bytes"] < found[1]["memory_bytes"]
    assert found[0]["rebuild_ms"] < found[1]["rebuild_ms"]
