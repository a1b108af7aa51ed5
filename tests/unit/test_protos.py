"""The definitions in protos/ compile, and the seed's request is what they say it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

ROOT = Path(__file__).parents[2]
DESCRIPTORS = ROOT / "xds_server" / "resources" / "open_inference.pb"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> descriptor_pool.DescriptorPool:
    out = tmp_path_factory.mktemp("protos") / "set.pb"
    protos = ROOT / "protos"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", "--include_imports"]
    subprocess.run([*command, f"--descriptor_set_out={out}", "open_inference.proto"], check=True, cwd=protos)
    assert out.read_bytes() == DESCRIPTORS.read_bytes(), "run `make protos`"
    made = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        made.Add(file)
    return made


def test_the_seeds_request_is_the_json_form_of_a_model_infer_request(
    pool: descriptor_pool.DescriptorPool,
) -> None:
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelInferRequest"))
    text = (ROOT / "tests/data/seed/infer-payload.json").read_text()
    (tensor,) = json_format.Parse(text, kind()).inputs
    assert list(tensor.shape) == [1, 784]
    assert tensor.datatype == "FP32"
    sent = json.loads(text)["inputs"][0]["contents"]["fp32_contents"]
    assert list(tensor.contents.fp32_contents) == pytest.approx(sent)


def test_the_service_has_inference_and_the_repository(pool: descriptor_pool.DescriptorPool) -> None:
    service = pool.FindServiceByName("inference.GRPCInferenceService")
    assert {"ModelInfer", "ModelReady", "RepositoryIndex", "RepositoryModelLoad"} <= set(
        service.methods_by_name
    )
