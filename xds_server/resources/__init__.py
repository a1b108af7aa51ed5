"""What is known, as Envoy's objects: clusters, assignments, listeners, route configurations. Pure: no I/O.

The one exception is `validate`, which runs an Envoy binary for the command line. Nothing here knows a
connection, a client or a source; equal input gives equal bytes, whatever the order it came in.
"""
