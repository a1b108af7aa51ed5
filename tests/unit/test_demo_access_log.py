from __future__ import annotations

import json

import pytest

from xds_server.demo import access_log
from xds_server.demo.access_log import AccessLog


def line(label, upstream="127.0.0.1:9001", **more):
    entry = {"path": f"/v2/models/m/infer?request={label}", "upstream": upstream, "code": 200, **more}
    return json.dumps(entry) + "\n"


async def test_the_replica_that_envoy_chose_is_found_by_the_label(tmp_path):
    path = tmp_path / "envoy.log"
    path.write_text("[info] starting\n" + line("a") + line("b", "127.0.0.1:9002") + line("c", None))
    log = AccessLog(path)
    assert await log.upstreams(["a", "b", "c"]) == {"a": "127.0.0.1:9001", "b": "127.0.0.1:9002", "c": ""}


async def test_a_line_that_is_still_being_written_is_awaited(tmp_path):
    path = tmp_path / "envoy.log"
    whole = line("a")
    path.write_text(whole[:20])
    log = AccessLog(path)
    log.read()
    assert log.lines == []
    with path.open("a") as file:
        file.write(whole[20:])
    assert await log.upstreams(["a"]) == {"a": "127.0.0.1:9001"}


async def test_other_json_lines_are_not_taken_for_requests(tmp_path):
    path = tmp_path / "envoy.log"
    path.write_text('{"level": "info"}\n' + json.dumps({"path": None, "upstream": None}) + "\n")
    log = AccessLog(path)
    log.read()
    assert len(log.lines) == 1


async def test_a_request_that_never_comes_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(access_log, "PATIENCE", 0.05)
    path = tmp_path / "envoy.log"
    path.write_text(line("a"))
    with pytest.raises(
        TimeoutError, match=r"1 of 2 requests are not in Envoy's access log .*, for example b"
    ):
        await AccessLog(path).upstreams(["a", "b"])


async def test_the_last_request_is_the_newest_line(tmp_path):
    path = tmp_path / "envoy.log"
    path.write_text(line("a") + line("b"))
    assert "request=b" in (await AccessLog(path).last())["path"]


async def test_an_empty_log_has_no_last_request(tmp_path):
    (tmp_path / "envoy.log").touch()
    with pytest.raises(TimeoutError, match="no request"):
        await AccessLog(tmp_path / "envoy.log").last()
