"""What would happen to a request, and why: read from what Envoys are sent, from the mesh and the ledger.

Pure: it looks at values and sends nothing. The route is found in the very resource that Envoys have, so a
change of how routes are made cannot make this lie about them.
"""
