"""The options of `xds-server plan`: declared and read, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xds_server.cli_serve import count, positive, seconds

if TYPE_CHECKING:
    import argparse

EPILOG = """\
example:
  xds-server plan --endpoints 1000 --models 5000 --per-endpoint 20 --changes-per-second 2
"""


def add_plan_options(sub: argparse.ArgumentParser) -> None:
    """Declare them."""
    sub.add_argument("--endpoints", type=count, required=True, metavar="E", help="replicas of the pool")
    sub.add_argument("--models", type=count, required=True, metavar="M", help="different models in it")
    sub.add_argument(
        "--per-endpoint", type=positive, required=True, metavar="K", help="models on a replica, on average"
    )
    sub.add_argument(
        "--changes-per-second",
        type=seconds,
        required=True,
        metavar="R",
        help="loads, unloads and replicas that come or go",
    )
    sub.add_argument(
        "--budget-ms", type=positive, default=5.0, metavar="MS", help="that a rebuild may take (5)"
    )
    sub.add_argument(
        "--workers", type=count, default=2, metavar="N", help="worker threads of an Envoy (2); memory only"
    )
    sub.add_argument(
        "--any-endpoint",
        action="store_true",
        help="a miss may go to any replica (ANY_ENDPOINT): every cluster then has all of them",
    )
    sub.add_argument("--format", choices=("text", "json"), default="text", help="(text)")


def run(options: argparse.Namespace) -> int:
    """Print the plan; returns the exit code."""
    from xds_server import plan
    from xds_server.resources.law import Size

    size = Size(options.endpoints, options.models, options.per_endpoint, everywhere=options.any_endpoint)
    fleet = plan.Fleet(size, options.changes_per_second, options.budget_ms / 1000, options.workers)
    return plan.run(fleet, options.format)
