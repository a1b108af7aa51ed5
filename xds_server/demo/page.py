"""The report as one HTML page that needs nothing else: pictures are inside it."""

from __future__ import annotations

import base64
from html import escape
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from xds_server.demo.options import MLSERVER
from xds_server.demo.results import percentile_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from xds_server.demo.results import Comparison, Matrix, Moves, Results, Tally, Ways

TEMPLATE = "page.html"

SHARED_NOTE = """
Load generator, Envoy, server and replicas shared the same cores, and the network is the loopback: between
machines a hop costs more, and a replica does not compete with the one that forwards to it. Whatever else ran
on this machine meanwhile is in the numbers too, and the two runs came one after the other.
"""
OPEN_LOOP_NOTE = """
Requests left at fixed times, whether or not earlier ones had been answered (open loop). Latency counts from
the moment at which a request was due, so that neither a stall of the service nor a late generator is hidden.
"""
SHORT_NOTE = """
Each run is short: its 99.9th percentile rests on the slowest {slowest} of its requests, its maximum on one.
"""
EMBEDDED_NOTE = """
The replicas are the demo's own embedded runtime: a stand-in for a multi-model runtime with ModelMesh-style
forwarding. Its models are scikit-learn classifiers that really compute; <code>tf-mnist</code> is a small
scikit-learn network under the name that the well-known walk-through uses.
"""
MLSERVER_NOTE = """
The replicas are real MLServer processes. MLServer does not forward, so in the latency test a small proxy
before each replica does. The proxies are there in both runs: what differs is the routing alone.
"""
COMPARISON_TEXT = """
<p>The same request for <code>{model}</code>, {rate:g} times a second. <span class="before">Before</span>:
Envoy knows nothing of models; a replica without the model forwards the request to one that has it.
<span class="after">After</span>: Envoy picks a replica that has it.</p>
"""
MATRIX_TEXT = """
<p>Requests for each model, by the replica that Envoy sent them to. Green: the model is loaded there.</p>
"""
MOVES_TEXT = """
<p>Loaded at the target, READY, published; then withdrawn at the source, acknowledged by Envoy, settled,
drained, unloaded. Requests for all models ran all the while, and a stream for the model that moved: it was
routed when the first of them was answered by the new holder.</p>
"""


def render(results: Results, pictures: Sequence[Path]) -> str:
    """The page. `pictures`: PNG files of the latency test."""
    parts = [_tiles(results)]
    if results.comparison is not None:
        parts.append(_comparison(results.comparison, pictures))
    if results.matrix is not None:
        parts.append(_matrix(results.matrix))
    if results.ways is not None:
        parts.append(_ways(results.ways))
    if results.moves is not None:
        parts.append(_moves(results.moves, results))
    parts += [_notes(results), _machine(results)]
    template = resources.files("xds_server.demo").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return Template(template).substitute(body="\n".join(parts))


def _tile(number: str, text: str) -> str:
    return f'<div class="tile"><b>{number}</b><span>{text}</span></div>'


def _tiles(results: Results) -> str:
    tally = results.tally
    tiles = [
        _tile(str(tally.requests), "requests in all steps"),
        _tile(str(tally.failed), "failed"),
        _tile(str(tally.astray), "astray: at a replica without their model"),
    ]
    if results.comparison is not None:
        before, after = results.comparison.before.percentiles(), results.comparison.after.percentiles()
        tiles.append(_tile(f"{before[50]:.1f} → {after[50]:.1f} ms", "median latency, before and after"))
    if results.reading is not None:
        reading = results.reading
        about = f"is what {escape(reading.model)} reads in the seed's request ({reading.replica})"
        tiles.append(_tile(str(reading.digit), about))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _section(title: str, *content: str) -> str:
    return f"<section><h2>{title}</h2>{''.join(content)}</section>"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """`rows` hold whole cells (`<td>..</td>`)."""
    heads = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(*values: str) -> list[str]:
    return [f"<td>{value}</td>" for value in values]


def _said(tally: Tally) -> str:
    said = f"{tally.requests} requests, {tally.failed} failed, {tally.astray} astray."
    return f'<p class="{"soft" if tally.clean else "bad"}">{said}</p>'


