"""deploy/ renders with kubectl itself, and what it renders fits together."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

from xds_server import cli
from xds_server.config.clients import load_clients
from xds_server.config.crd import model_pool_crd
from xds_server.config.documents.model_pool import ModelPoolSpec
from xds_server.config.gateway_api import CONTROLLER
from xds_server.config.objects import DOCUMENTS_LABEL, unit_of_config_map
from xds_server.config.problems import Place
from xds_server.config.shape import shape_part
from xds_server.sources.kubernetes.kinds import ALL, GATEWAY_CLASSES
from xds_server.sources.kubernetes.servers import LEASES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBECTL = Path(sys.prefix) / "kubectl" / "kubectl"
OVERLAYS = ["overlays/all-namespaces", "overlays/one-namespace", "overlays/namespaces"]
EXAMPLES = ["examples/triton", "examples/modelmesh"]
EVERYTHING = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [overlays/all-namespaces]
components:
  - components/gateway-api
  - components/cert-manager
  - components/modelmesh-etcd
  - components/own-zone
"""

WATCHED = {("", "services"), ("", "pods"), ("discovery.k8s.io", "endpointslices")} | {
    (kind.resource.group, kind.resource.plural) for kind in ALL
}
WRITTEN = {(kind.resource.group, f"{kind.resource.plural}/status") for kind in ALL if kind.status}
CLUSTER_WIDE = (GATEWAY_CLASSES.resource.group, GATEWAY_CLASSES.resource.plural)


