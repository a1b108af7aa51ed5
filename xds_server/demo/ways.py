"""Step 3: one request in four ways to name its model. What each was answered, by whom, and why there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import grpc

from xds_server.demo.inference_messages import (
    SERVICE,
    Contents,
    ModelInferRequest,
    ModelInferResponse,
    Tensor,
)
from xds_server.demo.payload import BadPayloadError, read_digit, read_tensor
from xds_server.demo.requests import MODEL_HEADER, TIMEOUT
from xds_server.demo.results import Tally, Way, Ways

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from xds_server.demo.stage import Stage

MODEL = "tf-mnist"


@dataclass(frozen=True)
class Answered:
    """A request's answer: the digit, or why there is none."""

    digit: int | None
    problem: str = ""


async def send_all(stage: Stage) -> Ways:
    """Sends the four requests, one after the other, so that each is the newest in Envoy's access log."""
    path, named = f"/v2/models/{MODEL}/infer", stage.options.body_path
    with_model = json.dumps({"model": MODEL, **json.loads(stage.body)}).encode()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    headers = {"content-type": "application/json"}
    ways, counted = [], Tally()
    async with (
        aiohttp.ClientSession(f"http://{stage.options.gateway}", timeout=timeout, headers=headers) as session,
        grpc.aio.insecure_channel(stage.options.grpc_gateway) as channel,
    ):
        sent: Mapping[str, tuple[str, str, Callable[[], Awaitable[Answered]]]] = {
            "header": (
                f"{MODEL_HEADER}: {MODEL}",
                f"header {MODEL_HEADER}",
                lambda: _post(session, path, stage.body, {MODEL_HEADER: MODEL}),
            ),
            "path": (path, "path", lambda: _post(session, path, stage.body)),
            "body": (f'{{"model": "{MODEL}", ...}}', "json", lambda: _post(session, named, with_model)),
            "gRPC": (f"model_name: {MODEL}", "grpc", lambda: _infer(channel, stage.body)),
        }
        for name, (shown, place, request) in sent.items():
            way, tally = await _seen(stage, name, shown, place, await request())
            ways.append(way)
            counted += tally
    return Ways(MODEL, tuple(ways), counted)


async def _seen(stage: Stage, name: str, shown: str, place: str, answer: Answered) -> tuple[Way, Tally]:
    """What Envoy's access log says of the request that has just been answered, against what is claimed."""
    line = await stage.access_log.last()
    upstream, found = line["upstream"] or "", line["from"] or "nowhere"
    replica = stage.name(upstream)
    way = Way(name, shown, answer.digit, replica, found)
    return way, judged(way, [stage.name(holder) for holder in stage.placement[MODEL]], place, answer.problem)


def judged(way: Way, holders: list[str], place: str, problem: str = "") -> Tally:
    """Failed: no digit, or the name was not found in `place`. Astray: not at one of `holders`."""
    wrong = way.replica not in holders
    failed = not wrong and (way.digit is None or way.found != place)
    text = f"{MODEL} named in the {way.name}: at {way.replica}, found in {way.found} {problem}".rstrip()
    return Tally(1, int(failed), int(wrong), (text,) if wrong or failed else ())


async def _post(
    session: aiohttp.ClientSession, path: str, body: bytes, headers: Mapping[str, str] | None = None
) -> Answered:
    try:
        async with session.post(path, data=body, headers=headers) as answer:
            text = await answer.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        return Answered(None, repr(error))
    if answer.status != 200:
        return Answered(None, f"{answer.status} {text[:200].decode(errors='replace')}")
    try:
        return Answered(read_digit(text))
    except BadPayloadError as error:
        return Answered(None, str(error))


async def _infer(channel: grpc.aio.Channel, body: bytes) -> Answered:
    shape, values = read_tensor(body)
    tensor = Tensor("inputs", "FP32", shape, Contents(fp32_contents=values))
    call = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=ModelInferRequest.__bytes__,
        response_deserializer=ModelInferResponse.parse,
    )
    try:
        answer = await call(ModelInferRequest(model_name=MODEL, inputs=[tensor]), timeout=TIMEOUT)
    except grpc.aio.AioRpcError as error:
        return Answered(None, f"{error.code().name} {error.details()}")
    for output in answer.outputs:
        if output.name == "predict" and output.contents and output.contents.int64_contents:
            return Answered(int(output.contents.int64_contents[0]))
    return Answered(None, f"an answer without the output `predict`: {answer}")
