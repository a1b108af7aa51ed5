"""`xds-server report`: reads the runtime beside it and tells servers, or the pod's annotation, at once."""
