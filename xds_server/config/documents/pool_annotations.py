"""ModelPool's `annotations`: the annotations of the pods say which models they hold."""

from __future__ import annotations

from xds_server.config.documents.base import Part


class AnnotationsPart(Part):
    """`models.xds-server.dev/WRITER` on a pod, one for each writer; there is nothing to set."""
