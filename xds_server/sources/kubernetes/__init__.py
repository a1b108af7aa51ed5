"""A Kubernetes cluster as a source: watches of its API, and what services, slices and pods mean together.

The library `kubernetes` is loaded by access.py alone, and only by a server that was asked for it: its
generated models cost about two seconds and 50 MB.
"""
