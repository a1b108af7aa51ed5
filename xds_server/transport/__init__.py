"""The gRPC server: bytes to requests, responses to bytes, one reader and one writer for each stream.

Decides nothing about the protocol: that is `xds_server.xds`. Imports no other room.
"""
