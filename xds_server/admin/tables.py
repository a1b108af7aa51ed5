"""`xds-server status` as tables: right on a terminal of 80 columns, and in a pipe.

Nothing is cut: a table whose columns do not fit becomes a list, and long names are folded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from xds_server.admin import layouts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from xds_server.admin.kubernetes import KubernetesRecord
    from xds_server.admin.model import (
        ClientRecord,
        ClientTypeRecord,
        ConfigRecord,
        EndpointRecord,
        ImpliedRecord,
        KnownRecord,
        ServiceRecord,
        Status,
        WithdrawalRecord,
    )
    from xds_server.admin.told import RegistryRecord

_STYLES = {
    "OK": "green",
    "SYNCED": "green",
    "PENDING": "dim",
    "NOT_SENT": "dim",
    "SUSPECT": "yellow",
    "NOT_READY": "yellow",
    "TERMINATING": "yellow",
    "STALE": "yellow",
    "DOWN": "bold red",
    "ERROR": "bold red",
}

_ROUTED, _LOADED, _WITHDRAWN, _ABSENT = "x", "o", "w", "."
_AWAY = frozenset({"UNAVAILABLE", ""})
"""States of a model that is in the runtime's repository, but not loaded."""

_LEGEND = f"{_ROUTED} routed   {_LOADED} loaded or changing, not routed   {_WITHDRAWN} withdrawn"

_TYPES = ("CDS", "EDS", "LDS", "RDS")

_COLUMN = 4
"""Characters that a column of the matrix needs, for up to 99 replicas."""

_SECONDS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))


def console() -> Console:
    """Where tables go: standard output. Names are text, never markup."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=False)


def show(status: Status, out: Console) -> None:
    """Print the whole status. In a pipe no line ends in the blanks that pad a table."""
    if out.is_terminal:
        _sections(status, out)
        return
    with out.capture() as captured:
        _sections(status, out)
    out.file.writelines(line.rstrip() + "\n" for line in captured.get().splitlines())


def _sections(status: Status, out: Console) -> None:
    _overview(status, out)
    for service in status["services"]:
        _service(service, out)
    _withdrawals(status["withdrawals"], status["now"], out)
    _clients(status["clients"], out)
    _implied(status["implied"], out)


def plain(text: str) -> str:
    """`text` without what could steer a terminal: names and errors come from other machines."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def duration(seconds: float) -> str:
    """A time span in words, as precise as a person needs it."""
    for size, unit in _SECONDS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < _SECONDS[-1][0] / 6 else f"{seconds:.0f} s"


def _overview(status: Status, out: Console) -> None:
    up = duration(status["now"] - status["started_at"])
    line = Text(f"xds-server {status['version']}, up {up}, ")
    line.append(
        *(("ready", "green") if status["ready"] else (f"NOT READY: {plain(status['reason'])}", "bold red"))
    )
    out.print(line)
    _config(status["config"], status["now"], out)
    if (cluster := status.get("kubernetes")) is not None:
        _kubernetes(cluster, out)
    for registry in status.get("registries", []):
        _registry(registry, out)


def _config(config: ConfigRecord, now: float, out: Console) -> None:
    loaded = config["loaded_at"]
    when = "never loaded" if loaded is None else f"loaded {duration(now - loaded)} ago"
    count = len(config["problems"])
    out.print(f"documents: {plain(config['directory'])}, {when}" + ("" if count else ", no error"))
    if count:
        kept = "the documents loaded before stay in force" if loaded is not None else "nothing is in force"
        out.print(Text(f"the last load had {count} error{'s' * (count > 1)}; {kept}:", "bold red"))
        for problem in config["problems"]:
            out.print(_indented(plain(problem["text"])))


def _registry(registry: RegistryRecord, out: Console) -> None:
    """One line for each ModelMesh's registry, and one for each of its records that cannot be read."""
    where = f"ModelMesh of {plain(registry['service'])}"
    if registry["connected"]:
        age = duration(registry["heard_age_seconds"] or 0.0)
        out.print(f"{where}: {plain(registry['etcd'])}, heard {age} ago")
    else:
        lost = registry["lost_seconds"]
        since = "" if lost is None else f" for {duration(lost)}"
        out.print(Text(f"{where}: NOT READ{since}: {plain(registry['error'])}", "yellow"))
    for key, problem in registry["unreadable"].items():
        out.print(_indented(f"{plain(key)}: {plain(problem)}"))


