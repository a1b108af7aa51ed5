"""`xds-server status` as text: the whole of it by snapshot, and what must hold for any status."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from xds_server.admin import tables

LONG = "team/a-model-with-a-rather-long-name/and.a.path-v17"


def endpoint(number: int, **more: Any) -> dict[str, Any]:
    return {
        "endpoint": f"10.0.0.{number}:9001",
        "ports": {"http": 9001},
        "labels": {},
        "zone": "",
        "health": "OK",
        "models": [],
        "routed": [],
        "withdrawn": [],
        "source": "open-inference",
        "reported_at": 990.0,
        "age_seconds": 0.412,
        "failure": None,
        "sources": [],
    } | more


def source(name: str, **more: Any) -> dict[str, Any]:
    return {"source": name, "rows": 1, "stale_seconds": None, "failure": None} | more


def row(name: str, state: str = "READY") -> dict[str, str]:
    return {"name": name, "version": "", "state": state, "reason": ""}


def service(*endpoints: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "host": "modelmesh-serving",
        "namespace": "ns",
        "pool": "ns/models",
        "subset_key": "modelmesh.asm.alibabacloud.com",
        "known": True,
        "stale": False,
        "known_models": [],
        "endpoints": list(endpoints),
    } | more


def kind(name: str, state: str = "SYNCED", **more: Any) -> dict[str, Any]:
    rejected: dict[str, Any] = {"rejected_names": [], "blamed": [], "rejected_seconds_ago": None}
    return {"type": name, "state": state, "error": None} | rejected | more


def client(node: str, *types: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"{node}/1",
        "node": node,
        "cluster": "gateway",
        "variant": "delta",
        "connected_seconds": 3700.0,
        "types": list(types),
    }


def status(**more: Any) -> dict[str, Any]:
    return {
        "version": "1.2.3",
        "started_at": 700.0,
        "now": 1000.0,
        "ready": True,
        "reason": "serving",
        "config": {"directory": "conf", "loaded_at": 880.0, "problems": []},
        "implied": [],
        "services": [],
        "models": {},
        "withdrawals": [],
        "clients": [],
    } | more


def shown(document: dict[str, Any], width: int = 80) -> str:
    out = Console(
        file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False, force_terminal=False
    )
    tables.show(document, out)  # type: ignore[arg-type]
    text: str = out.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_of_several_sources_the_failing_one_is_named() -> None:
    failure = {"kind": "lost", "error": "etcd is out of reach", "since": 940.0, "last": 940.0}
    lines = shown(
        status(
            services=[
                service(
                    endpoint(
                        1,
                        health="STALE",
                        sources=[source("modelmesh", failure=failure, stale_seconds=60.0), source("report")],
                    )
                )
            ]
        )
    )
    assert "1: modelmesh lost for 1 min: etcd is out of reach" in lines


def test_a_registry_that_is_read_and_one_that_is_not() -> None:
    read = {
        "service": "models",
        "etcd": "10.0.0.9:2379",
        "connected": True,
        "error": "",
        "heard_age_seconds": 2.0,
        "lost_seconds": None,
        "listings": 1,
        "unreadable": {"registry/m": "found no JSON"},
    }
    lost = read | {"connected": False, "error": "UNAVAILABLE", "lost_seconds": 60.0, "unreadable": {}}
    lines = shown(status(registries=[read, lost]))
    assert "ModelMesh of models: 10.0.0.9:2379, heard 2.0 s ago\n  registry/m: found no JSON\n" in lines
    assert "ModelMesh of models: NOT READ for 1 min: UNAVAILABLE\n" in lines


def test_known_models_that_are_not_loaded_are_told_with_their_states() -> None:
    known = [
        {"name": "bad", "state": "FailedToLoad", "reason": "no such file"},
        {"name": "rest", "state": "Standby", "reason": ""},
        {"name": "tf-mnist", "state": "Loaded", "reason": ""},
    ]
    lines = shown(status(services=[service(endpoint(1, routed=["tf-mnist"]), known_models=known)]))
    assert "3 models are known, 2 of them not loaded" in lines
    assert "    bad: FailedToLoad: no such file\n    rest: Standby\n" in lines
    assert "tf-mnist: Loaded" not in lines


def test_the_whole_status() -> None:
    failure = {"kind": "timeout", "error": "no answer within 2 s", "since": 985.0, "last": 997.0}
    problem = {"text": "zz.yaml:7: document 2 (Gateway ns/g), spec.servers: found nothing; expected a list"}
    document = status(
        config={"directory": "conf", "loaded_at": 880.0, "problems": [problem]},
        services=[
            service(
                endpoint(1, models=[row("tf-mnist")], withdrawn=["tf-mnist"], zone="a"),
                endpoint(2, models=[row("tf-mnist"), row("sk", "LOADING")], routed=["tf-mnist"], zone="b"),
                endpoint(
                    3,
                    models=[row("sk"), row("old", "UNAVAILABLE")],
                    routed=["sk"],
                    health="SUSPECT",
                    failure=failure,
                    sources=[source("open-inference", failure=failure, stale_seconds=15.0)],
                    age_seconds=75.0,
                ),
            ),
            service(endpoint(4, health="PENDING", age_seconds=None), host="other", pool=None, known=False),
            service(host="empty", pool=None),
        ],
        withdrawals=[
            {"id": "a1b2", "model": "tf-mnist", "endpoint": "10.0.0.1:9001", "service": "s", "at": 997.5}
        ],
        clients=[
            client("envoy-1", kind("CDS"), kind("EDS", "STALE")),
            client("envoy-2", kind("EDS", "ERROR", error="bad weight\n", rejected_names=["x|8033"])),
        ],
        implied=[
            {"kind": "DestinationRule", "name": "ns/m", "implied_by": "ModelPool ns/m", "text": "by its key"}
        ],
    )
    assert shown(document) == (
        """\
