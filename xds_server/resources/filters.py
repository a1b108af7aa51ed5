"""The HTTP filters of a listener. All but the router do nothing until a route asks for them.

So one chain serves all routes: a body is held for its model's name on those routes only that need it, and a
route to no pool pays for none of this.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import envoy_data_plane.envoy.config.accesslog.v3 as accesslog
import envoy_data_plane.envoy.config.common.mutation_rules.v3 as mutation_rules
import envoy_data_plane.envoy.config.core.v3 as core
import envoy_data_plane.envoy.extensions.filters.http.grpc_field_extraction.v3 as grpc_field_extraction
import envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder.v3 as grpc_json_transcoder
import envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 as header_mutation
import envoy_data_plane.envoy.extensions.filters.http.header_to_metadata.v3 as header_to_metadata
import envoy_data_plane.envoy.extensions.filters.http.json_to_metadata.v3 as json_to_metadata
import envoy_data_plane.envoy.extensions.filters.http.lua.v3 as lua
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router
import envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 as upstream_codec
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm
import envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 as early
import envoy_data_plane.envoy.type.matcher.v3 as matcher

from xds_server.mesh.request import MODEL_HEADER
from xds_server.resources.parts import extension, packed
from xds_server.resources.upstream_log import not_found_log

if TYPE_CHECKING:
    from betterproto2 import Message

HEADER_TO_METADATA = "envoy.filters.http.header_to_metadata"
GRPC_FIELDS = "envoy.filters.http.grpc_field_extraction"
JSON_TO_METADATA = "envoy.filters.http.json_to_metadata"
LUA = "envoy.filters.http.lua"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
KNOWN_AS_HEADER = "xds-server.known-as"
RENAMES = "xds-server.renames"
"""The filters' names in the chain; a route's own rules are given under them. The last two are on the way to
the replica, and see which one was picked."""

KNOWN_AS = "known_as"
"""In an endpoint's metadata of our namespace: names with those that the replica has to be asked under."""

FLAGS_HEADER = "x-xds-flags"
"""On Envoy's own answers, until the script takes it off: the status, the request's method, why no replica has
answered, and the request's path."""

OWN_NAMESPACE = "xds-server"
"""The metadata namespace in which a request's facts stand for the access log and the script."""

JSON_NAMESPACE = "xds-server.json"

INFERENCE_SERVICE = "inference.GRPCInferenceService"

GRPC_NAME_FIELDS = {
    "ModelInfer": ("model_name", "model_version"),
    "ModelMetadata": ("name", "version"),
    "ModelReady": ("name", "version"),
    "ModelStreamInfer": ("model_name", "model_version"),
}
"""The methods that concern a model, each with the fields of its request that name it and its version.

In all of them those are fields 1 and 2 (grpc_names.lua)."""

GRPC_WITHOUT_MODEL = (
    *(
        f"/{INFERENCE_SERVICE}/{methods}"
        for methods in ("Server", "Repository", "SystemSharedMemory", "CudaSharedMemory", "Trace", "Log")
    ),
    "/grpc.health.",
    "/grpc.reflection.",
)
"""How the paths of gRPC methods begin that concern no model."""

ANSWERS = "answers"
"""The script that shapes answers, and has nothing to do with requests."""

TRANSLATED_BYTES = 16 << 20
"""Of a body that is translated, in either direction: it is held whole. Envoy's own limit would be 1 MiB."""

_TOLD_HEADER = "x-xds-known-as"
_HERE = Path(__file__).parent
_FIRST_ERROR = 400


def http_filters(*, pools: bool) -> list[hcm.HttpFilter]:
    """List the chain, in the order in which requests pass it. The script sees what those before it found.

    `pools`: some of the replicas behind the listener hold models.
    """
    return [
        # Without rules of its own: each route brings them.
        hcm.HttpFilter(name=HEADER_TO_METADATA, typed_config=packed(header_to_metadata.Config())),
        _dormant(GRPC_FIELDS, _grpc_fields()),
        _dormant(JSON_TO_METADATA, json_to_metadata.JsonToMetadata()),
        _dormant(LUA, _script()),
        _dormant(TRANSCODER, _transcoder()),
        hcm.HttpFilter(name="envoy.filters.http.router", typed_config=packed(_router(pools=pools))),
    ]


def _to_the_replica() -> list[hcm.HttpFilter]:
    """List the filters that a request passes on its way to the replica that was picked, in each try.

    They are a listener's, not a cluster's: a script of each cluster's own would take memory for each model.
    """
    told = header_mutation.HeaderMutation(
        mutations=header_mutation.Mutations(
            request_mutations=[
                mutation_rules.HeaderMutation(remove=_TOLD_HEADER),  # a former try's, or a client's
                mutation_rules.HeaderMutation(
                    append=core.HeaderValueOption(
                        header=core.HeaderValue(
                            key=_TOLD_HEADER, value=f"%UPSTREAM_METADATA({OWN_NAMESPACE}:{KNOWN_AS})%"
                        ),
                        append_action=core.HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
                    )
                ),
            ]
        )
    )
    script = lua.Lua(default_source_code=core.DataSource(inline_string=upstream_script()))
    return [
        _dormant(KNOWN_AS_HEADER, told),
        _dormant(RENAMES, script),
        hcm.HttpFilter(
            name="envoy.filters.http.upstream_codec", typed_config=packed(upstream_codec.UpstreamCodec())
        ),
    ]


