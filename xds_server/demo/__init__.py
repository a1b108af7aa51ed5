"""The embedded demo: `python -m xds_server.demo` runs and tests it all on one machine.

Everything that only the demo needs lives here, the embedded runtime too. Nothing else may import it.
"""
