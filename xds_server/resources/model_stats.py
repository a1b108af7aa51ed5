"""Per-model statistics in Envoy itself: requests, latency and misses, with a bound on how many there are.

Envoy makes them as it would write a log line, so no request waits for anybody. A client chooses what it
names, so a name becomes a label only when a replica has answered for it, and not with 4xx: what does not
exist never does. Beyond the bound, Envoy makes no further ones and goes on with those it has.
"""

from __future__ import annotations

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.access_loggers.stats.v3 as stats
import envoy_data_plane.envoy.type.matcher.v3 as matcher
import envoy_data_plane.envoy.type.v3 as type_v3

from xds_server.resources.filters import OWN_NAMESPACE
from xds_server.resources.parts import packed

PREFIX = "xds_server.model"
"""Of the statistics' names in Envoy; in Prometheus `envoy_xds_server_model_...`."""

_NAME = "envoy.access_loggers.stats"
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
_Op = accesslog.ComparisonFilterOp


def counted_by_model(limit: int) -> list[accesslog.AccessLog]:
    """Count what was answered by model, and what was not without; `limit`: counters, and histograms."""
    code = stats.ConfigTag(name="code", value_format="%RESPONSE_CODE%")
    model = stats.ConfigTag(name="model", value_format=f"%DYNAMIC_METADATA({OWN_NAMESPACE}:model)%")
    miss = stats.ConfigTag(name="miss", value_format=f"%DYNAMIC_METADATA({OWN_NAMESPACE}:miss)%")
    answered = stats.Config(
        stats_scope=_scope(limit),
        counters=[
            stats.ConfigCounter(stat=stats.ConfigStat(name="requests", tags=[model, code]), value_fixed=1)
        ],
        histograms=[
            stats.ConfigHistogram(
                stat=stats.ConfigStat(name="duration", tags=[model]),
                unit=stats.ConfigHistogramUnit.Milliseconds,
                value_format="%DURATION%",
            )
        ],
    )
    refused = stats.Config(
        stats_scope=_scope(limit),
        counters=[
            stats.ConfigCounter(stat=stats.ConfigStat(name="refused", tags=[miss, code]), value_fixed=1)
        ],
    )
    no_client_error = _any(_status(_Op.LE, _CLIENT_ERROR - 1), _status(_Op.GE, _SERVER_ERROR))
    client_error = _all(_status(_Op.GE, _CLIENT_ERROR), _status(_Op.LE, _SERVER_ERROR - 1))
    return [
        _log(answered, _all(_has("model"), _lacks("miss"), no_client_error)),
        _log(refused, _all(_has("from"), _any(_has("miss"), client_error))),
    ]


def _scope(limit: int) -> type_v3.Scope:
    """One scope for all listeners, so that the bound is one."""
    return type_v3.Scope(
        prefix=PREFIX, sharing_name=PREFIX, max_counters=limit, max_histograms=limit, max_gauges=0
    )


def _log(config: stats.Config, condition: accesslog.AccessLogFilter) -> accesslog.AccessLog:
    return accesslog.AccessLog(name=_NAME, filter=condition, typed_config=packed(config))


def _has(key: str) -> accesslog.AccessLogFilter:
    """Whether the script has left a fact of this name."""
    return _fact(key, matcher.ValueMatcher(present_match=True), absent=False)


def _lacks(key: str) -> accesslog.AccessLogFilter:
    """Whether it has not. The filter does not look at `invert`, so this is a value that is never there."""
    never = matcher.StringMatcher(exact="-")
    return _fact(key, matcher.ValueMatcher(string_match=never), absent=True)


def _fact(key: str, value: matcher.ValueMatcher, *, absent: bool) -> accesslog.AccessLogFilter:
    path = [matcher.MetadataMatcherPathSegment(key=key)]
    found = matcher.MetadataMatcher(filter=OWN_NAMESPACE, path=path, value=value)
    return accesslog.AccessLogFilter(
        metadata_filter=accesslog.MetadataFilter(matcher=found, match_if_key_not_found=absent)
    )


def _status(op: accesslog.ComparisonFilterOp, code: int) -> accesslog.AccessLogFilter:
    value = core.RuntimeUInt32(default_value=code, runtime_key="xds-server.never")
    return accesslog.AccessLogFilter(
        status_code_filter=accesslog.StatusCodeFilter(
            comparison=accesslog.ComparisonFilter(op=op, value=value)
        )
    )


def _all(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(and_filter=accesslog.AndFilter(filters=list(filters)))


def _any(*filters: accesslog.AccessLogFilter) -> accesslog.AccessLogFilter:
    return accesslog.AccessLogFilter(or_filter=accesslog.OrFilter(filters=list(filters)))