def _kubernetes(cluster: KubernetesRecord, out: Console) -> None:
    """One line while all is well; else one for each watch that is not, and each service that is missing."""
    out.print(f"Kubernetes: {plain(cluster['server'])} by {plain(cluster['login'])}")
    for watch in cluster["watches"]:
        where = f"{watch['resource']} {watch['namespace'] and 'in ' + watch['namespace']}".rstrip()
        if watch["stale_seconds"] is not None:
            kept = f"{watch['objects']} objects stay in force" if watch["listed"] else "never listed"
            since = f"{watch['state']} for {duration(watch['stale_seconds'])}"
            out.print(Text(plain(f"  {where}: {since}, {kept}: {watch['error']}"), "yellow"))
        else:
            age = "" if watch["age_seconds"] is None else f", confirmed {duration(watch['age_seconds'])} ago"
            out.print(f"  {plain(where)}: {watch['state']}, {watch['objects']} objects{age}")
    for problem in cluster["problems"]:
        out.print(Text(f"  {plain(problem)}", "bold red"))


def _service(service: ServiceRecord, out: Console) -> None:
    out.print(Text(f"\nservice {plain(service['host'])}", "bold"))
    if service["pool"] is not None:
        out.print(f"ModelPool {plain(service['pool'])}, key {plain(service['subset_key'] or '')}")
    if (layout := service.get("layout")) is not None:
        out.print(layouts.said(layout))
    if service["stale"]:
        out.print(Text("STALE: no replica can be read; the last picture stays in force", "yellow"))
    if not service["known"]:
        out.print(Text("not known yet: no runtime has answered; Envoys keep what they have", "yellow"))
    if not service["endpoints"]:
        out.print("no endpoints")
        return
    _replicas(service["endpoints"], out)
    out.print()
    _models(service["endpoints"], out)
    _known(service["known_models"], out)


def _known(models: list[KnownRecord], out: Console) -> None:
    """The models that a ModelMesh knows and that no replica has; what is not even here is unknown."""
    absent = [model for model in models if model["state"] != "Loaded"]
    if models:
        out.print(Text(f"  {len(models)} models are known, {len(absent)} of them not loaded", "dim"))
    for model in absent:
        reason = f": {plain(model['reason'])}" if model["reason"] else ""
        out.print(_indented(f"{plain(model['name'])}: {model['state']}{reason}", 4))


def _replicas(endpoints: list[EndpointRecord], out: Console) -> None:
    zones = any(endpoint["zone"] for endpoint in endpoints)
    table = _table(["#:", "replica", *(["zone"] if zones else []), "health", "models:", "age:"])
    for number, endpoint in enumerate(endpoints, 1):
        age = endpoint["age_seconds"]
        table.add_row(
            str(number),
            plain(endpoint["endpoint"]),
            *([plain(endpoint["zone"])] if zones else []),
            _state(endpoint["health"]),
            str(len(endpoint["routed"])),
            "-" if age is None else duration(age),
        )
    out.print(table)
    for number, endpoint in enumerate(endpoints, 1):
        for line in _failures(endpoint):
            out.print(_indented(f"{number}: {line}"))


def _failures(endpoint: EndpointRecord) -> Iterator[str]:
    """What fails, in words; by source where several tell of the replica."""
    several = len(endpoint["sources"]) > 1
    for source in endpoint["sources"]:
        failure = source["failure"]
        if failure is not None:
            name = f"{plain(source['source'])} " if several else ""
            lasted = duration(source["stale_seconds"] or 0.0)
            yield f"{name}{failure['kind']} for {lasted}: {plain(failure['error'])}"


