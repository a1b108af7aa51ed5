"""ModelPool: every field, what it becomes, its default, and its place beside a rule."""

import re
from dataclasses import replace

import pytest
from config_texts import SERVICE, document, errors, load, pool

from xds_server.mesh.implied import complete
from xds_server.mesh.layout import LayoutKind, PoolLayout
from xds_server.mesh.misses import Choice
from xds_server.mesh.policies import Fallback, Selector
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY, OpenInference, StaticModels


class TestModelPool:
    def test_open_inference(self, tmp_path):
        text = """
host: models
subsetKey: model
models:
  openInference: {port: http, scheme: https, interval: 500ms, timeout: 1s, grace: 0s}
onMiss: {noModel: ANY_ENDPOINT, notLoaded: NO_FALLBACK}
"""
        (compiled,) = load(tmp_path, SERVICE, pool(text)).pools
        assert compiled.name == "ml/models"
        assert compiled.subset_key == "model"
        assert compiled.discovery == OpenInference("http", "https", 0.5, 1.0, 0.0)
        assert (compiled.no_model, compiled.not_loaded) == (Fallback.ANY_ENDPOINT, Fallback.NO_FALLBACK)

    @pytest.mark.parametrize("models", ["{openInference: {}}", "{openInference: }"])
    def test_defaults(self, tmp_path, models):
        (compiled,) = load(tmp_path, SERVICE, pool(f"host: models\nmodels: {models}")).pools
        assert compiled.subset_key == DEFAULT_SUBSET_KEY
        assert compiled.discovery == OpenInference(None, "http", 1.0, 2.0, 10.0)
        assert (compiled.no_model, compiled.not_loaded) == (None, None)

    def test_the_port_may_be_a_number_that_no_endpoint_names(self, tmp_path):
        (compiled,) = load(
            tmp_path, SERVICE, pool("host: models\nmodels: {openInference: {port: 9999}}")
        ).pools
        assert compiled.discovery.port == 9999

    @pytest.mark.parametrize("port", ["0", "70000", "true", '""', "[1]"])
    def test_what_is_no_port(self, tmp_path, port):
        (error,) = errors(
            tmp_path, SERVICE, pool(f"host: models\nmodels: {{openInference: {{port: {port}}}}}")
        )
        assert "port: found" in error
        assert error.endswith("expected a name in the endpoints' ports, or a port number from 1 to 65535")

    def test_static_models_by_any_port_of_the_endpoint(self, tmp_path):
        service = SERVICE.replace("ports: {http: 9001}", "ports: {http: 9001, rest: 9101}")
        text = """
host: models
models:
  static: {"10.0.0.1:9101": [b, a], "10.0.0.2:8033": [a]}
"""
        (compiled,) = load(tmp_path, service, pool(text)).pools
        assert compiled.discovery == StaticModels({"10.0.0.1:9001": ("a", "b"), "10.0.0.2:8033": ("a",)})

    def test_static_models_of_one_endpoint_under_two_ports(self, tmp_path):
        service = SERVICE.replace("ports: {http: 9001}", "ports: {http: 9001, rest: 9101}")
        text = 'host: models\nmodels: {static: {"10.0.0.1:9101": [a], "10.0.0.1:9001": [b]}}'
        (error,) = errors(tmp_path, service, pool(text))
        assert error.endswith(
            "found endpoint 10.0.0.1:9001 again; expected all models of an endpoint in one list"
        )

    def test_a_model_twice_on_an_endpoint(self, tmp_path):
        text = 'host: models\nmodels: {static: {"10.0.0.1:9001": [a, a]}}'
        (error,) = errors(tmp_path, SERVICE, pool(text))
        assert error.endswith('static["10.0.0.1:9001"][1]: found "a" again; expected each model once')

    def test_an_ipv6_endpoint_is_written_in_brackets(self, tmp_path):
        service = SERVICE.replace("10.0.0.1", '"fd00::1"')
        (compiled,) = load(
            tmp_path, service, pool('host: models\nmodels: {static: {"[fd00::1]:9001": [a]}}')
        ).pools
        assert compiled.discovery == StaticModels({"[fd00::1]:9001": ("a",)})

    RULE = """
host: models
trafficPolicy:
  loadBalancer:
    dynamicSubset:
      subsetSelectors: [{keys: [model], fallbackPolicy: ANY_ENDPOINT}, {keys: [stage, model]}]
"""

    def test_a_pool_may_repeat_what_the_selector_on_its_key_says(self, tmp_path):
        text = (
            "host: models\nsubsetKey: model\nmodels: {openInference: {}}\nonMiss: {notLoaded: ANY_ENDPOINT}"
        )
        configuration = load(tmp_path, SERVICE, document("DestinationRule", self.RULE), pool(text))
        assert configuration.pools[0].not_loaded is Fallback.ANY_ENDPOINT

    def test_a_rule_without_selectors_leaves_them_to_the_pool(self, tmp_path):
        rule = "host: models\ntrafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"
        text = "host: models\nmodels: {openInference: {}}\nonMiss: {notLoaded: ANY_ENDPOINT}"
        configuration = load(tmp_path, SERVICE, document("DestinationRule", rule), pool(text))
        assert configuration.policies[0].selectors == ()
        assert complete([configuration]).policies["models"] == replace(
            configuration.policies[0],
            selectors=(Selector((DEFAULT_SUBSET_KEY,), Fallback.ANY_ENDPOINT),),
            implied_by="ml/models",
        )

    def test_a_pool_beside_selectors_that_have_its_key_among_others(self, tmp_path):
        rule = self.RULE.replace("{keys: [model], fallbackPolicy: ANY_ENDPOINT}, ", "")
        text = (
            "host: models\nsubsetKey: model\nmodels: {openInference: {}}\nonMiss: {notLoaded: ANY_ENDPOINT}"
        )
        (error,) = errors(tmp_path, SERVICE, document("DestinationRule", rule), pool(text))
        assert "spec.onMiss.notLoaded: found ANY_ENDPOINT" in error


