"""Programs that measure; `make bench` runs them."""

import os

# gRPC tells of every connection that a stopping server closes.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
