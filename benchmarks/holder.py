"""A replica for the failure drill: it has one model, takes a while for each answer, and fails as it is told.

A stand-in, because no real runtime answers 500 or forgets a model on demand: `POST /fault/STATUS` makes it
answer inferences with that status, while its repository index goes on saying READY (200 ends it).
"""

from __future__ import annotations

import argparse
import asyncio
import json

from aiohttp import web

INDEX = [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
TEXTS = {404: "Model m not found", 500: "the drill's fault"}


def application(name: str, seconds: float) -> web.Application:
    fault = 200

    async def index(_: web.Request) -> web.Response:
        return web.json_response(INDEX)

    async def infer(request: web.Request) -> web.Response:
        await request.read()
        if fault != 200:
            return web.json_response({"error": TEXTS.get(fault, "fault")}, status=fault)
        await asyncio.sleep(seconds)
        return web.json_response({"model_name": "m", "outputs": []}, headers={"x-served-by": name})

    async def break_down(request: web.Request) -> web.Response:
        nonlocal fault
        fault = int(request.match_info["status"])
        return web.Response(text=json.dumps(fault))

    made = web.Application()
    made.router.add_post("/v2/repository/index", index)
    made.router.add_post("/v2/models/m/infer", infer)
    made.router.add_post("/fault/{status}", break_down)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.02)
    options = parser.parse_args()
    web.run_app(
        application(options.name, options.seconds),
        host="127.0.0.1",
        port=options.port,
        access_log=None,
        print=None,
    )


if __name__ == "__main__":
    main()