xds-server 1.2.3, up 5 min, ready
documents: conf, loaded 2 min ago
the last load had 1 error; the documents loaded before stay in force:
  zz.yaml:7: document 2 (Gateway ns/g), spec.servers: found nothing; expected a
  list

service modelmesh-serving
ModelPool ns/models, key modelmesh.asm.alibabacloud.com
#   replica         zone   health    models     age
───────────────────────────────────────────────────
1   10.0.0.1:9001   a      OK             0   0.4 s
2   10.0.0.2:9001   b      OK             1   0.4 s
3   10.0.0.3:9001          SUSPECT        1   1 min
  3: timeout for 15 s: no answer within 2 s

model      1   2   3
────────────────────
old        .   .   .
sk         .   o   x
tf-mnist   w   x   .
  x routed   o loaded or changing, not routed   w withdrawn

service other
not known yet: no runtime has answered; Envoys keep what they have
#   replica         health    models   age
──────────────────────────────────────────
1   10.0.0.4:9001   PENDING        0     -

no model is known on any replica

service empty
no endpoints

withdrawals
id     model      replica         service     for
─────────────────────────────────────────────────
a1b2   tf-mnist   10.0.0.1:9001   s         2.5 s

Envoys
client    cluster   xDS     CDS      EDS     LDS   RDS   connected
──────────────────────────────────────────────────────────────────
envoy-1   gateway   delta   SYNCED   STALE   -     -           1 h
envoy-2   gateway   delta   -        ERROR   -     -           1 h
envoy-2 rejected EDS x|8033: bad weight

implied, because no document says otherwise
  DestinationRule ns/m (by ModelPool ns/m)
    by its key
"""
    )


def test_nothing_yet() -> None:
    document = status(
        ready=False,
        reason="every runtime is being asked once",
        config={"directory": "c", "loaded_at": None, "problems": []},
    )
    assert shown(document) == (
        "xds-server 1.2.3, up 5 min, NOT READY: every runtime is being asked once\n"
        "documents: c, never loaded, no error\n\nEnvoys\nnone is connected\n"
    )


def test_many_replicas_become_a_list() -> None:
    endpoints = [endpoint(n, models=[row("m")], routed=["m"] if n != 7 else []) for n in range(1, 31)]
    endpoints[6]["withdrawn"] = ["m"]
    text = shown(status(services=[service(*endpoints)]))
    numbers = " ".join(str(n) for n in range(1, 31) if n != 7) + " 7w"
    assert "m       29   1 2 3" in text
    assert numbers.split() == text.split("m       29")[1].split("x routed")[0].split()


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("count", [1, 12, 40])
def test_no_line_is_too_wide_and_no_name_is_cut(width: int, count: int) -> None:
    endpoints = [endpoint(n, models=[row(LONG)], routed=[LONG]) for n in range(1, count + 1)]
    text = shown(status(services=[service(*endpoints)], clients=[client(LONG, kind("EDS"))]), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    if width >= 80:
        assert LONG[:20] in text
        assert LONG[-4:] in text


def test_a_stale_pool_says_so() -> None:
    assert "STALE: no replica can be read" in shown(status(services=[service(endpoint(1), stale=True)]))


def test_names_cannot_steer_the_terminal_or_be_markup() -> None:
    evil = "[bold]x[/bold]\x1b[2J\r"
    text = shown(status(services=[service(endpoint(1, models=[row(evil)], routed=[evil]))]))
    assert "\x1b" not in text
    assert r"[bold]x[/bold]\x1b[2J\r" in text


def test_colours_on_a_terminal_only() -> None:
    out = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    tables.show(status(), out)  # type: ignore[arg-type]
    assert "\x1b[32mready" in out.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in shown(status())


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (10.4, "10 s"),
        (59, "59 s"),
        (60, "1 min"),
        (7200, "2 h"),
        (3e5, "3 d"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert tables.duration(seconds) == said


def test_a_rejection_is_shown_with_what_it_is_about_and_since_when() -> None:
    rejected = kind(
        "EDS",
        "ERROR",
        error="cluster y: bad weight",
        rejected_names=["x", "y"],
        blamed=["y"],
        rejected_seconds_ago=90.0,
    )
    text = shown(status(clients=[client("envoy-2", rejected)]))
    assert "envoy-2 rejected EDS y 2 min ago: cluster y: bad weight" in text
