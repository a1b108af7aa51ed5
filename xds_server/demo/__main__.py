"""`python -m xds_server.demo`."""

from __future__ import annotations

import sys

from xds_server.demo.runner import main

if __name__ == "__main__":
    sys.exit(main())
