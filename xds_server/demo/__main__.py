"""`python -m xds_server.demo`."""

from __future__ import annotations

import sys
import time


def run() -> int:
    """Runs the demo; the time that it takes to import counts too."""
    began = time.time()
    from xds_server.demo.runner import main  # noqa: PLC0415 - see above

    return main(began=began)


if __name__ == "__main__":
    sys.exit(run())
