"""Documents one by one: a bad one keeps its last good state and takes no other down."""

import pytest
from api_objects import config_map, entry, istio_gateway, made, pool, virtual_service

from xds_server.config.cluster_documents import ClusterDocuments
from xds_server.config.document_set import DocumentSet
from xds_server.config.objects import dropped_fields, key_of, lacks_our_fields, unit_of, unit_of_config_map
from xds_server.mesh.known import Known
from xds_server.mesh.model import Service, ServicePort

LATER = "2026-02-02T00:00:00Z"


def compiled(*values, elsewhere=None):
    documents = DocumentSet()
    for value in values:
        documents.put(unit_of(value))
    return documents.compile(elsewhere)


def words(result, value):
    return [str(problem) for problem in result.problems.get(key_of(value), ())]


def test_objects_mean_what_the_same_documents_mean_in_files():
    result = compiled(entry(), pool(), istio_gateway(), virtual_service(gateways=["models"]))
    assert not result.problems
    configuration = result.configuration
    assert [service.host for service in configuration.services] == ["models"]
    assert [found.name for found in configuration.pools] == ["ml/models"]
    assert [found.name for found in configuration.gateways] == ["ml/models"]
    assert configuration.virtual_services[0].gateways == ("ml/models",)


def test_a_problem_names_the_object_and_the_field():
    bad = made("xds-server.dev/v1alpha1", "ModelPool", {"host": "models", "models": {}})
    result = compiled(entry(), bad)
    assert words(result, bad) == [
        "ModelPool ml/models, spec.models: found none of them; expected one of openInference"
        + words(result, bad)[0].partition("openInference")[2]
    ]


def test_a_bad_object_takes_no_other_down():
    bad = pool("nowhere", name="bad")
    result = compiled(entry(), pool(), bad)
    assert words(result, bad) == [
        (
            'ModelPool ml/bad, spec.host: found "nowhere", which no ServiceEntry defines; '
            "expected a host of a ServiceEntry: models"
        )
    ]
    assert [found.host for found in result.configuration.pools] == ["models"]
    assert key_of(bad) not in result.in_force


def test_what_refers_to_a_bad_object_is_at_fault_too():
    bad = entry()
    bad["spec"]["resolution"] = "DNS"
    result = compiled(bad, pool(), virtual_service())
    assert set(result.problems) == {key_of(bad), key_of(pool()), key_of(virtual_service())}
    assert result.configuration.services == result.configuration.virtual_services == ()


def test_the_last_good_state_stays_in_force():
    documents = DocumentSet()
    good = pool(generation=1)
    documents.put(unit_of(entry()))
    documents.put(unit_of(good))
    before = documents.compile().configuration
    bad = pool(generation=2)
    bad["spec"]["subsetKye"] = "x"
    documents.put(unit_of(bad))
    result = documents.compile()
    assert "subsetKye" in words(result, bad)[0]
    assert result.configuration == before
    assert result.in_force[key_of(bad)] == unit_of(good)


def test_the_last_good_state_of_several_that_need_each_other():
    documents = DocumentSet()
    for value in (entry(), pool(), virtual_service()):
        documents.put(unit_of(value))
    before = documents.compile().configuration
    bad = entry()
    bad["spec"]["ports"] = []
    documents.put(unit_of(bad))
    result = documents.compile()
    assert result.configuration == before
    assert len(result.problems) == 3


def test_a_last_good_state_that_contradicts_what_is_good_now_is_left_out():
    documents = DocumentSet()
    documents.put(unit_of(entry()))
    documents.put(unit_of(pool(name="first")))
    documents.compile()
    bad = pool(name="first")
    bad["spec"]["models"] = {}
    documents.put(unit_of(bad))
    documents.put(unit_of(pool(name="second", creationTimestamp=LATER)))
    result = documents.compile()
    assert [found.name for found in result.configuration.pools] == ["ml/second"]
    assert key_of(bad) not in result.in_force


def test_an_inference_service_is_a_document_too():
    spec = {"predictor": {"model": {"modelFormat": {"name": "tensorflow"}}}}
    annotations = {"serving.kserve.io/deploymentMode": "ModelMesh"}
    value = made("serving.kserve.io/v1beta1", "InferenceService", spec, "tf-mnist", annotations=annotations)
    documents = DocumentSet()
    documents.put(unit_of(value))
    (declared,) = documents.compile().configuration.declared
    assert (declared.namespace, declared.model.name) == ("ml", "tf-mnist")
    del value["spec"]["predictor"]
    documents.put(unit_of(value))
    result = documents.compile()
    assert "spec.predictor" in words(result, value)[0]
    assert result.configuration.declared == (declared,)


