"""What holds for every document: references, the envelope, files, durations."""

import pytest
from config_texts import SERVICE, document, errors, load, pool, route
from hypothesis import given
from hypothesis import strategies as st

from xds_server.config.documents.base import parse_duration
from xds_server.config.loader import document_files, load_directory
from xds_server.mesh.pools import DEFAULT_SUBSET_KEY

SELECTOR = f"""\
trafficPolicy:
  loadBalancer:
    dynamicSubset: {{subsetSelectors: [{{keys: [{DEFAULT_SUBSET_KEY}]}}]}}
"""


class TestReferences:
    @pytest.mark.parametrize(
        ("defined", "referred", "meant"),
        [
            (["models", "models.ml.svc.cluster.local"], "models", "models"),
            (
                ["models.ml.svc.cluster.local", "models.svc.cluster.local"],
                "models",
                "models.ml.svc.cluster.local",
            ),
            (["models.ml.svc.cluster.local"], "models.ml", "models.ml.svc.cluster.local"),
            (["models.x.svc.cluster.local"], "models.x", "models.x.svc.cluster.local"),
        ],
    )
    def test_a_host_is_looked_for_as_kubernetes_would(self, tmp_path, defined, referred, meant):
        service = SERVICE.replace("[models]", f"[{', '.join(defined)}]")
        configuration = load(
            tmp_path,
            service,
            document("DestinationRule", f"host: {referred}\n{SELECTOR}"),
            pool(f"host: {referred}\nmodels: {{openInference: {{}}}}"),
            route(f"route: [{{destination: {{host: {referred}}}}}]"),
        )
        assert [policy.host for policy in configuration.policies] == [meant]
        assert [compiled.host for compiled in configuration.pools] == [meant]
        assert configuration.virtual_services[0].routes[0].destinations[0].host == meant

    def test_another_namespace_is_not_looked_in(self, tmp_path):
        service = SERVICE.replace("[models]", "[models.other.svc.cluster.local]")
        (error,) = errors(tmp_path, service, document("DestinationRule", "host: models"))
        assert 'found "models", which no ServiceEntry defines' in error


def item(text: str) -> str:
    """A document indented as an item of a List."""
    return text.replace("\n", "\n    ").rstrip()


class TestEnvelope:
    @pytest.mark.parametrize("version", ["v1alpha3", "v1beta1", "v1"])
    def test_istios_versions(self, tmp_path, version):
        load(tmp_path, SERVICE.replace("networking.istio.io/v1", f"networking.istio.io/{version}"))

    def test_what_a_cluster_adds_is_ignored(self, tmp_path):
        text = SERVICE.replace(
            "metadata: {name: models, namespace: ml}",
            """\
metadata:
  name: models
  namespace: ml
  labels: {app: a}
  annotations: {a/b: c}
  generation: 3
  uid: 5f0c
  resourceVersion: "12"
  creationTimestamp: 2026-01-02T03:04:05Z
  managedFields: [{manager: kubectl}]
  ownerReferences: []
  finalizers: []
status: {conditions: [{type: Reconciled}]}""",
        )
        assert load(tmp_path, text) == load(tmp_path, SERVICE)

    def test_the_namespace_is_default_unless_given(self, tmp_path):
        text = SERVICE.replace(", namespace: ml", "")
        assert load(tmp_path, text).services[0].namespace == "default"

    def test_a_list_is_its_items(self, tmp_path):
        rule = document("DestinationRule", "host: models")
        items = "".join(f"  - {item(text)}\n" for text in (SERVICE, rule))
        listed = load(tmp_path, f"apiVersion: v1\nkind: List\nmetadata: {{}}\nitems:\n{items}")
        assert listed == load(tmp_path, SERVICE, rule)

    def test_a_problem_in_a_list_names_the_item(self, tmp_path):
        broken = item(SERVICE.replace("8033", "0"))
        (error,) = errors(tmp_path, f"apiVersion: v1\nkind: List\nitems:\n  - {broken}\n")
        assert error.startswith(
            "documents.yaml:10: document 1 (ServiceEntry ml/models), items[0].spec.ports[0]"
        )

    def test_anchors_and_merges_are_followed(self, tmp_path):
        text = SERVICE.replace(
            "[{address: 10.0.0.1, ports: {http: 9001}}, {address: 10.0.0.2}]",
            "[&one {address: 10.0.0.1, ports: {http: 9001}}, {<<: *one, address: 10.0.0.2}]",
        )
        assert [str(endpoint.id) for endpoint in load(tmp_path, text).endpoints] == [
            "10.0.0.1:9001",
            "10.0.0.2:9001",
        ]


class TestFiles:
    def test_only_the_directorys_own_visible_yaml_files_are_read(self, tmp_path):
        for name in ("b.yaml", "a.yml", ".hidden.yaml", "notes.txt", "c.yaml~"):
            (tmp_path / name).write_text("")
        (tmp_path / "sub.yaml").mkdir()
        (tmp_path / "sub.yaml" / "d.yaml").write_text("")
        assert [file.name for file in document_files(tmp_path)] == ["a.yml", "b.yaml"]

    def test_a_mounted_configmap_is_read_once(self, tmp_path):
        (tmp_path / "..2026_01").mkdir()
        (tmp_path / "..2026_01" / "a.yaml").write_text(SERVICE)
        (tmp_path / "..data").symlink_to("..2026_01")
        (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
        loaded = load_directory(tmp_path)
        assert loaded.problems == ()
        assert len(loaded.configuration.services) == 1

    def test_a_byte_order_mark_and_empty_documents_are_skipped(self, tmp_path):
        (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbf---\n# nothing\n---\n" + SERVICE.encode() + b"---\n")
        assert load_directory(tmp_path).problems == ()

    def test_documents_are_counted_with_the_empty_ones(self, tmp_path):
        (error,) = errors(tmp_path, "---\n# empty\n", SERVICE.replace("8033", "0"))
        assert error.startswith("documents.yaml:10: document 2 ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("1.5s", 1.5),
        ("100ms", 0.1),
        ("1m30s", 90),
        ("0s", 0),
        ("1h", 3600),
        ("1h1m1s1ms", 3661.001),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "10", "10 s", "-1s", "1e3s", "1s ", ".5s", "1.s", "1d", "1S", "1s,2s", "x1s"]
)
def test_what_is_no_duration(text):
    assert parse_duration(text) is None


@given(hours=st.integers(0, 100), minutes=st.integers(0, 59), milliseconds=st.integers(0, 59_999))
def test_a_duration_is_the_sum_of_its_terms(hours, minutes, milliseconds):
    text = f"{hours}h{minutes}m{milliseconds}ms"
    assert parse_duration(text) == pytest.approx(hours * 3600 + minutes * 60 + milliseconds / 1000)