def kustomize(directory: Path) -> list[dict]:
    assert KUBECTL.is_file(), f"{KUBECTL} is not there: `make test` installs it"
    done = subprocess.run([KUBECTL, "kustomize", directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@cache
def rendered(name: str) -> list[dict]:
    return kustomize(DEPLOY / name)


def everything(tmp_path: Path) -> list[dict]:
    """The overlay with every component in it."""
    subprocess.run(["cp", "-r", f"{DEPLOY}/.", tmp_path], check=True)
    (tmp_path / "kustomization.yaml").write_text(EVERYTHING)
    return kustomize(tmp_path)


def of_kind(objects, kind, name=None):
    return [o for o in objects if o["kind"] == kind and name in (None, o["metadata"]["name"])]


def one(objects, kind, name):
    (found,) = of_kind(objects, kind, name)
    return found


def workloads(objects):
    return [o for o in objects if o["kind"] in ("Deployment", "StatefulSet")]


def pod_of(workload):
    return workload["spec"]["template"]


def containers(workload):
    return pod_of(workload)["spec"]["containers"]


@pytest.mark.parametrize("name", [*OVERLAYS, *EXAMPLES])
def test_names_are_unique_and_namespaces_given(name):
    keys = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in rendered(name)]
    assert len(keys) == len(set(keys))
    cluster = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    for kind, namespace, _ in keys:
        assert (namespace is None) == (kind in cluster), kind


@pytest.mark.parametrize("name", [*OVERLAYS, "examples/triton"])
def test_selectors_and_ports_match_the_pods(name):
    objects = rendered(name)
    pods = [(o["metadata"]["namespace"], pod_of(o)) for o in workloads(objects)]
    for workload in workloads(objects):
        labels = pod_of(workload)["metadata"]["labels"].items()
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels
        for spread in pod_of(workload)["spec"].get("topologySpreadConstraints", ()):
            assert spread["labelSelector"]["matchLabels"].items() <= labels
    for o in objects:
        if o["kind"] not in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            continue
        spec = o["spec"]
        selector = {
            "Service": lambda s: s["selector"],
            "PodDisruptionBudget": lambda s: s["selector"]["matchLabels"],
            "NetworkPolicy": lambda s: s["podSelector"]["matchLabels"],
        }[o["kind"]](spec)
        chosen = [
            pod
            for namespace, pod in pods
            if namespace == o["metadata"]["namespace"]
            and selector.items() <= pod["metadata"]["labels"].items()
        ]
        assert len(chosen) == 1, o["metadata"]["name"]
        names = {port["name"] for c in chosen[0]["spec"]["containers"] for port in c["ports"]}
        wanted = {port["targetPort"] for port in spec.get("ports", ())} | {
            port["port"] for rule in spec.get("ingress", ()) for port in rule["ports"]
        }
        assert wanted <= names, (o["kind"], o["metadata"]["name"])


@pytest.mark.parametrize("name", [*OVERLAYS, "examples/triton"])
def test_pods_are_restricted(name):
    for workload in workloads(rendered(name)):
        spec = pod_of(workload)["spec"]
        security = spec["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["runAsUser"] > 0
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            inner = container["securityContext"]
            assert inner["readOnlyRootFilesystem"] is True
            assert inner["allowPrivilegeEscalation"] is False
            assert inner["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert "readinessProbe" in container


@pytest.mark.parametrize("name", OVERLAYS)
def test_everything_that_is_referred_to_is_there(name):
    objects = rendered(name)
    maps = {o["metadata"]["name"]: o for o in of_kind(objects, "ConfigMap")}
    accounts = {o["metadata"]["name"] for o in of_kind(objects, "ServiceAccount")}
    used = set()
    for workload in workloads(objects):
        spec = pod_of(workload)["spec"]
        assert spec["serviceAccountName"] in accounts
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        for container in spec["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
            for argument in container["args"]:
                for path in re.findall(r"(/[a-z]+/[\w./-]+)", argument):
                    mount = next(
                        m for m in container["volumeMounts"] if path.startswith(m["mountPath"] + "/")
                    )
                    source = volumes[mount["name"]]
                    if "configMap" in source:
                        assert Path(path).name in maps[source["configMap"]["name"]]["data"]
                    else:
                        assert Path(path).name in ("tls.crt", "tls.key", "ca.crt")
        used |= {volume["configMap"]["name"] for volume in volumes.values() if "configMap" in volume}
    assert used == set(maps)


def test_two_servers_with_their_probes_and_options_that_exist():
    server = one(rendered(OVERLAYS[0]), "Deployment", "xds-server")
    assert server["spec"]["replicas"] == 2
    (container,) = containers(server)
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["path"] in ("/healthz", "/readyz")
        assert container[probe]["httpGet"]["port"] == "probes"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    help_text = subprocess.run(
        [sys.executable, "-m", "xds_server", "serve", "--help"], capture_output=True, text=True, check=True
    ).stdout
    for overlay in OVERLAYS:
        (container,) = containers(one(rendered(overlay), "Deployment", "xds-server"))
        for argument in container["args"][1:]:
            assert argument.partition("=")[0] in help_text, argument
    numbers = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert f"--xds=0.0.0.0:{numbers['xds']}" in container["args"]
    assert f"--probes=0.0.0.0:{numbers['probes']}" in container["args"]
    assert "--admin=127.0.0.1:19000" in container["args"]


def test_the_gateway_is_sent_to_the_server_with_an_identity_that_is_let_in(tmp_path):
    objects = everything(tmp_path)
    maps = {re.sub("-[0-9a-z]{10}$", "", o["metadata"]["name"]): o for o in of_kind(objects, "ConfigMap")}
    bootstrap = yaml.safe_load(maps["envoy-bootstrap"]["data"]["envoy.yaml"])
    (cluster,) = bootstrap["static_resources"]["clusters"]
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    host = address["socket_address"]["address"]
    name, namespace, _ = host.split(".")
    service = one(objects, "Service", name)
    assert service["metadata"]["namespace"] == namespace
    assert address["socket_address"]["port_value"] in [port["port"] for port in service["spec"]["ports"]]
    assert host in one(objects, "Certificate", "xds-server-tls")["spec"]["dnsNames"]
    clients = tmp_path / "clients.yaml"
    clients.write_text(maps["xds-server-clients"]["data"]["clients.yaml"])
    loaded = load_clients(clients)
    assert not loaded.problems
    (entry,) = yaml.safe_load(clients.read_text())
    assert entry["identity"] in one(objects, "Certificate", "envoy-tls")["spec"]["dnsNames"]
    assert bootstrap["node"]["cluster"] in entry["clusters"]
    secrets = {o["spec"]["secretName"] for o in of_kind(objects, "Certificate")}
    mounted = {
        volume["secret"]["secretName"]
        for workload in workloads(objects)
        for volume in pod_of(workload)["spec"]["volumes"]
        if "secret" in volume
    }
    assert mounted - secrets == {"model-serving-etcd"}


def test_the_gateway_drains_before_it_is_ended():
    objects = rendered(OVERLAYS[0])
    pod = pod_of(one(objects, "Deployment", "envoy-gateway"))["spec"]
    (container,) = pod["containers"]
    command = container["lifecycle"]["preStop"]["exec"]["command"]
    (bootstrap,) = [o for o in of_kind(objects, "ConfigMap") if "envoy.yaml" in o["data"]]
    admin = yaml.safe_load(bootstrap["data"]["envoy.yaml"])["admin"]["address"]["socket_address"]
    assert f"/dev/tcp/{admin['address']}/{admin['port_value']};" in command[-1]
    assert "POST /healthcheck/fail" in command[-1]
    assert 60 <= int(command[-1].rpartition("sleep ")[2]) < pod["terminationGracePeriodSeconds"] - 5


def test_the_bootstrap_is_what_the_command_prints(capsys):
    line = re.search(r"bootstrap ([^>]*?) > deploy/base/envoy.yaml", (ROOT / "Makefile").read_text())
    assert cli.main(["bootstrap", *line[1].replace("\\\n", " ").split()]) == 0
    assert capsys.readouterr().out == (DEPLOY / "base" / "envoy.yaml").read_text(), "run `make crd`"


def test_what_the_gateway_is_told_of_its_zone_is_what_the_command_prints(tmp_path, capsys):
    gateway = pod_of(one(everything(tmp_path), "Deployment", "envoy-gateway"))["spec"]["containers"][0]
    assert [each["name"] for each in gateway["env"]] == ["POD_NAME", "ZONE"]
    field = gateway["env"][1]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.labels['topology.kubernetes.io/zone']"
    option, text = gateway["args"][-2:]
    assert option == "--config-yaml"
    told = yaml.safe_load(text)
    cli.main(["bootstrap", "--zone", "$(ZONE)"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert told["node"]["locality"] == printed["node"]["locality"]
    assert told["cluster_manager"] == printed["cluster_manager"]
    # Envoy appends these to the clusters of its bootstrap.
    assert told["static_resources"]["clusters"] == printed["static_resources"]["clusters"][1:]


def test_the_network_lets_envoys_in_and_nobody_to_the_probes_by_default():
    objects = rendered(OVERLAYS[0])
    policy = one(objects, "NetworkPolicy", "xds-server")["spec"]
    gateway = pod_of(one(objects, "Deployment", "envoy-gateway"))["metadata"]["labels"]
    by_port = {rule["ports"][0]["port"]: rule["from"] for rule in policy["ingress"]}
    assert set(by_port) == {"xds", "probes"}
    for port, expected in (("xds", True), ("probes", False)):
        (peer,) = by_port[port]
        assert (peer["podSelector"]["matchLabels"].items() <= gateway.items()) is expected


def granted(role, verb):
    return {
        (group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        if verb in rule["verbs"]
    }


def verbs(roles):
    return {verb for role in roles for rule in role["rules"] for verb in rule["verbs"]}


@pytest.mark.parametrize("name", OVERLAYS)
def test_permissions_are_exactly_what_is_used(name):
    objects = rendered(name)
    where = {
        OVERLAYS[0]: [("ClusterRole", None)],
        OVERLAYS[1]: [("Role", "models")],
        OVERLAYS[2]: [("Role", "team-a"), ("Role", "team-b")],
    }[name]
    roles = [o for o in objects if o["kind"] in ("Role", "ClusterRole")]
    reading = [role for role in roles if role["metadata"]["name"] == "xds-server-documents"]
    assert [(role["kind"], role["metadata"].get("namespace")) for role in reading] == where
    for role in reading:
        assert granted(role, "list") == granted(role, "watch") == WATCHED - {CLUSTER_WIDE}
        assert granted(role, "patch") == {w for w in WRITTEN if w[1] != "gatewayclasses/status"}
        assert verbs([role]) == {"list", "watch", "patch"}
    (leases,) = [role for role in roles if role not in reading]
    assert (leases["kind"], leases["metadata"]["namespace"]) == ("Role", "xds-system")
    assert granted(leases, "patch") == {(LEASES.group, LEASES.plural)}
    assert verbs([leases]) == {"create", "patch", "list", "delete"}


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_role_is_bound_to_the_server(name):
    objects = rendered(name)
    for role in (o for o in objects if o["kind"] in ("Role", "ClusterRole")):
        binding = next(
            o
            for o in objects
            if o["kind"] == f"{role['kind']}Binding"
            and o["metadata"].get("namespace") == role["metadata"].get("namespace")
            and o["roleRef"]["name"] == role["metadata"]["name"]
        )
        assert binding["roleRef"]["kind"] == role["kind"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "xds-server", "namespace": "xds-system"}
        ]


def test_gateway_classes_need_a_right_of_their_own(tmp_path):
    objects = everything(tmp_path)
    role = one(objects, "ClusterRole", "xds-server-gateway-classes")
    assert granted(role, "list") == granted(role, "watch") == {CLUSTER_WIDE}
    assert one(objects, "GatewayClass", "xds-server")["spec"]["controllerName"] == CONTROLLER
    (container,) = containers(one(objects, "Deployment", "xds-server"))
    assert "/modelmesh-etcd" in [mount["mountPath"] for mount in container["volumeMounts"]]


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_brings_the_crd(name):
    crd = one(rendered(name), "CustomResourceDefinition", "modelpools.xds-server.dev")
    assert crd["spec"] == model_pool_crd()["spec"]
    server = one(rendered(name), "Deployment", "xds-server")
    names = [arg for arg in containers(server)[0]["args"] if arg.startswith("--namespace")]
    expected = {OVERLAYS[0]: [], OVERLAYS[1]: ["models"], OVERLAYS[2]: ["team-a", "team-b"]}[name]
    assert names == [f"--namespace={namespace}" for namespace in expected]


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_are_documents_without_a_mistake(name):
    objects = rendered(name)
    (pool,) = of_kind(objects, "ModelPool")
    _, problems = shape_part(Place("", 0), "spec", ModelPoolSpec, pool["spec"])
    assert not problems, [str(problem) for problem in problems]
    for value in of_kind(objects, "ConfigMap"):
        assert value["metadata"]["labels"][DOCUMENTS_LABEL] == "true"
        assert not unit_of_config_map(value).problems


def test_the_triton_example_is_reached_on_the_gateways_port():
    """The pool has no route, so its gateway listens on the ports of its Service."""
    service = one(rendered("examples/triton"), "Service", "triton")
    (container,) = containers(one(rendered(OVERLAYS[0]), "Deployment", "envoy-gateway"))
    assert [port["port"] for port in service["spec"]["ports"]] == [
        port["containerPort"] for port in container["ports"]
    ]


def test_every_file_is_used():
    used = set()
    for kustomization in DEPLOY.rglob("kustomization.yaml"):
        content = yaml.safe_load(kustomization.read_text())
        named = [*content.get("resources", ()), *content.get("components", ())]
        named += [patch["path"] for patch in content.get("patches", ()) if "path" in patch]
        named += [file for each in content.get("configMapGenerator", ()) for file in each["files"]]
        for name in named:
            path = (kustomization.parent / name).resolve()
            assert path.exists(), path
            used.add(path / "kustomization.yaml" if path.is_dir() else path)
    roots = {DEPLOY / name / "kustomization.yaml" for name in [*OVERLAYS, *EXAMPLES]}
    components = set((DEPLOY / "components").rglob("kustomization.yaml"))
    assert {file for file in DEPLOY.rglob("*") if file.is_file()} == used | roots | components
