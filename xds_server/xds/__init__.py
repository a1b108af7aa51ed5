"""The xDS protocol without I/O: subscriptions, sessions (SotW and delta), ledger, snapshots.

Knows bytes, names and versions only. Imports neither grpc nor any other room of this package.
"""
