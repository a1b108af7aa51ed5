"""`python -m xds_server.demo`."""

from __future__ import annotations

import sys
import time


def run() -> int:
    """Runs the demo; the time that it takes to import counts too."""
    began = time.time()
    try:
        from xds_server.demo.runner import main  # noqa: PLC0415 - see above
    except ModuleNotFoundError as error:
        text = f"the demo needs more than the server ({error}): pip install 'xds-server[demo]'"
        sys.stderr.write(text + "\n")
        return 1

    return main(began=began)


if __name__ == "__main__":
    sys.exit(run())
