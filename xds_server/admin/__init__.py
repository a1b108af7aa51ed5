"""What people and monitors see of a running server, and the commands that talk to it.

Health, readiness, metrics, status and moves over HTTP; the client commands and their tables. Reads
every other room and changes none: a move is handed to the mover.
"""
