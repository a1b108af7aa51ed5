"""A status that is wanted beside the one that is there: what to write, and whether anything need be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Value = dict[str, Any]


def with_times(wanted: Iterable[Mapping[str, Any]], there: object, now: str) -> list[Value]:
    """The conditions with the times of their last transitions.

    One whose status is what it was keeps its time, whoever wrote it; so servers do not overwrite each other.
    """
    before = {each.get("type"): each for each in _dicts(there)}
    made = []
    for each in wanted:
        old = before.get(each["type"], {})
        kept = old.get("lastTransitionTime") if old.get("status") == each["status"] else None
        made.append({**each, "lastTransitionTime": kept or now})
    return made


def complete(wanted: Any, there: Any, now: str) -> Any:
    """`wanted` with times in every list of conditions in it; `there` is the present value at that place."""
    if isinstance(wanted, dict):
        old = there if isinstance(there, dict) else {}
        return {
            key: with_times(each, old.get(key), now)
            if key == "conditions"
            else complete(each, old.get(key), now)
            for key, each in wanted.items()
        }
    if isinstance(wanted, list):
        return [complete(each, _counterpart(each, there), now) for each in wanted]
    return wanted


def holds(wanted: Any, there: Any) -> bool:
    """Whether all that is wanted is there already; more may be, that others wrote."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            key in there and holds(each, there[key]) for key, each in wanted.items()
        )
    if isinstance(wanted, list):
        return isinstance(there, list) and all(
            holds(each, _counterpart(each, there)) if _identity(each) else each in there for each in wanted
        )
    return bool(wanted == there)


def _counterpart(item: Any, there: Any) -> Any:
    """The item of a list of the same identity, or None."""
    identity = _identity(item)
    if identity is None:
        return None
    return next((each for each in _dicts(there) if _identity(each) == identity), None)


_KEYS: tuple[Callable[[Mapping[str, Any]], Any], ...] = (
    lambda item: item.get("type"),
    lambda item: item.get("name"),
    lambda item: (item["controllerName"], item["parentRef"]) if "parentRef" in item else None,
)


def _identity(item: Any) -> Any:
    """What an item of a list is found by: a condition's type, a name, a parent."""
    if not isinstance(item, dict):
        return None
    return next((found for found in (key(item) for key in _KEYS) if found), None)


def _dicts(value: object) -> list[Value]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
