"""xds-server: model-aware routing for plain Envoy.

The way of the data is one direction: sources -> mesh -> resources -> xds -> transport.
See docs/architecture.md for the rooms and what each may import.
"""

__version__ = "0.1.0"
