"""ModelMesh's registry in etcd as a source: who has which model, read and never written."""
