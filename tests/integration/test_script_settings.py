"""The settings of routes in Envoy's scripts: taken apart once, and not kept for ever (names.lua)."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import Any

import yaml

from tests.integration.envoy import Envoy
from tests.static_envoy import free_ports
from xds_server import resources

LUA = "envoy.filters.http.lua"
TYPES = "type.googleapis.com/envoy.extensions.filters."
ASKED = """
function envoy_on_request(h)
  local times = 0
  local found = settings_of(h, function(context)
    times = times + 1
    return { said = context:get("said") }
  end)
  h:respond({ [":status"] = "200" }, found.said .. ": read " .. times .. ", held " .. held)
end
"""


def bootstrap(port: int, routes: str, most: int) -> str:
    names = (Path(resources.__file__).with_name("names.lua")).read_text("utf-8")
    script = names.replace("{}, 0, 500\n", f"{{}}, 0, {most}\n")
    assert script != names
    manager: dict[str, Any] = {
        "@type": f"{TYPES}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "test",
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [_route(each) for each in routes]}]
        },
        "http_filters": [
            {
                "name": LUA,
                "typed_config": {
                    "@type": f"{TYPES}http.lua.v3.Lua",
                    "default_source_code": {"inline_string": script + ASKED},
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}http.router.v3.Router"},
            },
        ],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "all", "address": _address(port), "filter_chains": [{"filters": filters}]}
    return yaml.safe_dump(
        {"admin": {"address": _address(0)}, "static_resources": {"listeners": [listener]}},
    )


def _route(name: str) -> dict[str, Any]:
    settings = {
        "@type": f"{TYPES}http.lua.v3.LuaPerRoute",
        "filter_context": {"id": f"id of {name}", "said": name},
    }
    return {
        "match": {"path": f"/{name}"},
        "direct_response": {"status": 500},
        "typed_per_filter_config": {LUA: settings},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def test_settings_are_read_once_and_forgotten_when_there_are_many_of_them() -> None:
    (port,) = free_ports(1)
    with Envoy(bootstrap(port, "abc", most=2)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        said = []
        for name in "aabcca":
            connection.request("GET", f"/{name}")
            said.append(connection.getresponse().read().decode())
        connection.close()
    assert said == [
        "a: read 1, held 1",
        "a: read 0, held 1",
        "b: read 1, held 2",
        "c: read 1, held 1",
        "c: read 0, held 1",
        "a: read 1, held 2",
    ]
