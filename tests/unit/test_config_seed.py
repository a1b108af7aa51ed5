"""The manifests that the project must take unchanged: their bytes, and what they mean."""

import hashlib
import shutil
from pathlib import Path

import pytest

import xds_server
from xds_server.config.loader import load_directory
from xds_server.mesh.implied import complete
from xds_server.mesh.model import Endpoint, EndpointId, Protocol, Service, ServicePort
from xds_server.mesh.policies import Fallback, Policy, Selector
from xds_server.mesh.pools import OpenInference, Pool
from xds_server.mesh.request import Naming, RequestNames
from xds_server.mesh.routing import (
    Destination,
    Gateway,
    GatewayServer,
    HeaderToKey,
    Route,
    RouteMatch,
    VirtualService,
)

SEED = Path(__file__).parents[1] / "data" / "seed"
DEMO = Path(xds_server.__file__).parent / "demo" / "documents"
SHA256 = {
    "destination-rule.yaml": "6f9370b5f5a18d4a6aa26e48e4a9261a9c904c418af8a86eb03ab42bad35ea1e",
    "virtual-service.yaml": "881214479bb1315f2e8f840f701ca61f6d5a6bd0274f0d1f75d2ce66443fd149",
    "infer-payload.json": "28c5180b335a73b6ab811f5241997a0e04a3cb0a8db81ad7a964a362932d6464",
}
KEY = "modelmesh.asm.alibabacloud.com"
NAME = "modelmesh-serving/modelmesh-serving"

BESIDE_THEM = """\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: modelmesh-serving, namespace: modelmesh-serving}
spec:
  hosts: [modelmesh-serving]
  resolution: STATIC
  ports: [{number: 8033, name: http, protocol: HTTP}]      # GRPC or HTTP2: HTTP/2 upstream
  endpoints:
    - {address: 127.0.0.1, ports: {http: 9001, rest: 9101}, labels: {zone: a}}
---
apiVersion: xds-server.dev/v1alpha1
kind: ModelPool
metadata: {name: modelmesh-serving, namespace: modelmesh-serving}
spec:
  host: modelmesh-serving
  subsetKey: modelmesh.asm.alibabacloud.com
  models:
    openInference: {port: rest, scheme: http, interval: 1s, timeout: 2s}   # absent: the traffic port
"""


@pytest.mark.parametrize("name", SHA256)
@pytest.mark.parametrize("directory", [SEED, DEMO], ids=["tests", "demo"])
def test_the_seeds_files_are_byte_for_byte_what_they_were(directory, name):
    assert hashlib.sha256((directory / name).read_bytes()).hexdigest() == SHA256[name]


@pytest.fixture
def directory(tmp_path):
    for name in ("destination-rule.yaml", "virtual-service.yaml"):
        shutil.copyfile(SEED / name, tmp_path / name)
    (tmp_path / "services.yaml").write_text(BESIDE_THEM)
    return tmp_path


def test_the_seeds_manifests_load_beside_a_service_and_a_pool(directory):
    loaded = load_directory(directory)
    assert loaded.problems == ()
    configuration = loaded.configuration
    assert configuration.services == (
        Service("modelmesh-serving", "modelmesh-serving", (ServicePort(8033, "http", Protocol.HTTP),)),
    )
    assert configuration.endpoints == (
        Endpoint(
            EndpointId("modelmesh-serving", "127.0.0.1", 9001), {"http": 9001, "rest": 9101}, {"zone": "a"}
        ),
    )
    assert configuration.policies == (
        Policy(
            NAME, "modelmesh-serving", selectors=(Selector((KEY,), Fallback.ANY_ENDPOINT),), default_subset={}
        ),
    )
    assert configuration.pools == (
        Pool(NAME, "modelmesh-serving", OpenInference("rest", "http", 1.0, 2.0), KEY),
    )
    assert configuration.gateways == ()


def test_the_gateway_that_the_seed_refers_to_is_implied_on_its_port(directory):
    routing = complete([load_directory(directory).configuration])
    name = "modelmesh-serving/vs-modelmesh-serving-service"
    assert routing.gateways == (
        Gateway("modelmesh-serving/grpc-gateway", (GatewayServer(8008, "http-8008"),), None, implied_by=name),
    )
    assert routing.virtual_services == (
        VirtualService(
            name=name,
            hosts=("*",),
            gateways=("modelmesh-serving/grpc-gateway",),
            routes=(
                Route(
                    name="default",
                    matches=(RouteMatch(port=8008),),
                    destinations=(Destination("modelmesh-serving", 8033),),
                    header_to_key=(HeaderToKey("model", KEY),),
                    naming=Naming(RequestNames(), (KEY,), hosts=("modelmesh-serving",)),
                ),
            ),
        ),
    )
    assert routing.policies["modelmesh-serving"].implied_by is None