def test_a_removed_object_has_no_last_good_state():
    documents = DocumentSet()
    documents.put(unit_of(entry()))
    documents.put(unit_of(pool()))
    documents.compile()
    documents.drop(key_of(pool()))
    assert documents.compile().configuration.pools == ()


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_that_contradict_each_other_the_older_is_right(turned):
    older, newer = pool(name="zz"), pool(name="aa", creationTimestamp=LATER)
    result = compiled(entry(), *((newer, older) if turned else (older, newer)))
    assert words(result, newer) == [
        (
            'ModelPool ml/aa, spec.host: found "models", which ModelPool ml/zz is for too; '
            "expected one ModelPool for each host"
        )
    ]
    assert [found.name for found in result.configuration.pools] == ["ml/zz"]


def test_problems_do_not_depend_on_what_was_good_before():
    """Servers that started at other times must say the same."""
    documents = DocumentSet()
    documents.put(unit_of(entry()))
    documents.put(unit_of(pool()))
    documents.compile()
    bad = entry()
    bad["spec"]["hosts"] = []
    documents.put(unit_of(bad))
    assert documents.compile().problems == compiled(bad, pool()).problems


def test_a_service_that_another_source_declares():
    service = Service("models.ml.svc.cluster.local", "ml", (ServicePort(8033, "http"),))
    elsewhere = {service.host: service}
    result = compiled(pool(), virtual_service(), elsewhere=elsewhere)
    assert not result.problems
    assert [found.host for found in result.configuration.pools] == [service.host]
    assert result.configuration.services == ()
    lost = compiled(pool(), elsewhere={})
    assert "which no ServiceEntry or Service defines" in words(lost, pool())[0]


def test_fixed_placements_on_endpoints_that_come_later():
    service = Service("models", "ml", (ServicePort(8033, "http"),))
    value = pool()
    value["spec"]["models"] = {"static": {"10.0.0.9:9000": ["b", "a"]}}
    result = compiled(value, elsewhere={"models": service})
    assert result.configuration.pools[0].discovery.models == {"10.0.0.9:9000": ("a", "b")}


TEXT = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: models}
spec:
  host: models
  trafficPolicy:
    loadBalancer:
      dynamicSubset: {subsetSelectors: [{keys: [stage]}]}
"""


def test_a_config_map_brings_documents_of_its_namespace():
    documents = DocumentSet()
    documents.put(unit_of(entry()))
    documents.put(unit_of_config_map(config_map({"rule.yaml": TEXT, "note.txt": "no: [document"})))
    result = documents.compile()
    assert not result.problems
    assert [policy.name for policy in result.configuration.policies] == ["ml/models"]


def test_a_config_map_is_taken_or_refused_as_a_whole():
    documents = DocumentSet()
    documents.put(unit_of(entry()))
    value = config_map({"a.yaml": TEXT, "b.yaml": "kind: [\n"}, name="routing")
    documents.put(unit_of_config_map(value))
    result = documents.compile()
    assert result.configuration.policies == ()
    assert words(result, value)[0].startswith(
        "ConfigMap ml/routing, b.yaml:2: document 1: found a YAML syntax"
    )


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"note.txt": "x"}, "ConfigMap ml/models, data: found no *.yaml key; expected at least one"),
        (
            {"a.yaml": TEXT.replace("name: models", "name: models, namespace: other")},
            'found "other"; expected ml, the namespace of the ConfigMap, or no namespace',
        ),
    ],
)
def test_mistakes_in_a_config_map(texts, said):
    documents = DocumentSet()
    documents.put(unit_of(entry()))
    value = config_map(texts)
    documents.put(unit_of_config_map(value))
    assert any(said in text for text in words(documents.compile(), value))


def test_fields_that_the_api_server_dropped_are_seen():
    applied = (
        '{"kind":"VirtualService","spec":{"http":[{"route":[]},'
        '{"headerToDynamicSubsetKey":[{"header":"model","key":"k"}]}]}}'
    )
    value = virtual_service(annotations={"kubectl.kubernetes.io/last-applied-configuration": applied})
    assert dropped_fields(value) == ["spec.http[1].headerToDynamicSubsetKey"]
    assert lacks_our_fields(value) == ["headerToDynamicSubsetKey"]
    value["spec"]["http"].append({"headerToDynamicSubsetKey": [{"header": "model", "key": "k"}]})
    assert dropped_fields(value) == []
    assert lacks_our_fields(value) == []
    assert dropped_fields(pool()) == lacks_our_fields(pool()) == []


def test_what_kserve_says_of_a_model_is_read_and_what_we_say_is_not():
    annotations = {"serving.kserve.io/deploymentMode": "ModelMesh"}
    model = made(
        "serving.kserve.io/v1beta1", "InferenceService", {"predictor": {"model": {}}}, annotations=annotations
    )
    documents = ClusterDocuments()
    documents.put(model)
    assert [each.model.state for each in documents.compile({}).configuration.declared] == [Known.PENDING]
    standby = model | {"status": {"modelStatus": {"states": {"activeModelState": "Standby"}}}}
    assert documents.put(standby)
    assert [each.model.state for each in documents.compile({}).configuration.declared] == [Known.STANDBY]
    assert not documents.put(standby | {"status": {**standby["status"], "observedGeneration": 2}})
    documents.put(pool())
    assert not documents.put(pool() | {"status": {"conditions": []}})
