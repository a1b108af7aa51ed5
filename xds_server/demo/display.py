"""The demo's terminal: progress while something runs, tables of what was found. Rich does the drawing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from xds_server.demo.results import percentile_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from xds_server.demo.results import Comparison, Matrix, MoveResult, Moves, Reading, Tally, Ways


class Display:
    """What the person who runs the demo sees."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=4,
        )

    @contextmanager
    def running(self, what: str) -> Iterator[Callable[[float], None]]:
        """Shows `what` with a bar until the block ends; yields a function that takes the share done."""
        if not self.console.is_terminal:
            self.console.print(f"  {what} ...", highlight=False)
            yield lambda _: None
            return
        with self._progress:
            task: TaskID = self._progress.add_task(what, total=None)

            def advance(share: float) -> None:
                self._progress.update(task, total=1.0, completed=share)

            try:
                yield advance
            finally:
                self._progress.remove_task(task)

    def say(self, text: str) -> None:
        """One line, or several."""
        self.console.print(text, highlight=False, soft_wrap=True)

    def heading(self, number: int, text: str) -> None:
        """The beginning of a step."""
        self.console.print()
        self.console.rule(f"[bold]{number}. {text}", align="left", style="dim")

    def reading(self, reading: Reading) -> None:
        """Step 1."""
        self.say(
            f"  The seed's request, model [bold]{reading.model}[/]: reads a [bold green]{reading.digit}[/], "
            f"answered by [bold]{reading.replica}[/] in {reading.milliseconds:.1f} ms."
        )

    def matrix(self, matrix: Matrix) -> None:
        """Step 2: requests answered by each replica; a framed number is where the model is loaded."""
        table = Table(box=None, padding=(0, 2), header_style="bold")
        table.add_column("model", no_wrap=True)
        for replica in matrix.replicas:
            table.add_column(replica, justify="right", no_wrap=True)
        for model, counts in matrix.counts.items():
            cells = []
            for replica in matrix.replicas:
                count, loaded = counts.get(replica, 0), replica in matrix.placement[model]
                style = "bold green" if loaded else ("bold red" if count else "dim")
                cells.append(f"[{style}]{escape(f'[{count}]') if loaded else count or '·'}[/]")
            table.add_row(model, *cells)
        self.console.print(table)
        self.say(f"  [dim]{escape('[n]')}: loaded there.[/] {tally_text(matrix.tally)}")

    def ways(self, ways: Ways) -> None:
        """Step 3: what was sent, and where Envoy found the name."""
        table = Table(box=None, padding=(0, 1, 0, 2), header_style="bold")
        for column in ("way", "model named as", "reads", "replica", "found by Envoy in"):
            table.add_column(column, no_wrap=True)
        for way in ways.ways:
            digit = "[bold red]-[/]" if way.digit is None else f"[bold green]{way.digit}[/]"
            table.add_row(way.name, escape(way.request), digit, way.replica, escape(way.found))
        self.console.print(table)
        self.say(f"  {tally_text(ways.tally)}")

    def moves_heading(self) -> None:
        """Step 4, above the moves: a line of each fits 80 columns."""
        self.say(
            f"  [bold]{'model':<19}{'move':<22}{'routed':>8}{'ack':>7}{'last':>7}{'load':>8}{'unload':>7}[/]"
        )

    def move(self, result: MoveResult, name: Callable[[str], str]) -> None:
        """Step 4, one move."""
        move = result.move
        self.say(
            f"  {move.model:<19}{name(move.source) + ' -> ' + name(move.target):<22}"
            f"[bold]{result.routed:5.0f} ms[/]{result.acknowledged:4.0f} ms{result.last_at_source:4.0f} ms"
            f"{result.loading:5.0f} ms{result.unloading / 1000:5.1f} s"
        )

    def moves(self, moves: Moves) -> None:
        """Step 4, all together."""
        self.say(
            "  [dim]routed: from READY at the new replica to its first answer\n"
            "  ack, last: from the call to unload to Envoy's acknowledgement, and to the old\n"
            "  replica's last request[/]"
        )
        self.say(f"  {len(moves.results)} moves. {tally_text(moves.tally)}")

    def comparison(self, comparison: Comparison) -> None:
        """Step 5: both runs side by side."""
        table = Table(box=None, padding=(0, 2), header_style="bold")
        table.add_column("latency")
        table.add_column("before (no subsets)", justify="right")
        table.add_column("after (subsets)", justify="right")
        table.add_column("change", justify="right")
        before, after = comparison.before.percentiles(), comparison.after.percentiles()
        for percentile, old in before.items():
            new = after[percentile]
            table.add_row(
                percentile_name(percentile), f"{old:.2f} ms", f"{new:.2f} ms", f"{(new - old) / old:+.0%}"
            )
        shares = (comparison.before.share_forwarded, comparison.after.share_forwarded)
        table.add_row("forwarded", *(f"{share:.1%}" for share in shares), "")
        table.add_row("failed", str(comparison.before.failed), str(comparison.after.failed), "")
        self.console.print(table)
        if any(after[percentile] >= before[percentile] for percentile in (50.0, 99.0)):
            self.say(
                "  [yellow]Not faster throughout: that happens while the machine is busy with something\n"
                "  else (docs/demo.md, How the latency is measured).[/]"
            )


def tally_text(tally: Tally) -> str:
    """`312 requests, none failed, none astray.`, in colours."""
    failed = f"[bold red]{tally.failed} failed[/]" if tally.failed else "[green]none failed[/]"
    astray = f"[bold red]{tally.astray} astray[/]" if tally.astray else "[green]none astray[/]"
    examples = "".join(f"\n    [red]{escape(example)}[/]" for example in tally.examples)
    return f"{tally.requests} requests, {failed}, {astray}.{examples}"