def early_mutations() -> list[core.TypedExtensionConfig]:
    """Strip the headers that are ours from clients' requests, before a route is looked for."""
    ours = [mutation_rules.HeaderMutation(remove=MODEL_HEADER)]
    return [
        extension("envoy.http.early_header_mutation.header_mutation", early.HeaderMutation(mutations=ours))
    ]


def local_replies() -> hcm.LocalReplyConfig:
    """Mark Envoy's own answers to requests that the script has seen, so that it can tell and shape them."""
    failed = accesslog.StatusCodeFilter(
        comparison=accesslog.ComparisonFilter(
            op=accesslog.ComparisonFilterOp.GE,
            value=core.RuntimeUInt32(default_value=_FIRST_ERROR, runtime_key="xds-server.errors"),
        )
    )
    seen = accesslog.MetadataFilter(
        matcher=matcher.MetadataMatcher(
            filter=OWN_NAMESPACE,
            path=[matcher.MetadataMatcherPathSegment(key="from")],
            value=matcher.ValueMatcher(present_match=True),
        ),
        match_if_key_not_found=False,
    )
    both = accesslog.AndFilter(
        filters=[
            accesslog.AccessLogFilter(status_code_filter=failed),
            accesslog.AccessLogFilter(metadata_filter=seen),
        ]
    )
    why = core.HeaderValue(
        key=FLAGS_HEADER, value="%RESPONSE_CODE% %REQ(:METHOD)% %RESPONSE_FLAGS% %REQ(:PATH)%"
    )
    return hcm.LocalReplyConfig(
        mappers=[
            hcm.ResponseMapper(
                filter=accesslog.AccessLogFilter(and_filter=both),
                headers_to_add=[core.HeaderValueOption(header=why)],
            )
        ]
    )


def _router(*, pools: bool) -> router.Router:
    """Log each attempt: a log of requests would have the last answer of each only."""
    if not pools:
        return router.Router()
    return router.Router(upstream_log=[not_found_log()], upstream_http_filters=_to_the_replica())


def _dormant(name: str, message: Message) -> hcm.HttpFilter:
    return hcm.HttpFilter(name=name, typed_config=packed(message), disabled=True)


def _grpc_fields() -> grpc_field_extraction.GrpcFieldExtractionConfig:
    return grpc_field_extraction.GrpcFieldExtractionConfig(
        descriptor_set=core.DataSource(inline_bytes=descriptors()),
        extractions_by_method={
            f"{INFERENCE_SERVICE}.{method}": grpc_field_extraction.FieldExtractions(
                request_field_extractions={
                    name: grpc_field_extraction.RequestFieldValueDisposition() for name in fields
                }
            )
            for method, fields in GRPC_NAME_FIELDS.items()
        },
    )


def _script() -> lua.Lua:
    return lua.Lua(
        default_source_code=core.DataSource(inline_string=script()),
        source_codes={ANSWERS: core.DataSource(inline_string=f"{script()}\nenvoy_on_request = nil\n")},
        # The script says itself when the route is to be looked for again.
        clear_route_cache=False,
    )


def _transcoder() -> grpc_json_transcoder.GrpcJsonTranscoder:
    return grpc_json_transcoder.GrpcJsonTranscoder(
        proto_descriptor_bin=descriptors(),
        services=[INFERENCE_SERVICE],
        match_incoming_request_route=True,
        print_options=grpc_json_transcoder.GrpcJsonTranscoderPrintOptions(preserve_proto_field_names=True),
        max_request_body_size=TRANSLATED_BYTES,
        max_response_body_size=TRANSLATED_BYTES,
        url_unescape_spec=grpc_json_transcoder.GrpcJsonTranscoderUrlUnescapeSpec.ALL_CHARACTERS,
        request_validation_options=grpc_json_transcoder.GrpcJsonTranscoderRequestValidationOptions(
            reject_binding_body_field_collisions=True
        ),
    )


@cache
def script() -> str:
    """Join the parts of the script that runs on routes to pools."""
    return _joined("names.lua", "request.lua", "answers.lua")


@cache
def upstream_script() -> str:
    """Join the parts of the script that renames models on the way to a replica."""
    return _joined("names.lua", "grpc_names.lua", "renames.lua")


def _joined(*parts: str) -> str:
    return "".join((_HERE / part).read_text("utf-8") for part in parts)


@cache
def descriptors() -> bytes:
    """Read the descriptor set of protos/open_inference.proto (`make protos` writes it)."""
    return (_HERE / "open_inference.pb").read_bytes()
