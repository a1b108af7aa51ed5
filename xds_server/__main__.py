"""`python -m xds_server` is the `xds-server` command."""

from xds_server.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
