"""A program that calls through gRPC's own xDS client: `python grpc_caller.py xds:///NAME`.

gRPC reads GRPC_XDS_BOOTSTRAP_CONFIG once for each process, so each client is a process of its own. Every
line on standard input is one call; the answer is one line: what was replied, or the status's name.
"""

from __future__ import annotations

import sys

import grpc

METHOD = "/test.Echo/Who"
CALL_LIMIT = 5.0
"""Seconds for one call, its wait for a configuration included."""


def main(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        who = channel.unary_unary(METHOD)
        for line in sys.stdin:
            try:
                answer = who(line.encode(), timeout=CALL_LIMIT).decode()
            except grpc.RpcError as error:
                answer = error.code().name
            print(answer, flush=True)  # noqa: T201 - this is its interface


if __name__ == "__main__":
    main(sys.argv[1])
