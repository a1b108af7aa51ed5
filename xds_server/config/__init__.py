"""The documents a user writes: typed models, reading, checking, compiling to the mesh's values.

Files are read here and nowhere else; no network, no Envoy. Whatever a user wrote wrong becomes
a `Problem`, never an exception.
"""