def _comparison(comparison: Comparison, pictures: Sequence[Path]) -> str:
    before, after = comparison.before, comparison.after
    rows = []
    for (percentile, old), new in zip(
        before.percentiles().items(), after.percentiles().values(), strict=True
    ):
        change = f"{(new - old) / old:+.0%}"
        rows.append(_cells(percentile_name(percentile), f"{old:.2f} ms", f"{new:.2f} ms", change))
    rows.append(_cells("forwarded", f"{before.share_forwarded:.1%}", f"{after.share_forwarded:.1%}", ""))
    rows.append(_cells("failed", str(before.failed), str(after.failed), ""))
    head = ("latency", '<span class="before">before</span>', '<span class="after">after</span>', "change")
    images = [_image(path) for path in pictures]
    text = COMPARISON_TEXT.format(model=escape(comparison.model), rate=comparison.rate)
    return _section("Before and after", text, _table(head, rows), *images)


def _image(path: Path) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{escape(path.stem)}" src="data:image/png;base64,{content}">'


def _matrix(matrix: Matrix) -> str:
    rows = []
    for model, counts in matrix.counts.items():
        cells = [f"<td><code>{escape(model)}</code></td>"]
        for replica in matrix.replicas:
            count, loaded = counts.get(replica, 0), replica in matrix.placement[model]
            kind = "loaded" if loaded else ("wrong" if count else "none")
            cells.append(f'<td class="{kind}">{count or ("0" if loaded else "·")}</td>')
        rows.append(cells)
    return _section(
        "Every model, and who answered",
        MATRIX_TEXT,
        _table(("model", *matrix.replicas), rows),
        _said(matrix.tally),
    )


def _ways(ways: Ways) -> str:
    rows = [
        _cells(
            way.name, f"<code>{escape(way.request)}</code>", str(way.digit), way.replica, escape(way.found)
        )
        for way in ways.ways
    ]
    head = ("way", "model named as", "digit read", "answered by", "found by Envoy in")
    return _section("One request, its model named in four ways", _table(head, rows), _said(ways.tally))


def _moves(moves: Moves, results: Results) -> str:
    name = results.names.get
    rows = [
        _cells(
            f"<code>{escape(result.move.model)}</code>",
            f"{name(result.move.source)} → {name(result.move.target)}",
            f"{result.loading:.0f} ms",
            f"<b>{result.routed:.0f} ms</b>",
            f"{result.acknowledged:.0f} ms",
            f"{result.last_at_source:.0f} ms",
            f"{result.unloading / 1000:.1f} s",
        )
        for result in moves.results
    ]
    head = (
        "model",
        "move",
        "load",
        "READY to routed",
        "withdrawal acknowledged",
        "last request at source",
        "unload",
    )
    return _section(
        "Models that moved while requests ran", MOVES_TEXT, _table(head, rows), _said(moves.tally)
    )


def _notes(results: Results) -> str:
    slowest = 1 if results.comparison is None else max(1, round(len(results.comparison.after.latency) / 1000))
    notes = [SHARED_NOTE, OPEN_LOOP_NOTE, SHORT_NOTE.format(slowest=slowest)]
    notes.append(MLSERVER_NOTE if results.runtime == MLSERVER else EMBEDDED_NOTE)
    if results.comparison is not None:
        late = max(
            run.percentiles_late()[99] for run in (results.comparison.before, results.comparison.after)
        )
        notes.append(f"The generator itself sent 99 % of the requests less than {late:.2f} ms late.")
    items: Callable[[str], str] = "<li>{}</li>".format
    return _section("How far to trust these numbers", f"<ul>{''.join(map(items, notes))}</ul>")


def _machine(results: Results) -> str:
    facts = {**results.machine, **{what: f"{seconds:.0f} s" for what, seconds in results.seconds.items()}}
    pairs = "".join(f"<dt>{escape(what)}</dt><dd>{escape(value)}</dd>" for what, value in facts.items())
    return _section("Machine and versions", f"<dl>{pairs}</dl>")
