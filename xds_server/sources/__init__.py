"""Who tells us: each source turns what it sees into events and knows neither resources nor protocol.

All I/O about the world lives here. Nothing here decides what a fact means: that is the mesh's.
"""
