from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from xds_server.demo import placement

replicas = st.integers(2, 6).map(lambda count: [f"127.0.0.1:{9001 + number}" for number in range(count)])
models = st.integers(1, 12).map(lambda count: [f"model-{number}" for number in range(count)])


@given(models, replicas)
def test_every_model_is_held_and_none_everywhere(names, where):
    placed = placement.first(names, where)
    assert list(placed) == names
    for held_by in placed.values():
        assert set(held_by) <= set(where)
        assert len(set(held_by)) == len(held_by) >= 1


@given(models, st.integers(3, 6).map(lambda count: [f"127.0.0.1:{9001 + number}" for number in range(count)]))
def test_moves_always_leave_a_holder_and_end_where_they_say(names, where):
    placed = placement.first(names, where)
    for number in range(20):
        move = placement.next_move(placed, where, number)
        assert move.source in placed[move.model]
        assert move.target not in placed[move.model]
        after = placement.moved(placed, move)
        assert move.target in after[move.model]
        assert move.source not in after[move.model]
        assert len(after[move.model]) == len(placed[move.model])
        assert all(after[other] == placed[other] for other in names if other != move.model)
        placed = after


def test_loaded_on_is_the_other_view():
    placed = {"a": ("x", "y"), "b": ("y",), "c": ("z",)}
    assert placement.loaded_on(placed, "y") == ["a", "b"]