def _models(endpoints: list[EndpointRecord], out: Console) -> None:
    """Models against replicas: a matrix where it fits, else the numbers of the replicas."""
    marks = [_marks(endpoint) for endpoint in endpoints]
    names = sorted({name for each in marks for name in each})
    if not names:
        out.print("no model is known on any replica")
        return
    widest = max(len(plain(name)) for name in names)
    if min(widest, out.width // 2) + _COLUMN * (len(endpoints) + 1) <= out.width:
        table = _table(["model", *(f"{number}:" for number in range(1, len(endpoints) + 1))])
        for name in names:
            table.add_row(plain(name), *(_mark(each.get(name, _ABSENT)) for each in marks))
    else:
        table = _table(["model", "on:", "replicas"])
        for name in names:
            routed = [str(n) for n, each in enumerate(marks, 1) if each.get(name) == _ROUTED]
            table.add_row(plain(name), str(len(routed)), " ".join(_others(name, marks, routed)))
    out.print(table)
    out.print(Text("  " + _LEGEND, "dim"))


def _marks(endpoint: EndpointRecord) -> dict[str, str]:
    marks = {row["name"]: _ABSENT if row["state"] in _AWAY else _LOADED for row in endpoint["models"]}
    marks |= dict.fromkeys(endpoint["withdrawn"], _WITHDRAWN)
    return marks | dict.fromkeys(endpoint["routed"], _ROUTED)


def _others(name: str, marks: list[dict[str, str]], routed: Iterable[str]) -> list[str]:
    """The numbers of the replicas that the model is routed to, then the others with their mark."""
    others = (f"{n}{each[name]}" for n, each in enumerate(marks, 1) if each.get(name, _ROUTED) != _ROUTED)
    return [*routed, *others]


def _mark(mark: str) -> Text:
    return Text(mark, {_ROUTED: "green", _WITHDRAWN: "yellow", _LOADED: "", _ABSENT: "dim"}[mark])


def _withdrawals(withdrawals: list[WithdrawalRecord], now: float, out: Console) -> None:
    if not withdrawals:
        return
    out.print(Text("\nwithdrawals", "bold"))
    table = _table(["id", "model", "replica", "service", "for:"])
    for each in withdrawals:
        table.add_row(
            *(plain(text) for text in (each["id"], each["model"], each["endpoint"], each["service"])),
            duration(now - each["at"]),
        )
    out.print(table)


def _clients(clients: list[ClientRecord], out: Console) -> None:
    out.print(Text("\nEnvoys", "bold"))
    if not clients:
        out.print("none is connected")
        return
    table = _table(["client", "cluster", "xDS", *_TYPES, "connected:"])
    for client in clients:
        states = {each["type"]: each["state"] for each in client["types"]}
        table.add_row(
            plain(client["node"]),
            plain(client["cluster"]),
            client["variant"],
            *(_state(states.get(kind, "-")) for kind in _TYPES),
            duration(client["connected_seconds"]),
        )
    out.print(table)
    for client in clients:
        for each in client["types"]:
            if each["error"]:
                out.print(Text(_rejection(client, each), "red"))


def _rejection(client: ClientRecord, each: ClientTypeRecord) -> str:
    names = ", ".join(plain(name) for name in each["blamed"] or each["rejected_names"])
    ago = each["rejected_seconds_ago"]
    when = "" if ago is None else f" {duration(ago)} ago"
    error = plain((each["error"] or "").strip())
    return f"{plain(client['node'])} rejected {each['type']} {names}{when}: {error}"


def _implied(implied: list[ImpliedRecord], out: Console) -> None:
    if not implied:
        return
    out.print(Text("\nimplied, because no document says otherwise", "bold"))
    for each in implied:
        out.print(_indented(f"{each['kind']} {plain(each['name'])} (by {plain(each['implied_by'])})"))
        out.print(_indented(plain(each["text"]), 4))


def _indented(text: str, by: int = 2) -> Padding:
    return Padding(Text(text), (0, 0, 0, by))


def _state(state: str) -> Text:
    return Text(state, _STYLES.get(state, ""))


def _table(columns: list[str]) -> Table:
    """A table with these columns; a name that ends in `:` is a figure, set to the right and never folded."""
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for column in columns:
        figure = column.endswith(":")
        table.add_column(
            column.removesuffix(":"),
            justify="right" if figure else "left",
            no_wrap=figure,
            overflow="fold",
        )
    return table
