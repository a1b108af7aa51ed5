"""What is said in the status of Istio's objects, beside what Istio says there itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xds_server.config.conditions import Conditions, condition
from xds_server.config.objects import DOCUMENTS_LABEL, dropped_fields, lacks_our_fields
from xds_server.config.pool_status import said

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from xds_server.config.problems import Problem

PREFIX = "xds-server.dev/"
"""Before the types of our conditions: the list is Istio's own."""

_WAY_OUT = f'write it in a ConfigMap with the label {DOCUMENTS_LABEL}: "true" instead'


def istio_conditions(value: Mapping[str, Any], problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Our conditions for an object of Istio's kinds, without times."""
    found = Conditions(value["metadata"].get("generation", 1))
    if problems:
        text = "; ".join(said(problem) for problem in sorted(problems))
        found.add(condition(f"{PREFIX}Accepted", "Invalid", text, status=False))
    else:
        found.add(condition(f"{PREFIX}Accepted", "Accepted", "in force"))
    if dropped := dropped_fields(value):
        text = f"the API server has dropped {', '.join(dropped)}, which Istio's CRD does not know; {_WAY_OUT}"
        found.add(condition(f"{PREFIX}FieldsKept", "DroppedByCRD", text, status=False))
    elif lacking := _telling(value):
        text = (
            f"without {', '.join(lacking)}, the header model is used; if you wrote it, Istio's CRD, which "
            f"does not know it, has dropped it: {_WAY_OUT}"
        )
        found.add(condition(f"{PREFIX}FieldsKept", "NotThere", text))
    return found.listed()


def _telling(value: Mapping[str, Any]) -> list[str]:
    """For a VirtualService: that it has no header mapping at all, which may be meant or lost."""
    return lacks_our_fields(value) if value.get("kind") == "VirtualService" else []
