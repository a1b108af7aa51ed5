"""The seed's story on a ModelMesh: a real etcd, a small model of ModelMesh as four pods, a real Envoy.

`python -m xds_server.demo.modelmesh`. What is modelled, and what is not, is in docs/modelmesh.md.
"""
