"""How a route lets Envoy choose a cluster by the request's model, where a pool has several.

Sharded: among clusters of equal weight, by the hash of the header that holds the name; the same header
becomes the subset metadata, so the shard that Envoy picks is the one that the model was put in
(shards.py). Order and weights are part of that contract.

A cluster for each model: by the name itself, behind a prefix of ours. The choice is made by a script of
the route and not by a header that the listener makes, because then a change of layout is a change of the
routes alone, which Envoy applies at once for old connections and new ones. The prefix is a security need:
without it a request could name any cluster, such as the xDS server's.

A request that names no model goes to a cluster that has every endpoint and no model, where the pool's
rule says what becomes of it, just as in a pool that is not split.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.router.cluster_specifiers.lua.v3 as lua
import envoy_data_plane.envoy.type.matcher.v3 as matcher

from xds_server.mesh.layout import LayoutKind
from xds_server.resources import names
from xds_server.resources.parts import extension

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.resources.shards import Sharding, Target

_WEIGHT = 1
"""Of each shard. The sum of all, modulo which Envoy takes the hash, is then the number of shards."""

_SCRIPT = """\
local prefix, rest, names = %s, %s, {%s}
function envoy_on_route(request)
  local headers = request:headers()
  for _, name in ipairs(names) do
    local model = headers:get(name)
    if model ~= nil and model ~= "" then
      local cluster = prefix .. model
      if request:getCluster(cluster) ~= nil then return cluster end
      return rest
    end
  end
  return rest
end
"""


def unnamed(headers: Sequence[str]) -> list[route_v3.HeaderMatcher]:
    """Match requests that name no model: all of the headers are absent or empty."""
    nothing = matcher.StringMatcher(exact="")
    return [
        route_v3.HeaderMatcher(name=header, string_match=nothing, treat_missing_header_as_empty=True)
        for header in headers
    ]


def to_rest(action: route_v3.RouteAction, target: Target) -> None:
    """Lead to the cluster that has every endpoint and no model."""
    action.cluster = names.rest_cluster(*target)


def to_model(
    action: route_v3.RouteAction, target: Target, sharding: Sharding, headers: Sequence[str]
) -> None:
    """Lead to the cluster of the model that the first of `headers` names which is there."""
    if sharding.layout(target[0]).kind is LayoutKind.PER_MODEL:
        _by_name(action, target, headers)
        return
    policies = [
        route_v3.RouteActionHashPolicy(
            header=route_v3.RouteActionHashPolicyHeader(header_name=header), terminal=True
        )
        for header in headers
    ]
    to_shard(action, target, sharding, policies)


def to_shard(
    action: route_v3.RouteAction,
    target: Target,
    sharding: Sharding,
    policies: list[route_v3.RouteActionHashPolicy],
) -> None:
    """Lead to the shard of the model whose name the first of `policies` hashes that finds one."""
    action.weighted_clusters = route_v3.WeightedCluster(
        clusters=[
            route_v3.WeightedClusterClusterWeight(name=shard.name, weight=_WEIGHT)
            for shard in sharding.split(*target)
        ],
        use_hash_policy=True,
    )
    action.hash_policy = policies


def _by_name(action: route_v3.RouteAction, target: Target, headers: Sequence[str]) -> None:
    rest = names.rest_cluster(*target)
    script = _SCRIPT % (
        _quoted(names.model_cluster(*target, "")),
        _quoted(rest),
        ", ".join(map(_quoted, headers)),
    )
    action.inline_cluster_specifier_plugin = route_v3.ClusterSpecifierPlugin(
        extension=extension(
            "envoy.router.cluster_specifier_plugin.lua",
            lua.LuaConfig(source_code=core.DataSource(inline_string=script), default_cluster=rest),
        )
    )


def _quoted(text: str) -> str:
    """A Lua string. Decimal escapes take any byte, so that no name can end the string."""
    plain = (chr(byte) if byte < 0x80 and chr(byte).isalnum() else f"\\{byte:03d}" for byte in text.encode())  # noqa: PLR2004 - ASCII
    return f'"{"".join(plain)}"'