POOL = "host: models\nsubsetKey: model\nmodels: {openInference: {}}\n"


@pytest.mark.parametrize("not_loaded", ["", "notLoaded: NOT_FOUND, ", "notLoaded: UNAVAILABLE, "])
@pytest.mark.parametrize("choice", ["NOT_FOUND", "UNAVAILABLE", "NO_FALLBACK"])
def test_an_unknown_model_has_a_choice_of_its_own_and_leaves_the_others_alone(tmp_path, not_loaded, choice):
    with_it, without = (
        load(tmp_path, SERVICE, pool(f"{POOL}onMiss: {{{not_loaded}{written}retryAfter: 7s}}")).pools[0]
        for written in (f"unknown: {choice}, ", "")
    )
    assert with_it == replace(without, misses=replace(without.misses, unknown=Choice(choice)))
    assert without.misses.unknown is None


@pytest.mark.parametrize("choice", ["ANY_ENDPOINT", "DEFAULT_SUBSET", "FALLBACK_MODEL"])
def test_an_unknown_model_goes_to_no_replica(tmp_path, choice):
    (error,) = errors(tmp_path, SERVICE, pool(f"{POOL}onMiss: {{unknown: {choice}}}"))
    assert error.endswith(
        f'spec.onMiss.unknown: found "{choice}"; expected NO_FALLBACK, NOT_FOUND or UNAVAILABLE'
    )


RULE = """
host: models
trafficPolicy:
  loadBalancer:
    dynamicSubset: {defaultSubset: {stage: prod}, subsetSelectors: [{keys: [model], fallbackPolicy: %s}]}
"""
ASKED = "{openInference: {}}"


@pytest.mark.parametrize(
    ("models", "rule", "not_loaded", "why"),
    [
        (ASKED, "", "ANY_ENDPOINT", "notLoaded is ANY_ENDPOINT"),
        (ASKED, "DEFAULT_SUBSET", "DEFAULT_SUBSET", "notLoaded is DEFAULT_SUBSET"),
        (ASKED, "", "FALLBACK_MODEL, fallbackModel: m", "notLoaded is FALLBACK_MODEL"),
        (ASKED, "ANY_ENDPOINT", "", "the selector on the key in DestinationRule ml/models says ANY_ENDPOINT"),
        (
            ASKED,
            "DEFAULT_SUBSET",
            "",
            "the selector on the key in DestinationRule ml/models says DEFAULT_SUBSET",
        ),
        (ASKED, "NO_FALLBACK", "", ""),
        (ASKED, "NO_FALLBACK", "UNAVAILABLE", ""),
        (
            "{modelMesh: }",
            "",
            "",
            "notLoaded is left out, so that any replica of a ModelMesh may load a model",
        ),
        ("{modelMesh: }", "", "NO_FALLBACK", ""),
        ("{modelMesh: }", "NO_FALLBACK", "", ""),
    ],
)
def test_unknown_models_cannot_be_told_apart_where_a_miss_goes_to_a_replica(
    tmp_path, models, rule, not_loaded, why
):
    service = SERVICE
    if "modelMesh" in models:
        models = "{modelMesh: {etcd: {connectionFile: /etc/etcd_connection}}}"
        service = re.sub(r"(address: [\d.]+)", r"\1, labels: {xds-server.dev/pod: p-1}", SERVICE)
    missed = f"notLoaded: {not_loaded}, " if not_loaded else ""
    text = pool(f"host: models\nsubsetKey: model\nmodels: {models}\nonMiss: {{{missed}unknown: NOT_FOUND}}")
    documents = [service, text, *([document("DestinationRule", RULE % rule)] if rule else [])]
    if not why:
        assert load(tmp_path, *documents).pools[0].misses.unknown is Choice.NOT_FOUND
        return
    (error,) = errors(tmp_path, *documents)
    assert f"spec.onMiss.unknown: found NOT_FOUND, while {why}: a name that nobody knows goes to" in error


@pytest.mark.parametrize(
    ("written", "layout"),
    [
        ("", PoolLayout()),
        ("layout: {type: single}", PoolLayout(LayoutKind.SINGLE)),
        ("layout: {type: sharded}", PoolLayout(LayoutKind.SHARDED)),
        ("layout: {type: sharded, shards: auto}", PoolLayout(LayoutKind.SHARDED)),
        ("layout: {type: sharded, shards: 16}", PoolLayout(LayoutKind.SHARDED, 16)),
        ("layout: {budget: 2ms}", PoolLayout(budget=0.002)),
        ("layout: {type: perModel}", PoolLayout(LayoutKind.PER_MODEL)),
    ],
)
def test_layouts(tmp_path, written, layout):
    (compiled,) = load(
        tmp_path, SERVICE, pool(f"host: models\nmodels: {{openInference: {{}}}}\n{written}")
    ).pools
    assert compiled.layout == layout
