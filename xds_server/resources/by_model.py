"""How a route lets Envoy choose a cluster by the request's model, where a pool has several.

Sharded: among clusters of equal weight, by the hash of the header that holds the name; the same header
becomes the subset metadata, so the shard that Envoy picks is the one that the model was put in
(shards.py). Order and weights are part of that contract.

A cluster for each model: by the name itself, behind a prefix of ours. The choice is made by a script of
the route and not by a header that the listener makes, because then a change of layout is a change of the
routes alone, which Envoy applies at once for old connections and new ones. The prefix is a security need:
without it a request could name any cluster, such as the xDS server's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.router.cluster_specifiers.lua.v3 as lua

from xds_server.mesh.layout import LayoutKind
from xds_server.mesh.policies import Fallback
from xds_server.resources import names
from xds_server.resources.balancing import not_loaded, without_criteria
from xds_server.resources.parts import extension

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xds_server.mesh.policies import Policy
    from xds_server.mesh.pools import Pool
    from xds_server.mesh.routing import HeaderToKey
    from xds_server.resources.shards import Sharding, Target

_WEIGHT = 1
"""Of each shard. The sum of all, modulo which Envoy takes the hash, is then the number of shards."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a route has to know of a pool: its subset key, and what becomes of a miss."""

    subset_key: str
    no_model: Fallback
    not_loaded: Fallback

    @classmethod
    def of(cls, policy: Policy | None, pool: Pool) -> Rule:
        """Find it from the pool and its service's rule."""
        if policy is None:
            return cls(pool.subset_key, Fallback.NO_FALLBACK, Fallback.NO_FALLBACK)
        return cls(pool.subset_key, without_criteria(policy, pool), not_loaded(policy, pool))


def choose(
    action: route_v3.RouteAction,
    target: Target,
    sharding: Sharding,
    mapping: Sequence[HeaderToKey],
    rule: Rule,
) -> None:
    """Make `action` lead to the shards of `target`, by the header that is mapped to the pool's key.

    A request without it, or a route that maps none, takes any shard: each has what a miss may reach.
    """
    host, port = target
    # Of several headers for one key the last one that a request has is what becomes metadata.
    headers = [each.header.lower() for each in reversed(mapping) if each.key == rule.subset_key]
    if sharding.layout(host).kind is LayoutKind.PER_MODEL:
        _by_name(action, target, sharding, headers, rule)
        return
    action.weighted_clusters = route_v3.WeightedCluster(
        clusters=[
            route_v3.WeightedClusterClusterWeight(name=shard.name, weight=_WEIGHT)
            for shard in sharding.split(host, port)
        ],
        use_hash_policy=True,
    )
    action.hash_policy = [
        route_v3.RouteActionHashPolicy(
            header=route_v3.RouteActionHashPolicyHeader(header_name=header), terminal=True
        )
        for header in headers
    ]


_SCRIPT = """\
local prefix, other, names = %s, %s, {%s}
function envoy_on_route(request)
  local headers = request:headers()
  for _, name in ipairs(names) do
    local model = headers:get(name)
    if model ~= nil then
      local cluster = prefix .. model
      if request:getCluster(cluster) ~= nil then return cluster end
      return %s
    end
  end
  return %s
end
"""
"""Where a miss is refused, the script names a cluster that does not exist, which Envoy answers with 404."""


def _by_name(
    action: route_v3.RouteAction, target: Target, sharding: Sharding, headers: Sequence[str], rule: Rule
) -> None:
    other = _quoted(sharding.single(*target).name)
    script = _SCRIPT % (
        _quoted(names.model_cluster(*target, "")),
        other,
        ", ".join(map(_quoted, headers)),
        "cluster" if rule.not_loaded is Fallback.NO_FALLBACK else "other",
        "prefix" if rule.no_model is Fallback.NO_FALLBACK else "other",
    )
    action.inline_cluster_specifier_plugin = route_v3.ClusterSpecifierPlugin(
        extension=extension(
            "envoy.router.cluster_specifier_plugin.lua",
            lua.LuaConfig(
                source_code=core.DataSource(inline_string=script),
                default_cluster=sharding.single(*target).name,
            ),
        )
    )
    action.cluster_not_found_response_code = route_v3.RouteActionClusterNotFoundResponseCode.NOT_FOUND


def _quoted(text: str) -> str:
    """A Lua string. Decimal escapes take any byte, so that no name can end the string."""
    return (
        '"'
        + "".join(
            chr(byte) if chr(byte).isalnum() and chr(byte).isascii() else f"\\{byte:03d}"
            for byte in text.encode()
        )
        + '"'
    )
