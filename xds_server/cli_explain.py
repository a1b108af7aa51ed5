"""The options of `xds-server explain`: declared and read, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.cli_serve import count

if TYPE_CHECKING:
    import argparse

EPILOG = """\
examples:
  xds-server explain --model mnist
  xds-server explain --model mnist --path /v2/models/mnist/infer --header x-user:7
  xds-server explain --model llama --path /v1/chat/completions --body chat.json
"""


def add_explain_options(sub: argparse.ArgumentParser) -> None:
    """Declare them."""
    sub.add_argument("--model", metavar="M", help="the model that the request is meant for")
    sub.add_argument(
        "--header", action="append", default=[], metavar="K:V", help="a header of the request; repeatable"
    )
    sub.add_argument("--path", metavar="P", help="its path (/v2/models/M/infer)")
    sub.add_argument("--body", metavar="FILE", help="its body")
    sub.add_argument("--authority", default="", metavar="H", help="the host that it is for")
    sub.add_argument("--port", type=count, metavar="N", help="of the listener, where there are several")
    sub.add_argument("--format", choices=("text", "json"), default="text", help="(text)")


def run(options: argparse.Namespace) -> int:
    """Ask and print; returns the exit code."""
    from xds_server.admin import explaining

    return explaining.command(
        options.admin,
        model=options.model,
        path=options.path,
        headers=options.header,
        body=options.body,
        authority=options.authority,
        port=options.port,
        as_json=options.format == "json",
    )
