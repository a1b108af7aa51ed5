"""How pools are laid out in Envoy, as `/status` and the tables say it: what was chosen, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from xds_server.resources.layouts import Choice
    from xds_server.resources.service_state import ServiceState


class LayoutRecord(TypedDict):
    """A pool's layout. `asked`: as its document says; `clusters`: in force; `former`: not yet gone.

    `rebuild_ms`: how long Envoy is predicted to need for a change. `changes_per_second`: the step of the
    rate that was reckoned with, 0 for less than one.
    """

    asked: str
    layout: str
    clusters: int
    former: int
    rebuild_ms: float
    budget_ms: float
    changes_per_second: float
    models: int
    why: str


def record(state: ServiceState | None) -> LayoutRecord | None:
    """The record of a service; None where it holds no models or nothing was made of it yet."""
    if state is None or state.choice is None:
        return None
    choice: Choice = state.choice
    return {
        "asked": choice.asked.kind.value,
        "layout": choice.layout.kind.value,
        "clusters": len(state.laid.shards),
        "former": sum(len(each.shards) for each in state.former),
        "rebuild_ms": round(choice.rebuild * 1000, 3),
        "budget_ms": choice.asked.budget * 1000,
        "changes_per_second": choice.rate,
        "models": choice.size.models,
        "why": choice.why,
    }


def said(layout: LayoutRecord) -> str:
    """The record in one line."""
    clusters = f"{layout['clusters']} cluster{'s' * (layout['clusters'] != 1)}"
    former = f", {layout['former']} former ones going" if layout["former"] else ""
    chosen = "" if layout["asked"] == layout["layout"] else f" ({layout['asked']})"
    rate = layout["changes_per_second"]
    paced = f" at up to {rate:g} changes a second" if rate else ""
    return (
        f"layout {layout['layout']}{chosen}: {clusters}{former}; {layout['rebuild_ms']:.3g} ms predicted "
        f"for a change{paced}: {layout['why']}"
    )
