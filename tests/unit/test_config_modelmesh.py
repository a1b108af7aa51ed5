"""`modelMesh`, `push` and InferenceService: every field, what it becomes, and what it implies."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_texts import SERVICE, document, errors, load, pool, route

from xds_server.config.loader import load_directory
from xds_server.demo.payload import DOCUMENTS
from xds_server.mesh.events import ConfigurationReplaced, ModelsKnown
from xds_server.mesh.implied import complete
from xds_server.mesh.known import DeclaredModel, Known, KnownModel
from xds_server.mesh.mesh import Mesh
from xds_server.mesh.policies import Fallback
from xds_server.mesh.pools import ModelMesh, OpenInference, OpenVino, Push

PODS = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: models, namespace: ml}
spec:
  hosts: [models]
  resolution: STATIC
  ports: [{number: 8033, name: http, protocol: HTTP}]
  endpoints:
    - {address: 10.0.0.1, ports: {rest: 9101}, labels: {xds-server.dev/pod: models-6f7d9c8b5-4kx7q}}
"""
ETCD = "etcd: {connectionFile: /etc/etcd_connection}"
BALANCED = (("mm-balanced", "true"), ("grpc-metadata-mm-balanced", "true"))


def compiled(tmp_path, way: str, rest: str = ""):
    (found,) = load(tmp_path, PODS, pool(f"host: models\nmodels:\n  {way}\n{rest}")).pools
    return found


def test_defaults_and_every_field(tmp_path):
    assert compiled(tmp_path, f"modelMesh: {{{ETCD}}}").discovery == ModelMesh(
        "/etc/etcd_connection", "mm/modelmesh-serving/", 30.0
    )
    text = (
        "service: other, namespace: team, loadTimeout: 6s, push: , openInference: {port: rest, interval: 1s}"
    )
    assert compiled(tmp_path, f"modelMesh: {{{ETCD}, {text}}}").discovery == ModelMesh(
        "/etc/etcd_connection",
        "mm_ns/team/mm/other/",
        3.0,
        OpenInference("rest", interval=1.0),
        push=Push(10.0),
    )
    found = compiled(tmp_path, f"modelMesh: {{{ETCD}, openVino: {{port: 9101}}}}").discovery
    assert found.confirm == OpenVino(9101)
    assert compiled(tmp_path, "push: ").discovery == Push(10.0)
    assert compiled(tmp_path, "push: {grace: 3s}").discovery == Push(3.0)


def test_what_cannot_be(tmp_path):
    both = f"modelMesh: {{{ETCD}, openInference: , openVino: {{}}}}"
    (error,) = errors(tmp_path, PODS, pool(f"host: models\nmodels:\n  {both}"))
    assert error.endswith("found openInference and openVino; expected one runtime to ask")
    port = f"modelMesh: {{{ETCD}, openInference: {{port: metrics}}}}"
    (error,) = errors(tmp_path, PODS, pool(f"host: models\nmodels:\n  {port}"))
    assert "spec.models.modelMesh.openInference.port" in error
    (error,) = errors(tmp_path, SERVICE, pool(f"host: models\nmodels:\n  modelMesh: {{{ETCD}}}"))
    assert "without the name of its pod" in error


@pytest.mark.parametrize(
    ("rest", "fallback"),
    [("", Fallback.ANY_ENDPOINT), ("onMiss: {notLoaded: NO_FALLBACK}", Fallback.NO_FALLBACK)],
)
def test_a_miss_goes_to_any_pod_unless_the_document_says_otherwise(tmp_path, rest, fallback):
    text = pool(f"host: models\nmodels:\n  modelMesh: {{{ETCD}}}\n{rest}")
    routing = complete([load(tmp_path, PODS, text)])
    assert [each.fallback for each in routing.policies["models"].selectors] == [fallback]


def test_requests_to_a_modelmesh_say_that_they_are_placed_and_others_do_not(tmp_path):
    written = route("route: [{destination: {host: models}}]")
    asked = complete([load(tmp_path, PODS, pool("host: models\nmodels: {openInference: }"), written)])
    mesh = complete([load(tmp_path, PODS, pool(f"host: models\nmodels:\n  modelMesh: {{{ETCD}}}"), written)])
    for routing, headers in ((asked, ()), (mesh, BALANCED)):
        found = [each for service in routing.virtual_services for each in service.routes]
        assert [each.upstream_headers for each in found] == [headers]


def inference_service(status: str = "", mode: str = "ModelMesh") -> str:
    return f"""\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: tf-mnist
  namespace: ml
  annotations: {{serving.kserve.io/deploymentMode: {mode}}}
spec:
  predictor:
    minReplicas: 1
    model: {{modelFormat: {{name: tensorflow, version: "2"}}, storageUri: "pvc://models/mnist"}}
{status}"""


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        ("", Known.PENDING, ""),
        ("status: {modelStatus: {states: {activeModelState: Standby}}}", Known.STANDBY, ""),
        (
            (
                "status: {modelStatus: {states: {activeModelState: FailedToLoad},"
                " lastFailureInfo: {message: no file}}}"
            ),
            Known.FAILED,
            "no file",
        ),
        ("status: {modelStatus: {states: {activeModelState: Other}}}", Known.PENDING, ""),
        ("status: [1]", Known.PENDING, ""),
    ],
)
def test_an_inference_service_is_a_known_model_with_its_state(tmp_path, status, state, reason):
    found = load(tmp_path, SERVICE, inference_service(status)).declared
    assert found == (DeclaredModel("ml", KnownModel("tf-mnist", state, reason)),)


def test_other_deployment_modes_are_not_ours(tmp_path):
    assert load(tmp_path, SERVICE, inference_service(mode="Serverless")).declared == ()


def test_the_walk_throughs_inference_service_loads_unchanged(tmp_path):
    content = (DOCUMENTS / "tf-mnist.yaml").read_bytes()
    assert b"name: my-models-pvc" in content
    (tmp_path / "tf-mnist.yaml").write_bytes(content)
    loaded = load_directory(Path(tmp_path))
    assert loaded.problems == ()
    expected = DeclaredModel("modelmesh-serving", KnownModel("tf-mnist", Known.PENDING))
    assert loaded.configuration.declared == (expected,)


def test_known_models_are_those_of_the_pools_namespace_and_what_the_registry_says_is_newer(tmp_path):
    text = pool(f"host: models\nmodels:\n  modelMesh: {{{ETCD}}}")
    loaded = load(
        tmp_path,
        PODS,
        text,
        inference_service(),
        document("Gateway", "servers: []").replace(
            "[]", "\n  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}"
        ),
    )
    mesh = Mesh()
    mesh.apply(ConfigurationReplaced(source="files", configuration=loaded))
    assert mesh.known_models("models") == {"tf-mnist": KnownModel("tf-mnist", Known.PENDING)}
    told = (KnownModel("other", Known.STANDBY), KnownModel("tf-mnist", Known.LOADING))
    mesh.apply(ModelsKnown(service="models", source="modelmesh", models=told))
    assert list(mesh.known_models("models").values()) == list(told)
